"""Groups taken from other stores: as they are, judged again, or with fewer completions."""

import numpy as np
import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.groups.accounting import store_result
from fastdistill_ray.groups.compaction import merge_files, replace_log, small_runs
from fastdistill_ray.groups.reweighting import (
    Source,
    judge_failed_again,
    num_missing,
    reselect,
    take_along,
)
from fastdistill_ray.groups.store import Store
from fastdistill_ray.records import Problem
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import Judging, SelectionKnobs, select_completions
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems


def group(key: str, verdicts: str, rewards: list[float]) -> dict:
    names = {"c": "correct", "w": "wrong"}
    completions = [
        make_completion(
            f"{key}{i}",
            seed=i,
            verdict=names[letter],
            answer="1",
            scores=[{"name": "cosine", "value": reward}],
            reward=reward,
            advantage=9.0,
        )
        for i, (letter, reward) in enumerate(zip(verdicts, rewards, strict=True))
    ]
    return make_group(key, completions)


def test_reselect_takes_three_filters_and_scores_them_anew(tmp_path):
    (tmp_path / "groups").mkdir()
    (tmp_path / "three").mkdir()
    rewards = [3.0, 1.0, 2.0, 0.5, 2.5, 0.0, 1.5, 0.1]
    rows = [group(f"g{i}", "cwcwwwww", rewards) for i in range(30)]
    write_store(tmp_path / "groups", rows, per_file=20)
    knobs = SelectionKnobs(group_size=3, seed=4)
    arguments = (tmp_path / "groups", knobs, AdvantageKnobs(eps=0.0))
    result = reselect(*arguments, out=tmp_path / "three")
    found = [row for table in Store(tmp_path / "three").tables() for row in table.to_pylist()]
    assert [row["problem_id"] for row in found] == [row["problem_id"] for row in rows]
    for row in found:
        key = row["problem_id"]
        chosen = select_completions([f"{key}{i}" for i in range(8)], knobs, key)
        kept = {i for i, one in enumerate(row["completions"]) if one["is_selected"]}
        assert kept == set(chosen)
        assert len(kept) == 3
        own = np.array([rewards[i] for i in chosen])
        expected = (own - own.mean()) / own.std()
        assert [row["completions"][i]["advantage"] for i in chosen] == pytest.approx(expected)
        assert (row["dropped"] == "") == bool(kept & {0, 2}), "one of the three must be correct"
        assert [one["text"] for one in row["completions"]] == [f"{key}{i}" for i in range(8)]
    num_kept = sum(not row["dropped"] for row in found)
    assert 0 < num_kept < 30
    assert (result.rows_in, result.rows_out) == (30, num_kept)
    assert result.set_aside == {"too_few_correct": 30 - num_kept}
    assert reselect(*arguments, out=tmp_path / "three") == result, "nothing is written twice"


def test_reselect_that_keeps_no_group_says_so(tmp_path):
    for folder in ("groups", "three"):
        (tmp_path / folder).mkdir()
    write_store(tmp_path / "groups", [group("g", "wwww", [0.0] * 4)])
    knobs = SelectionKnobs(group_size=3)
    with pytest.raises(ValueError, match=r"group_size: none of the groups is kept with 3"):
        reselect(tmp_path / "groups", knobs, AdvantageKnobs(), out=tmp_path / "three")


def answered(key: str, reference: str, *texts: str) -> dict:
    """A group whose judgements and reward are those of nobody's rules."""
    completions = [
        make_completion(f"\\boxed{{{text}}}", verdict="correct", reward=5.0) for text in texts
    ]
    return make_group(key, completions, question=f"{key}?", reference=reference)


@pytest.fixture
def problems(tmp_path):
    rows = [Problem(f"p{i}", "t", "train", f"p{i}?", "1", "number") for i in range(4)]
    write_problems(rows, tmp_path / "train.parquet")
    return ProblemFile(tmp_path / "train.parquet")


def stores(tmp_path, *names: str) -> list[Store]:
    return [Store(tmp_path / name) for name in names]


