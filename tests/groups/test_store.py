"""The store: nothing lost, nothing doubled, the same steps for every rank and after every kill."""

import threading
import time

import pyarrow as pa
import pytest
from support.groups import make_completion, make_group, make_table, write_store

from fastdistill_ray.groups.compaction import merge_files, replace_log, small_runs
from fastdistill_ray.groups.log import LOG, SupersededError
from fastdistill_ray.groups.steps import (
    RowReader,
    StepPlan,
    num_steps,
    rank_rows,
    read_index,
    steps,
)
from fastdistill_ray.groups.store import DAMAGED, Location, LogFollower, Store
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.held_out import held_out_rows


def group(problem_id: str, dropped: str = "") -> dict:
    return make_group(problem_id, [make_completion(problem_id)] * 2, dropped=dropped)


def table(*rows: dict) -> pa.Table:
    return make_table(rows)


def fill(folder, ids: list[str], per_file: int = 3) -> Store:
    return write_store(folder, [group(one) for one in ids], per_file=per_file)


def arrived(store: Store) -> list[Location]:
    return list(LogFollower(store).new())


def compact(store: Store) -> None:
    runs = list(small_runs(store))
    replace_log(store, {run[0].file: merge_files(store, run) for run in runs})


def finish(folder) -> None:
    (folder / "manifest.json").write_text("{}")


def test_store_commit_counts_tokens_and_keeps_order(tmp_path):
    store = Store(tmp_path)
    commit = store.write(table(group("b"), group("a", dropped="too_few_correct")))
    store.append([commit])
    assert commit.keys == ["b", "a"]
    assert (commit.num_tokens, commit.prompt_tokens) == (12, 10)
    assert arrived(store) == [Location("b", commit.file, 0)]
    assert store.num_kept() == 1


def test_store_recover_after_kill_between_file_and_log_finds_the_file(tmp_path):
    store = fill(tmp_path, ["a", "b"])
    store.write(table(group("c")))  # killed before the driver logged it
    torn = tmp_path / f".part-torn.parquet.{'a1' * 16}"
    torn.write_bytes(b"PAR1 half")  # killed while it wrote
    for _ in range(2):
        store.begin()
        assert list(store.keys()) == ["a", "b", "c"]
    assert [location.key for location in arrived(store)] == ["a", "b", "c"]
    assert not torn.exists()


def test_store_recover_logs_no_key_twice(tmp_path):
    store = fill(tmp_path, ["a", "b"])
    store.write(table(group("b"), group("c")))  # a worker of a killed run, other neighbours
    store.write(table(group("a")))
    store.begin()
    assert list(store.keys()) == ["a", "b", "c"]
    read = [key for part in store.tables() for key in part["problem_id"].to_pylist()]
    assert read == ["a", "b", "c"]
    assert len(list(tmp_path.glob("part-*.parquet"))) == 2


def test_follower_gives_each_row_once_while_the_log_grows_and_is_compacted(tmp_path):
    ids = [f"p{i}" for i in range(9)]
    store = fill(tmp_path, ids[:2], per_file=1)
    follower = LogFollower(store)
    seen = [location.key for location in follower.new()]
    store.append([store.write(table(group(ids[2]), group("x", dropped="too_few_correct")))])
    seen += [location.key for location in follower.new()]
    assert seen == ids[:3]
    store.begin()
    fill(tmp_path, ids[3:5], per_file=1)
    compact(store)
    seen += [location.key for location in follower.new()]
    fill(tmp_path, ids[5:])
    seen += [location.key for location in follower.new()]
    assert seen == ids
    assert list(follower.new()) == []


