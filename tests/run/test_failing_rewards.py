"""Rewards of a run on Ray: too many failures stop it, and what is committed is taken along."""

from collections import Counter
from pathlib import Path

import pytest
from support.jobs import lines_of, run_job, start_job, tail_of, tiny_recipe, write_recipe
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


def completions_of(run: Path) -> dict[str, list[dict]]:
    tables = Store(run / "stages" / "groups").tables()
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
    old, new = tmp_path / "old", tmp_path / "new"
    job = start_job("generate", write_recipe(tmp_path, recipe), old, head)
    assert job.wait() == 2, tail_of(old)
    output = Path(f"{old}.log").read_text()
    assert "error: reward.max_failed_share: " in output
    assert "score mine: ValueError: never seen this" in output
    written = completions_of(old)
    assert 0 < len(written) < 120, "not only at the end"
    commits = list(Store(old / "stages" / "groups").commits())
    verdicts = sum((Counter(commit.verdicts) for commit in commits), Counter())
    assert verdicts.total() == 4 * len(written)
    assert verdicts["error"] > 4, "not on the first"

    with Grader(hold=2) as endpoint:
        grader = f"{{base_url: '{endpoint.url}', model: grader, concurrency: 4}}"
        rescore_run(
            *(str(old), str(new)),
            [
                *("--reward.functions={}", f"--reward.llm_judge={grader}"),
                "--reward.weights={cosine: 2.0, format: 1.0, llm_judge: 1.0}",
            ],
        )
        asked = len(endpoint.requests)
        run_job("generate", new / "recipe.yaml", new, head)
        assert asked < len(endpoint.requests) <= 480
        assert 2 <= endpoint.most_running <= 4
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
    run_job("train", new / "recipe.yaml", new, head)
    steps = lines_of(new / "stages" / "train" / "advdistill" / "lr_0.001" / "steps.jsonl")
    assert [len(step["group_ids"]) for step in steps] == [2, 2]
