import itertools
import json
import math
import random
from typing import Any

import numpy as np
import pytest

from fastdistill_ray.evaluation.metrics import (
    COMPARED,
    METRICS,
    accuracy_by_part,
    by_problem,
    compare_rows,
    estimate,
    paired_difference,
    pass_at_k,
    summarize,
    unbiased_pass_at_k,
    verbosity_ratio,
)
from fastdistill_ray.evaluation.statistics import wilson
from fastdistill_ray.text import count_loops, rep_n

LOOP = "so the answer is 4 "


def make_row(
    problem_id: str, verdict: str = "correct", lenient: str = "", k: int = 0, **changes: Any
) -> dict[str, Any]:
    row = {
        "problem_id": problem_id,
        "split": "test",
        "cluster": "",
        "training_seed": 0,
        "k": k,
        "text": "one two three",
        "num_tokens": 10,
        "finish_reason": "stop",
        "verdict": verdict,
        "lenient_verdict": lenient or verdict,
        "format_think": True,
        "format_answer": True,
        "format_box": True,
        "format_whole": True,
    }
    row |= changes
    text = row.pop("text")
    return {**row, "rep_4": rep_n(text, 4), "num_loops": count_loops(text)}


def value_of(results: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    (row,) = [row for row in results if row["metric"] == metric]
    return row


@pytest.mark.parametrize(("n", "expected"), [(4, 7 / 12), (3, 8 / 13), (16, 0.0)])
def test_rep_n_of_phrase_said_three_times_is_that_of_the_reference(n: int, expected: float) -> None:
    assert rep_n(LOOP * 3, n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("", 0),
        ("all words here differ from each other", 0),
        (LOOP * 2, 0),
        (LOOP * 3, 1),
        (LOOP * 9, 1),
        ("well " + LOOP * 3 + "or not " + "I do not know this " * 4, 2),
        ("one two three " * 3, 0),  # a phrase of three words, nine words in all
        ("one two three " * 6, 1),  # a phrase of six words three times
        ("a " * 11, 0),
        ("a " * 12, 1),
        ("a b a b a b a b c", 0),
        ("so the answer is 4 " * 2 + "so the answer is 5", 0),
    ],
)
def test_count_loops_of_hand_made_texts(text: str, loops: int) -> None:
    assert count_loops(text) == loops


