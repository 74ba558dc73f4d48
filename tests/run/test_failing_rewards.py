"""Rewards of a run on Ray: too many failures stop it, and what is committed is taken along."""

import re
from collections import Counter
from pathlib import Path

import pytest
from support.jobs import (
    lines_of,
    run_job,
    stage_folder,
    start_job,
    tail_of,
    tiny_recipe,
    write_recipe,
)
from support.models import make_tiny_model
from support.servers import Grader

from fastdistill_ray.groups.store import Store
from fastdistill_ray.run.rescoring import rescore_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FUNCTION = """
def mine(completion):
    if completion["verdict"] != "correct":
        raise ValueError("never seen this")
    return 1.0
"""


def completions_of(groups: Path) -> dict[str, list[dict]]:
    tables = Store(groups).tables()
    return {row["problem_id"]: row["completions"] for t in tables for row in t.to_pylist()}


def test_failing_reward_stops_generation_and_its_completions_go_on_under_another(tmp_path, head):
    (tmp_path / "mine.py").write_text(FUNCTION)
    recipe = tiny_recipe(
        make_tiny_model(str(tmp_path / "model")),
        task={"num_train": 120},
        reward={
            "functions": {"mine": f"{tmp_path / 'mine.py'}:mine"},
            "weights": {"cosine": 2.0, "mine": 1.0},
        },
        training={"max_steps": 2, "groups_per_step": 2},
    )
    run = tmp_path / "run"
    job = start_job("generate", write_recipe(tmp_path, recipe), run, head)
    assert job.wait() == 2, tail_of(run)
    output = Path(f"{run}.log").read_text()
    old = stage_folder(run, "groups")
    assert "error: reward.max_failed_share: " in output
    assert "score mine: ValueError: never seen this" in output
    (logs,) = re.findall(r"Logs of its workers: (\S+/logs), on each node", output)
    assert list(Path(logs).glob("raylet.out"))
    written = completions_of(old)
    assert 0 < len(written) < 120, "not only at the end"
    commits = list(Store(old).commits())
    verdicts = sum((Counter(commit.verdicts) for commit in commits), Counter())
    assert verdicts.total() == 4 * len(written)
    assert verdicts["error"] > 4, "not on the first"

    with Grader(hold=2) as endpoint:
        grader = f"{{url: '{endpoint.url}', model: grader, max_concurrency: 4}}"
        _, new = rescore_run(
            str(run),
            [
                *("--reward.functions={}", f"--reward.llm_judge={grader}"),
                "--reward.weights={cosine: 2.0, format: 1.0, llm_judge: 1.0}",
            ],
        )
        asked = len(endpoint.requests)
        run_job("generate", run / "recipe.yaml", run, head)
        assert asked < len(endpoint.requests) <= 480
        assert 2 <= endpoint.most_running <= 4
    assert completions_of(old) == written, "nothing of it is changed"
    groups = completions_of(new)
    assert len(groups) == 120
    for problem_id, before in written.items():
        texts = [[one["text"] for one in group] for group in (before, groups[problem_id])]
        assert texts[0] == texts[1], "the teacher is not asked again"
    for one in (one for group in groups.values() for one in group):
        scores = {score["name"]: score["value"] for score in one["scores"]}
        assert scores["llm_judge"] == pytest.approx(0.7)
        total = 2 * scores["cosine"] + scores["format"] + 0.7
        assert one["reward"] == pytest.approx(total)
    run_job("train", run / "recipe.yaml", run, head)
    steps = lines_of(stage_folder(run, "train") / "steps.jsonl")
    assert [len(step["group_ids"]) for step in steps] == [2, 2]
