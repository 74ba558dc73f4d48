"""A user's own reward function: what it is given, and that no failure of it becomes a number."""

import itertools
import os
import time
from pathlib import Path

import psutil
import pytest

from fastdistill_ray.recipe.loading import dump_recipe, load_recipe
from fastdistill_ray.rewards import RewardKnobs, Scorer
from fastdistill_ray.rewards.functions import FunctionKnobs
from fastdistill_ray.rewards.scorer import Answered, scores_without_number

SLEEP = f"sleep {10**6 + os.getpid()}"  # of this run of the tests
SOURCE = """
import os, signal, sys, time

calls = []

def brevity(completion):
    calls.append(1)
    return 1 - completion["num_tokens"] / 100

def fields(completion):
    print("what is printed is no answer")
    known = "text question reference kind verdict answer num_tokens finish_reason".split()
    return float(sorted(completion) == sorted(known))

def troubled(completion):
    text = completion["text"]
    if text == "raise": raise KeyError("no such thing")
    if text == "none": return None
    if text == "text": return "1.0"
    if text == "nan": return float("nan")
    if text == "exit": sys.exit(0)
    if text == "die": os._exit(0)
    if text == "hang":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            try: time.sleep(10**6)
            except BaseException: pass
    if text == "spawn":
        os.system("SLEEP &")
        time.sleep(10**6)
    if text == "memory": return len("x" * 2**33)
    return True
"""


def answered(text: str, num_tokens: int = 10) -> Answered:
    return Answered(text, num_tokens, "stop", "6*7?", "number", "42", "correct", "42")


def knobs(tmp_path: Path, function: str, **changes: float) -> RewardKnobs:
    (tmp_path / "mine.py").write_text(SOURCE.replace("SLEEP", SLEEP))
    path = f"{tmp_path / 'mine.py'}:{function}"
    weights = {"cosine": 0.0, "format": 0.0, "mine": 1.0}
    return RewardKnobs(functions={"mine": {"path": path, **changes}}, weights=weights)


def test_function_scores_every_completion_in_one_process(tmp_path: Path) -> None:
    with Scorer(knobs(tmp_path, "brevity")) as scorer:
        scores = scorer.score([answered("a", n) for n in (0, 25, 100, 300)])
    assert [one.values["mine"] for one in scores] == [1.0, 0.75, 0.0, -2.0]
    assert [one.reward for one in scores] == [1.0, 0.75, 0.0, -2.0]


def test_function_gets_the_named_fields_and_may_print(tmp_path: Path) -> None:
    with Scorer(knobs(tmp_path, "fields")) as scorer:
        assert scorer.score([answered("x" * 300_000)])[0].reward == 1.0


def test_function_that_counts_and_gives_no_number_is_named_with_its_reason(tmp_path: Path) -> None:
    reward = knobs(tmp_path, "troubled", time_limit=1e-9)
    assert scores_without_number(reward, answered("fine")) == [], "it has time to load"
    (line,) = scores_without_number(reward, answered("none"))
    assert line.startswith("reward.functions.mine: of 'none', an answer to '6*7?', it gives no")
    assert line.endswith("TypeError: returned None, not a number")
    stored = reward.model_copy(update={"weights": {"format": 1.0, "mine": 0.0}})
    assert scores_without_number(stored, answered("none")) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise", "KeyError: 'no such thing'"),
        ("none", "TypeError: returned None, not a number"),
        ("text", "TypeError: returned '1.0', not a number"),
        ("nan", "ValueError: returned nan"),
        ("exit", "SystemExit"),
        ("die", "its process died"),
        ("memory", "out of memory"),
        ("hang", "no answer in 0.5 s"),
        ("spawn", "no answer in 0.5 s"),
    ],
)
def test_function_failure_is_no_reward_and_the_next_is_scored(
    tmp_path: Path, text: str, reason: str
) -> None:
    # What hangs would do so for days. A limit that ends it may pass on a busy machine anyway.
    limit = 0.5 if "0.5 s" in reason else 200.0
    reward = knobs(tmp_path, "troubled", time_limit=limit, memory_limit_gib=1.0)
    with Scorer(reward) as scorer:
        scorer.check()
        failed = scorer.score([answered(text)])[0]
        assert failed.values["mine"] is None
        assert failed.reward is None
        assert failed.fault.startswith(f"score mine: {reason}")
        again = (scorer.score([answered("fine")])[0] for _ in itertools.count())
        assert next(one for one in again if "no answer in 0.5 s" not in one.fault).reward == 1.0
    here = psutil.Process(os.getpid())
    assert not [child for child in here.children() if "function_worker" in str(child.cmdline())]
    while SLEEP.split() in [p.info["cmdline"] for p in psutil.process_iter(["cmdline"])]:
        time.sleep(0.05)  # killed, and gone in a moment


def test_function_failure_without_weight_leaves_the_reward(tmp_path: Path) -> None:
    reward = knobs(tmp_path, "troubled").model_copy(update={"weights": {"format": 1.0, "mine": 0}})
    with Scorer(reward) as scorer:
        (scores,) = scorer.score([answered("raise")])
    assert scores.values == {"format": 0.0, "mine": None}
    assert (scores.reward, scores.fault) == (0.0, "")


def test_function_file_that_fails_to_load_is_told_before_any_work(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("import not_installed\ndef f(completion): return 1\n")
    reward = RewardKnobs(functions={"mine": f"{file}:f"}, weights={"mine": 1.0})
    with Scorer(reward) as scorer, pytest.raises(ValueError) as error:
        scorer.check()
    assert str(error.value).startswith(f"reward.functions.mine: {file} does not load: ModuleNot")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{file}", "reward.functions.mine: expected FILE.py:FUNCTION"),
        ("{folder}/none.py:f", "none.py cannot be read"),
        ("{file}:g", "defines no 'g'; it defines: f"),
        ("{folder}/broken.py:f", "broken.py is not Python"),
    ],
)
def test_function_in_a_recipe_is_checked_when_it_is_parsed(
    tmp_path: Path, value: str, message: str
) -> None:
    (tmp_path / "good.py").write_text("def f(completion):\n    return 1\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    value = value.format(file=tmp_path / "good.py", folder=tmp_path)
    with pytest.raises(ValueError) as error:
        load_recipe("jobs/recipes/demo_full.yaml", [f"--reward.functions.mine={value}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_recipe_carries_the_function_so_that_it_runs_where_its_file_is_not(tmp_path: Path) -> None:
    file = tmp_path / "good.py"
    file.write_text('def f(completion):\n    return 0.5  # "a", \\n\n')
    recipe = load_recipe(
        "jobs/recipes/demo_full.yaml",
        [f"--reward.functions.mine={file}:f", "--reward.weights={cosine: 1, mine: 2}"],
    )
    written = tmp_path / "recipe.yaml"
    written.write_text(dump_recipe(recipe))
    file.unlink()
    again = load_recipe(str(written), [])
    assert again == recipe
    with Scorer(again.reward) as scorer:
        assert scorer.score([answered("x", 2048)])[0].values["mine"] == 0.5


def test_function_may_not_take_a_built_in_name(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("def f(completion):\n    return 1\n")
    function = FunctionKnobs(path=f"{tmp_path / 'good.py'}:f", source="def f(one): return 1")
    with pytest.raises(ValueError, match="cosine is the name of a built-in score"):
        RewardKnobs(functions={"cosine": function})