def test_compaction_keeps_order_rows_and_old_locations(tmp_path):
    ids = [f"p{i:02d}" for i in range(50)]
    store = fill(tmp_path, ids, per_file=7)
    finish(tmp_path)
    plan = StepPlan(str(tmp_path), 4, 2, None, 0, follow=True)
    ranks = [rank_rows(plan, rank, 2) for rank in range(2)]
    before = [next(rank) for rank in ranks]  # they hold locations of the small files
    tokens = sum(commit.num_tokens for commit in store.commits())
    compact(store)
    (commit,) = store.commits()
    assert [path.name for path in tmp_path.glob("part-*")] == [commit.file]
    assert commit.keys == ids
    assert commit.num_tokens == tokens
    assert sum(rows for _, rows, _ in commit.parts) == 50
    rest = [list(rank) for rank in ranks]
    for rank in range(2):
        for row in [before[rank], *rest[rank]]:
            assert [one["problem_id"] for one in row["groups"]] == row["group_ids"][rank::2]
    epoch_0 = [key for row in [before[0], *rest[0]][:13] for key in row["group_ids"]]
    assert epoch_0 == ids
    assert list(small_runs(store)) == []
    fill(tmp_path, ["q1", "q2"], per_file=1)
    assert [len(run) for run in small_runs(store)] == [2], "a merged file is not merged again"


@pytest.mark.parametrize("is_log_replaced", [False, True])
def test_compaction_killed_halfway_loses_and_doubles_nothing(tmp_path, is_log_replaced):
    ids = [f"p{i}" for i in range(9)]
    store = fill(tmp_path, ids, per_file=2)
    (run,) = small_runs(store)
    parts = {one.file: (tmp_path / one.file).read_bytes() for one in run}
    merged = merge_files(store, run)
    if is_log_replaced:
        replace_log(store, {run[0].file: merged})
        for name, data in parts.items():
            (tmp_path / name).write_bytes(data)  # killed before the parts went
    store.begin()
    assert list(store.keys()) == ids
    assert len(list(tmp_path.glob("part-*"))) == (1 if is_log_replaced else 5)
    compact(store)
    assert [one["problem_id"] for part in store.tables() for one in part.to_pylist()] == ids


def test_index_is_sorted_by_key_and_leaves_dropped_rows_out(tmp_path):
    store = fill(tmp_path, ["b", "d"])
    commit = store.write(table(group("x", dropped="too_few_correct"), group("a"), group("c")))
    store.append([commit])
    index = read_index(store)
    assert index["key"].to_pylist() == ["a", "b", "c", "d"]
    assert index.take([0, 2]).to_pylist() == [
        {"key": "a", "file": commit.file, "row": 1},
        {"key": "c", "file": commit.file, "row": 2},
    ]
    assert read_index(Store(tmp_path / "none")).num_rows == 0


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_rank_rows_deal_each_group_once_per_epoch_and_agree_on_steps(tmp_path, world_size):
    ids = [f"p{i:02d}" for i in range(11)]
    fill(tmp_path, ids)
    finish(tmp_path)
    plan = StepPlan(str(tmp_path), 4, epochs=2, max_steps=None, seed=3, follow=False)
    ranks = [list(rank_rows(plan, rank, world_size)) for rank in range(world_size)]
    assert {len(rows) for rows in ranks} == {num_steps(plan, 11)} == {6}
    for epoch in range(2):
        dealt = [
            row["problem_id"]
            for rows in ranks
            for step in rows
            if step["epoch"] == epoch
            for row in step["groups"]
        ]
        assert sorted(dealt) == ids
    for step in range(6):
        shares = [rows[step] for rows in ranks]
        assert len({tuple(share["group_ids"]) for share in shares}) == 1
        assert sum(len(share["groups"]) for share in shares) == shares[0]["num_groups"]
        for rank, share in enumerate(shares):
            mine = [row["problem_id"] for row in share["groups"]]
            assert mine == share["group_ids"][rank::world_size]
    assert [row["ends_epoch"] for row in ranks[0]] == [False, False, True] * 2


