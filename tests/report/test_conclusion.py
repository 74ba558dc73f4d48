from pathlib import Path
from typing import Any

import pytest

from fastdistill_ray.evaluation.statistics import Difference, Estimate
from fastdistill_ray.report.conclusion import conclusion, outcome, points, problems_in
from fastdistill_ray.report.reading import Results

RECIPE = {
    "objective": {"kind": "advdistill"},
    "teacher": {"model": "org/big", "prompt": {"shots": []}},
    "student": {"model": "org/small"},
    "compare": {
        "baselines": ["base_plain", "base", "teacher"],
        "students": [{"kind": "sft", "name": "", "model": "", "group_size": None}],
    },
}


def results_where(
    advdistill: Estimate, sft: Estimate, difference: Difference, rival: str = "sft"
) -> Results:
    rows = {("advdistill", "test", "accuracy"): advdistill, (rival, "test", "accuracy"): sft}
    return Results(rows, {("advdistill", rival, "test", "accuracy"): difference}, {})


def gap(value: float, low: float, high: float, p_holm: float = 0.01) -> Difference:
    return Difference(value, low, high, 200, 200, p_holm / 2, p_holm)


def measure(value: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value, low, high, 200, 200)


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (
            gap(-0.035, -0.09, 0.02, 0.4),
            "No difference can be shown from the SFT baseline (71.0 %, -3.5 points).",
        ),
        (
            gap(0.04, 0.01, 0.07, 0.05),
            "No difference can be shown from the SFT baseline (71.0 %, +4.0 points).",
        ),
        (
            gap(-0.12, -0.2, -0.04, 0.0008),
            "It is worse than the SFT baseline (71.0 %, -12.0 points).",
        ),
        (
            gap(0.1, 0.02, 0.18, 0.012),
            "It beats the SFT baseline (71.0 %, +10.0 points).",
        ),
    ],
)
def test_conclusion_against_sft_says_beats_only_where_holms_p_does(
    difference: Difference, sentence: str
) -> None:
    results = results_where(measure(0.675, 0.607, 0.736), measure(0.71), difference)
    first, second = conclusion(results, RECIPE)
    start = "On 200 test problems AdvDistill solves 67.5 % (95 % interval 60.7 to 73.6)."
    assert first == f"{start} {sentence}"
    assert "p is below 0.05 after adjustment for the only comparison of accuracies (Holm)" in second


def test_conclusion_names_all_of_whom_the_same_can_be_said_in_one_sentence() -> None:
    shares = {"base": 0.2, "teacher": 0.5, "sft": 0.58, "advdistill": 0.6}
    rows = {(model, "test", "accuracy"): measure(share) for model, share in shares.items()}
    gaps = {
        ("advdistill", model, "test", "accuracy"): gap(0.6 - shares[model], -0.1, 0.5, p_holm)
        for model, p_holm in (("base", 0.001), ("teacher", 0.2), ("sft", 0.9))
    }
    assert conclusion(Results(rows, gaps, {}), RECIPE)[0] == (
        "On 200 test problems AdvDistill solves 60.0 %. It beats the base student (20.0 %, +40.0 "
        "points). No difference can be shown from the teacher (50.0 %, +10.0 points) and the SFT "
        "baseline (58.0 %, +2.0 points)."
    )


def test_conclusion_says_over_how_many_seeds_it_is_the_mean() -> None:
    rows = {("advdistill", "test", "accuracy"): measure(0.5, 0.4, 0.6)}
    seeds = {("advdistill", "test", seed): measure(0.5) for seed in (1, 2, 5)}
    (text,) = conclusion(Results(rows, {}, {}, seeds=seeds), RECIPE)
    assert "solves 50.0 % on average over 3 seeds (95 % interval 40.0 to 60.0)." in text


def test_problems_that_are_drawn_together_are_named_as_clusters() -> None:
    assert problems_in(Estimate(0.5, 0.4, 0.6, 2400, 300), "ood") == (
        "2,400 ood problems in 300 clusters"
    )
    assert problems_in(measure(0.5)) == "200 problems"


