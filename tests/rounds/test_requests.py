"""Which problem is written of in which round: passes are complete, every text has its own seed."""

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.groups import make_completion, make_group, write_store
from support.models import make_tiny_model
from support.requests import made_up_problems

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import EngineKnobs, SamplingKnobs
from fastdistill_ray.generation.vllm_engine import RELOAD_COLUMN
from fastdistill_ray.groups.steps import StepPlan
from fastdistill_ray.groups.store import Store
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import Judging, SelectionKnobs
from fastdistill_ray.rounds.policies import Policies
from fastdistill_ray.rounds.requests import ROUND, RoundRequests, draw_requests
from fastdistill_ray.rounds.write import Closed, Gate, Writing
from fastdistill_ray.run.rounds import Written, train_in_rounds, writer
from fastdistill_ray.run_files import MANIFEST, StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(str(tmp_path_factory.mktemp("models") / "a"))


def drawn(model: str, folder: Place, total: int, room: int = 10**6) -> RoundRequests:
    write_problems(made_up_problems(5), folder / "train.parquet")
    policies = Policies(folder / "policies", model, 1, 0, 1.0, model)
    file = ProblemFile(folder / "train.parquet")
    return draw_requests(file, total, policies, PromptKnobs(), 7, room)


def test_every_pass_has_each_problem_once_in_its_own_order_and_with_its_own_seeds(model, tmp_path):
    requests = drawn(model, Place(tmp_path), 12)
    keys = requests.ids()
    assert len(keys) == len(set(keys)) == 12
    passes = [[key.partition("@")[0] for key in keys[first : first + 5]] for first in (0, 5)]
    assert sorted(passes[0]) == sorted(passes[1]) and passes[0] != passes[1]
    assert [key.partition("@")[2] for key in keys] == ["1"] * 5 + ["2"] * 5 + ["3"] * 2
    rows = requests.take(np.arange(12)).to_pylist()
    assert len({row["seed"] for row in rows}) == 12
    questions = Counter(row["question"] for row in rows)
    assert max(questions.values()) == 3 and min(questions.values()) == 2
    assert drawn(model, Place(tmp_path), 12).ids() == keys, "the same after every restart"


def test_request_is_asked_of_the_student_that_is_newest_when_it_is_taken(model, tmp_path):
    requests = drawn(model, Place(tmp_path), 3)
    (row,) = requests.take(np.array([1])).to_pylist()
    assert (row[ROUND], row[RELOAD_COLUMN]) == (0, model)
    policies = requests.policies
    policies.publish(1, lambda folder: (folder / "weights").put(""), is_first=True)
    (row,) = requests.take(np.array([1])).to_pylist()
    assert (row[ROUND], row[RELOAD_COLUMN]) == (1, str(policies.place(1)))


def test_what_is_there_is_left_out_and_the_order_stays(model, tmp_path):
    requests = drawn(model, Place(tmp_path), 7)
    keys = requests.ids()
    assert requests.without({keys[0], keys[4], "another"}).ids() == [*keys[1:4], *keys[5:]]


def test_problem_whose_prompt_leaves_no_room_is_never_drawn(model, tmp_path):
    sizes = {
        row["problem_id"].partition("@")[0]: len(row["prompt_token_ids"])
        for row in drawn(model, Place(tmp_path), 5).take(np.arange(5)).to_pylist()
    }
    longest = max(sizes.values())
    fit = {key for key, size in sizes.items() if size < longest}
    found = drawn(model, Place(tmp_path), 9, longest - 1)
    assert {key.partition("@")[0] for key in found.ids()} == fit
    assert len(found) == (9 if fit else 0)
    assert found.num_too_long == 5 - len(fit) > 0 == drawn(model, Place(tmp_path), 9).num_too_long


def writing_of(max_failed_share: float) -> Writing:
    reward = RewardKnobs(max_failed_share=max_failed_share)
    judging = Judging(reward, AdvantageKnobs(), SelectionKnobs())
    pools = PoolKnobs(), PoolKnobs(), 60.0
    return Writing(EngineKnobs(), SamplingKnobs(n=8), judging, *pools, 4, None)


def all_written(requests: RoundRequests, folder: Path) -> Written:
    """With a group of every request in the folder."""
    write_store(folder, [make_group(key, [make_completion()]) for key in requests.ids()])
    plan = StepPlan(str(folder), 1, 1, None, 0, follow=True)
    return Written(writing_of(1.0), requests, requests.policies, plan)


@pytest.mark.parametrize("num_too_long", [0, 2])
def test_problems_that_are_never_written_of_are_counted_in_the_training(
    model, tmp_path, monkeypatch, num_too_long
):
    requests = replace(drawn(model, Place(tmp_path), 3), num_too_long=num_too_long)
    written = all_written(requests, tmp_path / "groups")
    monkeypatch.setattr("fastdistill_ray.run.rounds.train", lambda *_, **__: StageResult(1, 1))
    result = train_in_rounds(None, written, PoolKnobs(), out=Place(tmp_path))  # type: ignore[arg-type]
    assert result.facts["written_tokens"] == 3 * 3, "texts of 3 tokens"
    assert result.facts.get("prompt_too_long", 0) == num_too_long


def test_texts_are_complete_again_only_once_a_writer_that_is_started_anew_has_all(
    model, tmp_path, monkeypatch
):
    """Whoever reads them meanwhile waits for what is asked again."""
    written = all_written(drawn(model, Place(tmp_path), 3), tmp_path / "groups")
    store = Store(written.plan.folder)
    (store.folder / MANIFEST).put('{"requests": 3}')
    with writer(written, store.folder):
        pass
    assert store.is_complete(), "nothing is missing"
    found = []

    def write(writing: Writing, requests: RoundRequests, out: Place, closed: object) -> None:
        found.append(Store(out).is_complete())
        raise Closed

    monkeypatch.setattr("fastdistill_ray.run.rounds.write_rounds", write)
    with writer(written, store.folder):
        assert not store.is_complete()
    assert found == [False]


def test_writing_ends_as_soon_as_too_many_texts_could_not_be_judged(model, tmp_path):
    """Not once all rounds are written; what was committed before it started counts too."""
    requests, writing = drawn(model, Place(tmp_path), 12), writing_of(0.1)
    failed = [make_completion(verdict="error", reward=None, reason="no judge")] * 8
    store = write_store(tmp_path / "groups", [make_group("p0@1", failed)])
    gate = Gate(writing, requests, store, threading.Event())
    (first,) = store.commits()
    gate.note(first)  # 16 of at least 200
    with pytest.raises(UserError, match=r"24 of 24 .*no judge.*raise reward.max_failed_share and"):
        gate.note(first)