@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_held_out_groups_are_a_seeded_share_that_no_step_trains(tmp_path, world_size):
    ids = [f"p{i:02d}" for i in range(20)]
    fill(tmp_path, ids)
    finish(tmp_path)
    plan = StepPlan(str(tmp_path), 5, 2, None, seed=3, follow=False, held_out=0.2)
    dealt = [held_out_rows(plan, rank, world_size) for rank in range(world_size)]
    held_out = sorted(row["problem_id"] for rows in dealt for row in rows)
    assert len(held_out) == 4
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    for epoch in range(2):
        trained = [at.key for step in steps(plan) if step.epoch == epoch for at in step.locations]
        assert sorted([*trained, *held_out]) == ids
    assert num_steps(plan, 20) == len(list(steps(plan))) == 8
    other = held_out_rows(plan._replace(seed=4), 0, 1)
    assert sorted(row["problem_id"] for row in other) != held_out
    assert held_out_rows(plan._replace(held_out=0.0), 0, 1) == []
    assert len(held_out_rows(plan._replace(held_out=0.001), 0, 1)) == 1


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("max_steps", [None, 7])
def test_rows_begin_at_a_step_and_none_before_it_is_read(tmp_path, monkeypatch, follow, max_steps):
    fill(tmp_path, [f"p{i:02d}" for i in range(11)], per_file=3)
    finish(tmp_path)
    plan = StepPlan(str(tmp_path), 4, 3, max_steps, seed=3, follow=follow)
    rows = list(rank_rows(plan, 1, 2))
    assert len(rows) == (max_steps or 9)
    given = RowReader.read
    read: list[str] = []

    def counted(self: RowReader, location: Location) -> dict:
        read.append(location.key)
        return given(self, location)

    monkeypatch.setattr(RowReader, "read", counted)
    for first in range(len(rows) + 1):
        read.clear()
        assert list(rank_rows(plan, 1, 2, first)) == rows[first:]
        assert len(read) == sum(len(row["groups"]) for row in rows[first:])


def test_steps_order_is_seeded_and_differs_between_epochs(tmp_path):
    fill(tmp_path, [f"p{i:02d}" for i in range(20)])
    finish(tmp_path)
    plan = StepPlan(str(tmp_path), 5, 2, None, 1, follow=False)
    first = [step.locations for step in steps(plan)]
    assert first == [step.locations for step in steps(plan)]
    assert first[:4] != first[4:]
    assert first != [step.locations for step in steps(plan._replace(seed=2))]


def test_steps_while_store_grows_follow_arrival_order(tmp_path):
    ids = [f"p{9 - i}" for i in range(10)]
    plan = StepPlan(str(tmp_path), 3, 2, None, 0, follow=True)
    seen: list[list[str]] = []

    def follow() -> None:
        for step in steps(plan):
            seen.append([location.key for location in step.locations])

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    fill(tmp_path, ids[:4], per_file=1)
    while not seen:
        assert reader.is_alive()
        time.sleep(0.02)
    assert seen == [ids[:3]], "a whole step starts before the store is done"
    fill(tmp_path, ids[4:], per_file=2)
    finish(tmp_path)
    reader.join()
    assert seen[:4] == [ids[:3], ids[3:6], ids[6:9], ids[9:]]
    assert sorted(key for keys in seen[4:] for key in keys) == sorted(ids)


def test_steps_after_failed_generation_raise_its_reason(tmp_path):
    fill(tmp_path, ["a"])
    (tmp_path / "failed.txt").write_text("ValueError: no room")
    with pytest.raises(RuntimeError, match="no room"):
        list(steps(StepPlan(str(tmp_path), 3, 1, None, 0, follow=True)))


def test_steps_stop_at_max_steps(tmp_path):
    fill(tmp_path, [f"p{i}" for i in range(9)])
    finish(tmp_path)
    plan = StepPlan(str(tmp_path), 2, 3, 7, 0, follow=False)
    assert [step.step for step in steps(plan)] == list(range(7))
    assert num_steps(plan, 9) == 7


def segments(store: Store) -> list[str]:
    return [file.name for file in (store.folder / LOG).list()]


