"""Datasets of reasoning-gym: references by own arithmetic, splits that share nothing, refusals."""

from typing import Any

import pytest

from fastdistill_ray.tasks import TaskKnobs, load_problems


def gym(dataset: str, **knobs: Any) -> dict[str, list[Any]]:
    pytest.importorskip("reasoning_gym", reason="its dependencies need a C compiler")
    counts = {"num_train": 150, "num_validation": 20, "num_test": 60, **knobs}
    return load_problems(TaskKnobs(name=f"reasoning_gym:{dataset}", **counts))


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
    assert {problem.kind for problem in gym("spell_backward", num_train=20)["train"]} == {"text"}


@pytest.mark.parametrize(
    ("dataset", "knobs", "message"),
    [
        ("no_such", {}, "task.name reasoning_gym:no_such: reasoning-gym says: .*not registered"),
        ("chain_sum", {"settings": {"x": 1}}, "unexpected keyword argument 'x'"),
        ("chain_sum", {"settings": {"min_terms": 9, "max_terms": 2}}, "max_terms must be"),
        ("chain_sum", {"path": "x.jsonl"}, "task.path: reasoning_gym:chain_sum is made, not read"),
        ("chain_sum", {"num_train": None}, "give num_train$"),
        ("propositional_logic", {"num_test": 5}, "task.num_test: .* gave only 0 of 5"),
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