def test_count_loops_of_random_texts_is_positive_where_brute_force_finds_a_loop() -> None:
    rng = random.Random(0)
    found = 0
    for _ in range(2000):
        phrase = rng.choices("ab", k=rng.randint(1, 7)) * rng.randint(1, 4)
        words = rng.choices("ab", k=rng.randint(0, 9)) + phrase + rng.choices("ab", k=5)
        expected = any(
            words[start : start + length] * 3 == words[start : start + 3 * length]
            for start in range(len(words))
            for length in range(4, len(words) // 3 + 1)
        )
        assert (count_loops(" ".join(words)) > 0) == expected, words
        found += expected
    assert 100 < found < 1900


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # (0.5 + z^2/20 -+ z sqrt(0.025 + z^2/400)) / (1 + z^2/10) with z^2 = 3.841459
        (5, 10, 0.2366, 0.7634),
    ],
)
def test_wilson_equals_published_and_hand_computed_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    result = wilson(successes, trials)
    assert result.value == successes / trials
    assert (result.low, result.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_solve_the_score_equation() -> None:
    result = wilson(67, 200)
    for end in (result.low, result.high):
        assert end is not None
        assert (0.335 - end) ** 2 == pytest.approx(3.841458821 * end * (1 - end) / 200)


@pytest.mark.parametrize("n", [1, 4, 7])
def test_unbiased_pass_at_k_equals_brute_force_over_subsets(n: int) -> None:
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        completions = [True] * correct + [False] * (n - correct)
        subsets = [any(subset) for subset in itertools.combinations(completions, k)]
        expected = sum(subsets) / len(subsets)
        assert unbiased_pass_at_k(n, correct, k) == pytest.approx(expected)


def test_unbiased_pass_at_k_of_more_than_n_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@8: needs at least 8 completions, there are 4"):
        unbiased_pass_at_k(4, 2, 8)


def test_verbosity_ratio_of_the_papers_lengths_is_the_papers() -> None:
    rows = [make_row("a", num_tokens=178.4), make_row("b", "wrong", num_tokens=343.0)]
    assert verbosity_ratio(by_problem(rows)).value == pytest.approx(1.9226457)


@pytest.mark.parametrize("verdict", ["correct", "wrong"])
def test_summarize_of_one_class_leaves_the_others_metrics_null(verdict: str) -> None:
    results = summarize([make_row("a", verdict), make_row("b", verdict)], "base", "test")
    empty = {"correct": "wrong", "wrong": "correct"}[verdict]
    for metric in ("verbosity_ratio", f"mean_tokens_{empty}", f"degenerate_rate_{empty}"):
        row = value_of(results, metric)
        assert (row["value"], row["low"], row["high"], row["num_problems"]) == (None, None, None, 0)


def test_summarize_of_hand_made_rows_gives_hand_computed_values() -> None:
    rows = [
        make_row("a", num_tokens=10),
        make_row("b", "unparsable", "correct", num_tokens=20, format_think=False),
        make_row(
            *("c", "wrong"),
            num_tokens=40,
            text=LOOP * 3,
            format_whole=False,
            finish_reason="repetition",
        ),
        make_row("d", "truncated", num_tokens=60, finish_reason="length", format_box=False),
        make_row("e", "wrong", split="ood", num_tokens=1000),
    ]
    results = summarize(rows, "advdistill", "test")
    expected = {
        "accuracy": 0.5,
        "strict_accuracy": 0.25,
        "template_adherence": 0.75,
        "template_think": 0.75,
        "template_answer": 1.0,
        "template_box": 0.75,
        "truncation_rate": 0.25,
        "loop_end_rate": 0.25,
        "verbosity_ratio": 4.0,
        "mean_tokens": 32.5,
        "mean_tokens_correct": 10.0,
        "mean_tokens_wrong": 40.0,
        "rep_4": 7 / 48,
        "rep_4_correct": 0.0,
        "rep_4_wrong": 7 / 36,
        "degenerate_rate": 0.25,
        "degenerate_rate_correct": 0.0,
        "degenerate_rate_wrong": 1 / 3,
        "mean_loops": 0.25,
        "mean_loops_correct": 0.0,
        "mean_loops_wrong": 1 / 3,
    }
    values = {row["metric"]: row["value"] for row in results}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    accuracy = value_of(results, "accuracy")
    assert accuracy == {
        "model": "advdistill",
        "split": "test",
        "metric": "accuracy",
        **wilson(2, 4)._asdict(),
    }
    assert value_of(results, "degenerate_rate_wrong")["high"] == wilson(1, 3).high
    json.dumps(results, allow_nan=False)


def test_summarize_of_split_without_rows_is_empty() -> None:
    assert summarize([make_row("a")], "base", "ood") == []


def test_summarize_with_n_of_4_gives_pass_at_k_and_accuracy_of_the_mean() -> None:
    verdicts = {"a": "ccww", "b": "wwww", "c": "cccc"}
    rows = [
        make_row(name, {"c": "correct", "w": "wrong"}[letter], k=k)
        for name, letters in verdicts.items()
        for k, letter in enumerate(letters)
    ]
    results = summarize(rows, "base", "test")
    assert value_of(results, "accuracy")["value"] == pytest.approx(0.5)
    assert value_of(results, "pass@2")["value"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert value_of(results, "pass@4")["value"] == pytest.approx(2 / 3)
    assert "pass@8" not in {row["metric"] for row in results}


def test_summarize_does_not_depend_on_the_order_of_rows() -> None:
    rng = random.Random(1)
    rows = [
        make_row(f"p{i}", rng.choice(["correct", "wrong"]), k=k, num_tokens=rng.randint(1, 99))
        for i in range(20)
        for k in range(2)
    ]
    shuffled = rng.sample(rows, len(rows))
    assert summarize(rows, "base", "test") == summarize(shuffled, "base", "test")


def test_summarize_with_a_completion_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="problem a: completion 0 appears twice"):
        summarize([make_row("a"), make_row("a", "wrong")], "base", "test")


def test_bootstrap_interval_of_a_mean_is_that_of_the_normal_limit() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 400)
    rows = [make_row(f"p{i:03}", num_tokens=int(length)) for i, length in enumerate(lengths)]
    result = estimate(by_problem(rows), METRICS["mean_tokens"])
    half = 1.96 * lengths.std() / math.sqrt(400)
    assert result.value == pytest.approx(lengths.mean())
    assert result.low == pytest.approx(lengths.mean() - half, abs=0.1 * half)
    assert result.high == pytest.approx(lengths.mean() + half, abs=0.1 * half)


def test_bootstrap_of_a_proportion_draws_problems_not_completions() -> None:
    # Completions of a problem agree: the interval is that of 100 problems, not 800 completions.
    rows = [
        make_row(f"p{i:02}", "correct" if i % 2 else "wrong", k=k)
        for i in range(100)
        for k in range(8)
    ]
    result = estimate(by_problem(rows), METRICS["accuracy"])
    assert result.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.012)
    assert result.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.012)
    assert result.num_problems == 100