def test_conclusion_run_without_a_student_says_so() -> None:
    results = Results({("base", "test", "accuracy"): measure(0.2)}, {}, {})
    assert conclusion(results, RECIPE) == ["No student of this run has been evaluated yet."]


def test_conclusion_same_folder_by_two_names_is_prompt_distillation(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    teacher, student = str(tmp_path / "link"), f"{tmp_path}/model/"
    recipe: dict[str, Any] = {
        "objective": {"kind": "advdistill"},
        "teacher": {"model": teacher, "prompt": {"shots": [{}]}},
        "student": {"model": student},
        "compare": RECIPE["compare"],
    }
    results = results_where(measure(0.5), measure(0.2), gap(0.3, 0.2, 0.4), rival="teacher")
    lines = conclusion(results, recipe)
    assert "It beats the few-shot teacher (20.0 %, +30.0 points)" in lines[0]
    assert lines[-1].endswith("this is prompt distillation.")


def test_conclusion_measures_against_the_better_of_the_two_bases() -> None:
    shares = {"base_plain": 0.3, "base": 0.2, "advdistill": 0.6}
    rows = {(model, "test", "accuracy"): measure(share) for model, share in shares.items()}
    gaps = {
        ("advdistill", model, "test", "accuracy"): gap(0.6 - shares[model], 0.1, 0.5)
        for model in ("base_plain", "base")
    }
    first, second = conclusion(Results(rows, gaps, {}), RECIPE)
    assert "beats the base student with a plain prompt (30.0 %, +30.0 points)" in first
    assert "20.0 %" not in first
    assert "adjustment for all 2 comparisons" in second


@pytest.mark.parametrize(
    ("value", "p_holm", "expected"),
    [
        (0.1, 0.049, "better"),
        (-0.1, 0.049, "worse"),
        (0.1, 0.05, "unclear"),
        (0.1, None, "unclear"),
    ],
)
def test_outcome_holms_p_decides(value: float, p_holm: float | None, expected: str) -> None:
    """Whatever the unadjusted interval says, here that the difference is above 0."""
    assert outcome(Difference(value, 0.01, 0.2, 200, 200, 0.01, p_holm)) == expected


def test_points_tiny_negative_has_no_negative_zero() -> None:
    assert [points(value) for value in (-0.0001, 0.0, 0.0349, None)] == [
        "+0.0",
        "+0.0",
        "+3.5",
        "\u2013",
    ]


@pytest.mark.parametrize("kind", ["forward_kl", "topk_kl"])  # a live teacher, and what is stored
@pytest.mark.parametrize(("low", "is_said"), [(0.81, True), (0.62, False)])
def test_conclusion_says_where_verified_texts_are_worth_more_than_their_teacher(low, is_said, kind):
    recipe = RECIPE | {"objective": {"kind": kind}}
    rows = {
        ("forward_kl", "test", "accuracy"): measure(0.6, 0.53, 0.66),
        ("sft", "test", "accuracy"): measure(0.87, low, 0.91),
        ("teacher", "test", "accuracy"): measure(0.595, 0.53, 0.66),
    }
    difference = gap(-0.27, -0.35, -0.2)
    given = Results(rows, {("forward_kl", "sft", "test", "accuracy"): difference}, {})
    found = " ".join(conclusion(given, recipe))
    said = "SFT on best completion (87.0 %) is above the teacher itself (59.5 %) on test problems"
    assert (said in found) == is_said
    entry = {**recipe["compare"]["students"][0], "on": "all"}
    unverified = recipe | {"compare": recipe["compare"] | {"students": [entry]}}
    results = Results(rows, {("forward_kl", "sft", "test", "accuracy"): difference}, {})
    assert "above the teacher itself" not in " ".join(conclusion(results, unverified))
    others = {
        ("advdistill", *key[1:]) if key[0] == "forward_kl" else key: one
        for key, one in rows.items()
    }
    assert said not in " ".join(conclusion(Results(others, {}, {}), RECIPE))
