"""Datasets of reasoning-gym: references by own arithmetic, splits that share nothing, refusals."""

import json
import random
import re
from typing import Any

import pytest

from fastdistill_ray.records import Problem
from fastdistill_ray.tasks import TaskKnobs, load_problems
from fastdistill_ray.tasks.reasoning_gym import (
    COMPARED,
    NUMBERS,
    ORDER,
    PREFIX,
    REFUSED,
    SEEDS_PER_SPLIT,
    TRIES,
)
from fastdistill_ray.verifiers import Judge, VerifierKnobs


def gym(dataset: str, **knobs: Any) -> dict[str, list[Any]]:
    pytest.importorskip("reasoning_gym", reason="its dependencies need a C compiler")
    counts = {"num_train": 150, "num_validation": 20, "num_test": 60, **knobs}
    return load_problems(TaskKnobs(name=f"{PREFIX}{dataset}", **counts))


def test_reasoning_gym_references_are_the_sums_and_no_question_is_in_two_splits():
    settings = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}
    splits = gym("chain_sum", settings=settings)
    problems = [problem for members in splits.values() for problem in members]
    for problem in problems:
        first, sign, second = problem.question.partition(": ")[2].split()[:3]
        total = int(first) + int(second) if sign == "+" else int(first) - int(second)
        assert int(problem.reference) == total, problem.question
        assert (problem.kind, problem.task) == ("number", "reasoning_gym:chain_sum")
    assert len({problem.question for problem in problems}) == len(problems) == 230
    assert gym("chain_sum", settings=settings) == splits
    more = gym("chain_sum", settings=settings, num_train=300)
    assert more["test"] == splits["test"]
    assert more["train"][:150] == splits["train"]


def test_reasoning_gym_neighbouring_seeds_share_almost_nothing():
    first, second = (gym("gsm_symbolic", seed=seed) for seed in (0, 1))
    shared = questions(first) & questions(second)
    assert len(shared) < 5, "the package's own neighbouring seeds share all items but one"


def questions(splits: dict[str, list[Any]]) -> set[str]:
    return {problem.question for members in splits.values() for problem in members}


def test_reasoning_gym_kinds_follow_the_answers():
    assert {problem.kind for problem in gym("gcd", num_train=20)["train"]} == {"number"}
    assert {one.kind for one in gym("spell_backward", num_train=20)["train"]} == {"scored"}


def verdict(judge: Judge, problem: Problem, answer: str) -> str:
    judged = judge.judge(
        problem.kind, f"<answer>{answer}</answer>", problem.reference, scorer=problem.scorer
    )
    return judged.verdict


def changed(answer: str, rng: random.Random) -> list[str]:
    """The answer written otherwise, and other answers."""
    at = rng.randrange(len(answer))
    other = rng.choice([letter for letter in "0123456789abcABC#" if letter != answer[at]])
    written = [
        answer[:at] + other + answer[at + 1 :],
        *(answer[:at] + answer[at + 1 :], answer[:at] + answer[at] + answer[at:]),
        *(answer.upper(), answer.lower(), answer[::-1], answer.replace(" ", "")),
        *("\n".join(answer.split("\n")[::-1]), ", ".join(answer.split(", ")[::-1])),
        *(answer.replace("\n", " "), answer.replace(", ", ","), "nan", "[NaN]", "0", "[]", "{}"),
    ]
    return [one.strip() for one in written if one.strip()]


def assert_judged_as_by_its_dataset(name: str) -> None:
    """Against the library's own verdict on the item as it was drawn, asked in this process."""
    gym_library = pytest.importorskip("reasoning_gym", reason="its dependencies need a C compiler")
    problems = gym(name, num_train=6, num_validation=0, num_test=1)["train"]
    rng, num_right = random.Random(name), 0
    train = ORDER.index("train") * SEEDS_PER_SPLIT
    dataset = gym_library.create_dataset(name, size=TRIES * 6 + 100, seed=train)
    with Judge(VerifierKnobs()) as judge:
        for problem in problems:
            seed = int(problem.problem_id.rpartition("/")[2])
            item = dataset[seed % SEEDS_PER_SPLIT]
            assert item["question"].strip() == problem.question
            assert verdict(judge, problem, problem.reference) == "correct"
            boxed = judge.judge(
                problem.kind,
                rf"So: \boxed{{\text{{{problem.reference}}}}}",
                problem.reference,
                scorer=problem.scorer,
            )
            assert boxed.verdict == "correct", boxed
            for answer in changed(problem.reference, rng):
                if name in COMPARED:  # their scorers run what is not equal as code
                    accepted = item["metadata"].get("valid_answers", [item["answer"].strip()])
                    is_right = answer in accepted
                elif name == "countdown" and not re.fullmatch(r"[-+*/() 0-9]+", answer):
                    is_right = False
                else:
                    try:
                        is_right = dataset.score_answer(answer, item) == 1
                    except (ValueError, KeyError, OverflowError, TypeError):
                        is_right = False
                if problem.kind == "number":
                    answer = answer.removeprefix("$")
                    is_right = as_number(answer) == as_number(problem.reference) is not None
                found = verdict(judge, problem, answer)
                assert (found == "correct") == is_right, (problem.reference, answer, found)
                assert found not in ("error", "timeout")
                num_right += is_right
    assert num_right < 6 * 16