@pytest.mark.parametrize(("verdict", "value"), [("correct", 1.0), ("wrong", 0.0)])
@pytest.mark.parametrize("num_problems", [1, 30])
def test_interval_of_a_proportion_that_is_the_same_everywhere_has_a_width(
    verdict: str, value: float, num_problems: int
) -> None:
    """Clopper and Pearson's end: of that share 2.5 % of all draws of P problems show no other."""
    rows = [make_row(f"p{i}", verdict, k=k) for i in range(num_problems) for k in range(4)]
    accuracy = estimate(by_problem(rows), METRICS["accuracy"])
    for result in (accuracy, pass_at_k(by_problem(rows), 2)):
        assert result.low is not None and result.high is not None
        assert result.value == value
        other = result.low if value else result.high
        assert value in (result.low, result.high)
        assert (1 - abs(value - other)) ** num_problems == pytest.approx(0.025)


def test_interval_of_one_of_two_everywhere_reaches_both_ways() -> None:
    rows = [make_row(f"p{i}", ["correct", "wrong"][k], k=k) for i in range(10) for k in range(2)]
    result = estimate(by_problem(rows), METRICS["accuracy"])
    half = 0.5 * (1 - 0.025**0.1)
    assert (result.low, result.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_paired_difference_of_1_everywhere_is_as_certain_as_a_sign_test() -> None:
    for num_problems in (2, 5, 6, 40):
        first = [make_row(f"p{i}") for i in range(num_problems)]
        second = [make_row(f"p{i}", "wrong") for i in range(num_problems)]
        found = paired_difference(first, second, "accuracy")
        assert (found.value, found.high) == (1.0, 1.0)
        assert found.p == pytest.approx(2 * 0.5**num_problems)
        assert (found.low > 0) == (found.p < 0.05)


def clustered_rows(sizes: list[int], seed: int) -> list[dict[str, Any]]:
    """Problems of a cluster mostly agree."""
    rng = random.Random(seed)
    rows = []
    for cluster, size in enumerate(sizes):
        chance = rng.choice([0.1, 0.9])
        for i in range(size):
            verdict = "correct" if rng.random() < chance else "wrong"
            rows.append(make_row(f"p{cluster}/{i}", verdict, cluster=f"c{cluster}"))
    return rows


def brute_force(rows: list[dict[str, Any]], minus: list[dict[str, Any]]) -> tuple[float, float]:
    """Clusters drawn one by one, and every row of them counted as often as they are drawn."""
    rng = random.Random(3)
    gains: dict[str, list[int]] = {}
    for row, other in zip(rows, minus, strict=True):
        gain = (row["verdict"] == "correct") - (other["verdict"] == "correct")
        gains.setdefault(row["cluster"], []).append(gain)
    means = []
    for _ in range(4000):
        drawn = [one for name in rng.choices(list(gains), k=len(gains)) for one in gains[name]]
        means.append(sum(drawn) / len(drawn))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def test_intervals_of_clustered_problems_are_those_of_drawing_whole_clusters() -> None:
    sizes = [1, 2, 3, 4] * 10
    first, second = clustered_rows(sizes, 0), clustered_rows(sizes, 1)
    nothing = [{**row, "verdict": "wrong"} for row in first]
    own = estimate(by_problem(first), METRICS["strict_accuracy"])
    gap = paired_difference(first, second, "strict_accuracy")
    assert (own.low, own.high) == pytest.approx(brute_force(first, nothing), abs=0.015)
    assert (gap.low, gap.high) == pytest.approx(brute_force(first, second), abs=0.02)
    assert (own.num_problems, own.num_clusters) == (100, 40)
    assert (gap.num_problems, gap.num_clusters) == (100, 40)
    alone = [{**row, "cluster": ""} for row in first]
    single = estimate(by_problem(alone), METRICS["strict_accuracy"])
    assert own.high - own.low > 1.3 * (single.high - single.low)


def test_four_variants_of_each_problem_narrow_no_interval() -> None:
    rng = random.Random(4)
    plain = [make_row(f"p{i}", rng.choice(["correct", "wrong"])) for i in range(50)]
    other = [make_row(f"p{i}", rng.choice(["correct", "wrong"])) for i in range(50)]

    def variants(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**row, "problem_id": f"{row['problem_id']}/{i}", "cluster": row["problem_id"]}
            for row in rows
            for i in range(4)
        ]

    gaps = [paired_difference(plain, other, "accuracy")]
    gaps.append(paired_difference(variants(plain), variants(other), "accuracy"))
    assert (gaps[1].low, gaps[1].high) == pytest.approx((gaps[0].low, gaps[0].high), abs=1e-9)
    alone = estimate(by_problem(plain), METRICS["accuracy"])
    found = estimate(by_problem(variants(plain)), METRICS["accuracy"])
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.06)
    assert found.num_clusters == alone.num_problems == 50