def test_groups_of_the_same_problems_are_taken_once_and_their_tokens_counted_nowhere(
    tmp_path, problems
):
    first, second, new = stores(tmp_path, "first", "second", "new")
    write_store(first.folder, [answered("p0", "1", "1", "2"), answered("p1", "2", "1", "2")])
    write_store(second.folder, [answered(key, "1", "1", "3") for key in ("p0", "p2", "gone")])
    sources = [Source(first.folder, "nothing"), Source(second.folder, "judgements")]
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs())
    take_along(sources, problems, judging, new)
    rows = {row["problem_id"]: row for t in new.tables() for row in t.to_pylist()}
    assert list(rows) == ["p0", "p1", "p2"]
    assert rows["p1"]["reference"] == "1"
    mended = [(one["verdict"], one["reward"] == 5.0) for one in rows["p1"]["completions"]]
    assert mended == [("correct", False), ("wrong", False)], "its reference was mended"
    assert [one["text"] for one in rows["p0"]["completions"]] == ["\\boxed{1}", "\\boxed{2}"]
    assert [one["reward"] for one in rows["p0"]["completions"]] == [5.0, 5.0]
    assert [one["verdict"] for one in rows["p2"]["completions"]] == ["correct", "wrong"]
    assert rows["p2"]["completions"][0]["reward"] != 5.0
    assert [commit.taken_from for commit in new.commits()] == ["first", "first", "second"]
    result = store_result(new, 4, {"missing": 1})
    assert (result.completion_tokens, result.prompt_tokens) == (0, 0)
    assert result.facts == {"reused_completion_tokens": 3 * 2 * 3}
    take_along(sources, problems, judging, new)
    assert list(new.keys()) == ["p0", "p1", "p2"], "nothing is taken twice"
    (new.folder / "log").remove_tree()  # as after a kill: written, not logged
    new.begin()
    assert store_result(new, 4, {"missing": 1}) == result


@pytest.mark.parametrize("what", ["missing", "altered"])
def test_groups_of_a_damaged_file_are_not_taken_along(tmp_path, problems, caplog, what):
    old, new = stores(tmp_path, "old", "new")
    write_store(old.folder, [answered(f"p{i}", "1", "1", "2") for i in range(4)], per_file=2)
    first, _ = old.commits()
    file = old.folder / first.file
    if what == "missing":
        file.unlink()
        assert num_missing([Source(old.folder, "nothing")], problems) == 2
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.put(bytes(data))
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs())
    take_along([Source(old.folder, "judgements")], problems, judging, new)
    assert sorted(new.keys()) == ["p2", "p3"]
    assert first.file in caplog.text and "not taken along" in caplog.text


def test_compaction_keeps_what_was_taken_apart_from_what_was_paid(tmp_path, problems):
    old, new = stores(tmp_path, "old", "new")
    write_store(old.folder, [answered(key, "1", "1", "2") for key in ("p0", "p1")])
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs())
    for key in ("p0", "p1"):  # a file each
        part = Source(old.folder, "nothing")
        write_problems([one for one in problems if one.problem_id == key], tmp_path / key)
        take_along([part], ProblemFile(tmp_path / key), judging, new)
    write_store(new.folder, [answered(key, "1", "1", "2") for key in ("p2", "p3")])
    before = store_result(new, 4, {})
    assert before.completion_tokens == 2 * 2 * 3
    runs = list(small_runs(new))
    replace_log(new, {run[0].file: merge_files(new, run) for run in runs})
    assert [(commit.keys, commit.taken_from) for commit in new.commits()] == [
        (["p0", "p1"], "old"),
        (["p2", "p3"], ""),
    ]
    assert store_result(new, 4, {}) == before


def test_selection_alone_leaves_judgements_as_they_are(tmp_path, problems):
    old, new = stores(tmp_path, "old", "new")
    write_store(old.folder, [answered("p0", "1", "1", "2", "3")])
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs(group_size=2))
    take_along([Source(old.folder, "selection")], problems, judging, new)
    ((row,),) = (table.to_pylist() for table in new.tables())
    assert [one["verdict"] for one in row["completions"]] == ["correct"] * 3
    assert sum(one["is_selected"] for one in row["completions"]) == 2


def test_completions_that_could_not_be_judged_are_judged_again_in_their_place(tmp_path):
    (store,) = stores(tmp_path, "groups")
    spoilt = answered("p0", "1", "1", "2")
    spoilt["completions"][1] |= {"verdict": "error", "reward": None, "is_selected": False}
    write_store(store.folder, [spoilt, answered("p1", "1", "1", "2")])
    before = list(store.commits())
    judge_failed_again(store, Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs()))
    after = list(store.commits())
    assert [(one.keys, one.time) for one in after] == [(one.keys, one.time) for one in before]
    assert [one.verdicts for one in after] == [{"correct": 1, "wrong": 1}, {"correct": 2}]
    parts = {one.name for one in store.folder.list() if one.name.startswith("part-")}
    assert parts == {one.file for one in after}
    (rows, others) = (table.to_pylist() for table in store.tables())
    assert [one["is_selected"] for one in rows[0]["completions"]] == [True, True]
    assert others[0]["completions"][0]["reward"] == 5.0, "a file without failures is as it was"