def test_second_writer_takes_over_and_the_first_can_add_nothing(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)
    first.append([first.write(table(group("a")))])
    second.begin()
    late = first.write(table(group("b")))
    with pytest.raises(SupersededError, match="another driver"):
        first.append([late])
    assert list(Store(tmp_path).keys()) == ["a"]
    second.append([second.write(table(group("c")))])
    third = Store(tmp_path)
    third.begin()
    assert list(third.keys()) == ["a", "c", "b"], "what the first wrote is not lost"
    assert len(segments(third)) == 1


@pytest.mark.parametrize("is_complete", [False, True])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "altered"])
def test_damaged_file_is_found_named_and_its_keys_are_no_longer_there(
    tmp_path, caplog, damage, is_complete
):
    store = fill(tmp_path, ["a", "b", "c"], per_file=1)
    if is_complete:
        compact(store)
        finish(tmp_path)
    commits = list(store.commits())
    file = tmp_path / commits[-1].file
    data = file.read_bytes()
    middle = len(data) // 2
    spoilt = {
        "missing": None,
        "empty": b"",
        "cut": data[:-9],
        "altered": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
    }[damage]
    file.unlink() if spoilt is None else file.write_bytes(spoilt)
    again = Store(tmp_path)
    found = again.damaged(is_deep=True)
    assert list(found) == [file.name]
    if is_complete:
        assert list(again.damaged(is_deep=False)) == ([] if damage == "altered" else [file.name])
        (tmp_path / "manifest.json").unlink()
    again.begin()
    assert file.name in caplog.text
    assert list(again.keys()) == ([] if is_complete else ["a", "b"])
    assert not file.exists()
    assert (tmp_path / DAMAGED / file.name).exists() == (spoilt is not None)
    fill(tmp_path, commits[-1].keys, per_file=1)
    assert sorted(Store(tmp_path).keys()) == ["a", "b", "c"]
    assert not Store(tmp_path).damaged(is_deep=True)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "altered"])
def test_damaged_segment_of_the_log_loses_no_rows(tmp_path, damage):
    store = fill(tmp_path, ["a"])
    for key in "bcd":
        store.append([store.write(table(group(key)))])
    file = tmp_path / LOG / segments(store)[3]  # after the first, empty one, "a" and "b"
    text = file.read_text()
    spoilt = {"empty": "", "cut": text[:-3], "altered": text.replace('"c"', '"x"')}
    file.unlink() if damage == "missing" else file.write_text(spoilt[damage])
    with pytest.raises(ValueError, match=r"damaged|cut off|missing"):
        list(Store(tmp_path).keys())
    again = Store(tmp_path)
    again.begin()
    assert list(again.keys())[:2] == ["a", "b"]
    assert sorted(again.keys()) == ["a", "b", "c", "d"]


def test_log_begins_anew_before_its_segments_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr("fastdistill_ray.groups.log.MOST_SEGMENTS", 3)
    store, seen = Store(tmp_path), []
    follower = LogFollower(store)
    for place in range(11):
        store.append([store.write(table(group(f"p{place:02d}")))])
        assert len(segments(store)) <= 3
        if place % 4 == 0:
            seen += [location.key for location in follower.new()]
    seen += [location.key for location in follower.new()]
    assert seen == list(Store(tmp_path).keys()) == [f"p{place:02d}" for place in range(11)]


def test_store_in_a_bucket_is_filled_followed_compacted_and_repaired(bucket, tmp_path):
    folder = Place(f"{bucket}/{tmp_path.name}/groups")
    ids = [f"p{place}" for place in range(6)]
    store = write_store(folder, [group(one) for one in ids[:4]], per_file=1)
    follower = LogFollower(store)
    seen = [location.key for location in follower.new()]
    store.write(table(group(ids[4])))  # killed before it was logged
    again = Store(folder)
    again.begin()
    compact(again)
    again.append([again.write(table(group(ids[5])))])
    seen += [location.key for location in follower.new()]
    assert seen == ids
    read = [key for part in again.tables() for key in part["problem_id"].to_pylist()]
    assert read == ids
    (folder / next(again.commits()).file).put(b"torn")
    assert list(again.damaged(is_deep=False)) == [next(again.commits()).file]