def test_paired_difference_is_the_difference_of_means_and_narrower_than_unpaired() -> None:
    rng = random.Random(2)
    rows_a, rows_b = [], []
    for i in range(200):
        verdict = rng.choice(["correct", "wrong"])
        rows_a.append(make_row(f"p{i}", "correct" if i % 10 == 0 else verdict))
        rows_b.append(make_row(f"p{i}", verdict))
    result = paired_difference(rows_a, list(reversed(rows_b)), "accuracy")
    a, b = (estimate(by_problem(rows), METRICS["accuracy"]) for rows in (rows_a, rows_b))
    assert result.value == pytest.approx(a.value - b.value)
    gains = [
        (x["verdict"] == "correct") - (y["verdict"] == "correct")
        for x, y in zip(rows_a, rows_b, strict=True)
    ]
    half = 1.96 * np.std(gains) / math.sqrt(200)
    assert result.low == pytest.approx(result.value - half, abs=0.2 * half)
    assert result.high == pytest.approx(result.value + half, abs=0.2 * half)
    assert result.high - result.low < (b.high - b.low)
    assert result.num_problems == 200


def test_paired_difference_of_models_that_agree_everywhere_is_zero_but_not_for_certain() -> None:
    """The exact (Clopper-Pearson) upper end for 0 of 2 and of 200: 84.19 % and 1.828 %."""
    for num_problems, most in ((2, 0.8419), (200, 0.01828)):
        rows = [make_row(f"p{i}") for i in range(num_problems)]
        value, low, high, number, *_ = paired_difference(rows, rows, "strict_accuracy")
        assert (value, number) == (0.0, num_problems)
        assert (-low, high) == (pytest.approx(most, rel=1e-3), pytest.approx(most, rel=1e-3))


def test_paired_difference_is_over_the_problems_that_both_answered() -> None:
    both = [make_row("a"), make_row("b", "wrong")]
    more = [make_row("c", "wrong"), make_row("b"), make_row("a")]
    assert paired_difference(both, more, "strict_accuracy") == paired_difference(
        both, more[1:], "strict_accuracy"
    )
    assert paired_difference(both, more, "strict_accuracy").num_problems == 2
    with pytest.raises(ValueError, match="answered no problem in common"):
        paired_difference(both, more[:1], "strict_accuracy")


def test_paired_difference_of_metric_without_value_is_refused() -> None:
    rows = [make_row("a"), make_row("b", "wrong")]
    with pytest.raises(ValueError, match="some problems have no value"):
        paired_difference(rows, rows, "mean_tokens_wrong")


def test_accuracy_by_part_reads_the_part_from_the_id_and_knows_unanswerable_ones() -> None:
    rows = [
        make_row("t/a/0", "correct", reference="1"),
        make_row("t/a/1", "unparsable", "wrong", reference="2"),
        make_row("t/b/2", "unparsable", "correct", reference="None"),
        make_row("t/c/3", "correct", reference="1", split="ood"),
    ]
    found = accuracy_by_part(rows, "m", "test")
    assert [(row["part"], row["value"], row["num_problems"]) for row in found] == [
        ("a", 0.5, 2),
        ("b", 1.0, 1),
        ("all with an answer", 0.5, 2),
    ]
    assert (found[0]["low"], found[0]["high"]) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert accuracy_by_part(rows, "m", "ood") == [], "one sort needs no table"


def test_compare_rows_gives_one_difference_per_compared_metric() -> None:
    first = [make_row("a"), make_row("b"), make_row("c", "wrong", split="ood")]
    second = [make_row("a", "wrong", "correct"), make_row("b", "wrong")]
    results = compare_rows(first, second, model="advdistill", minus="sft", split="test")
    assert [row["metric"] for row in results] == list(COMPARED)
    assert [row["value"] for row in results] == [0.5, 1.0]
    assert set(results[0]) == {
        *("model", "minus", "split", "metric", "value", "low", "high"),
        *("num_problems", "num_clusters", "p", "p_holm"),
    }
    assert (results[0]["model"], results[0]["minus"]) == ("advdistill", "sft")