def as_number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None


FEW = ["advanced_geometry", "arc_agi", "countdown", "gsm_symbolic", "n_queens"]


@pytest.mark.parametrize("name", FEW)
def test_answers_are_judged_as_by_their_dataset(name):
    assert_judged_as_by_its_dataset(name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_answers_of_every_dataset_are_judged_as_by_it_or_it_is_refused():
    gym_library = pytest.importorskip("reasoning_gym", reason="its dependencies need a C compiler")
    everything = set(gym_library.factory.DATASETS)
    assert {*REFUSED, *NUMBERS, *COMPARED} < everything
    for name in sorted(everything - set(REFUSED)):
        assert_judged_as_by_its_dataset(name)


def test_many_right_answers_are_right_and_none_is_run_as_code(tmp_path):
    pytest.importorskip("reasoning_gym", reason="its dependencies need a C compiler")
    entry = {"answer": "4 + 6", "metadata": {"numbers": [4, 6], "target": 10}}
    scorer = json.dumps({"dataset": "countdown", "settings": {}, "entry": entry})
    problem = Problem("p", "t", "train", "q", "4 + 6", "scored", scorer=scorer)
    planted = tmp_path / "planted"
    code = f"__import__('pathlib').Path('{planted}').touch()"
    said = {"4 + 6": "correct", "6 + 4": "correct", "(6)+4": "correct", "5 + 5": "wrong"}
    said |= {code: "unparsable", "4 + 6 + 0**9**9": "unparsable", "10": "wrong"}
    with Judge(VerifierKnobs()) as judge:
        assert {answer: verdict(judge, problem, answer) for answer in said} == said
    assert not planted.exists()


def test_a_scorer_is_asked_with_the_settings_of_the_recipe():
    """decimal_arithmetic takes what is off by one unit of the last place that is asked for."""
    settings = {"min_num_decimal_places": 2, "max_num_decimal_places": 2}
    (problem,) = gym("decimal_arithmetic", settings=settings, num_train=1, num_test=0)["train"]
    off = f"{float(problem.reference) + 0.009:.3f}"
    other = {**json.loads(problem.scorer), "settings": {"max_num_decimal_places": 5}}
    with Judge(VerifierKnobs()) as judge:
        assert verdict(judge, problem, off) == "correct"
        strict = Problem(**{**vars(problem), "scorer": json.dumps(other)})
        assert verdict(judge, strict, off) == "wrong"


@pytest.mark.parametrize(
    ("dataset", "knobs", "message"),
    [
        ("no_such", {}, "task.name reasoning_gym:no_such: reasoning-gym says: .*not registered"),
        ("chain_sum", {"settings": {"x": 1}}, "unexpected keyword argument 'x'"),
        ("chain_sum", {"settings": {"min_terms": 9, "max_terms": 2}}, "max_terms must be"),
        ("chain_sum", {"path": "x.jsonl"}, "task.path: reasoning_gym:chain_sum is made, not read"),
        ("chain_sum", {"num_train": None}, "give num_train$"),
        ("propositional_logic", {}, "cannot be judged: its items have no reference answer$"),
        ("puzzle24", {}, "task.name: reasoning_gym:puzzle24 cannot be judged: its scorer takes"),
        (
            "chain_sum",
            {"settings": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}},
            "task.num_train: .* ask for fewer",
        ),
    ],
)
def test_reasoning_gym_bad_request_is_one_line(dataset, knobs, message):
    with pytest.raises(ValueError, match=message) as error:
        gym(dataset, **knobs)
    assert "\n" not in str(error.value)
