"""The store: nothing lost, nothing doubled, the same steps for every rank and after every kill."""

import json
import threading
import time

import pyarrow as pa
import pytest

from fastdistill_ray.groups import Location, StepPlan, Store, num_steps, rank_rows, steps
from fastdistill_ray.records import GROUP_SCHEMA


def group(problem_id: str, dropped: str = "") -> dict:
    completion = {"text": problem_id, "token_ids": [1, 2, 3], "num_tokens": 3, "verdict": "wrong"}
    return {
        **{field.name: "" for field in GROUP_SCHEMA if field.type == pa.string()},
        "problem_id": problem_id,
        "options": [],
        "messages": [],
        "prompt_num_tokens": 5,
        "completions": [completion, completion],
        "dropped": dropped,
    }


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=GROUP_SCHEMA)


def fill(folder, ids: list[str], per_file: int = 3) -> Store:
    store = Store(folder)
    for start in range(0, len(ids), per_file):
        store.append(store.write(table(*map(group, ids[start : start + per_file]))))
    return store


def finish(folder) -> None:
    (folder / "manifest.json").write_text("{}")


def test_store_commit_counts_tokens_and_keeps_order(tmp_path):
    store = Store(tmp_path)
    commit = store.write(table(group("b"), group("a", dropped="too_few_correct")))
    store.append(commit)
    assert commit.keys == ["b", "a"]
    assert (commit.num_tokens, commit.prompt_tokens) == (12, 10)
    assert store.locations() == [Location("b", commit.file, 0)]


def test_store_recover_after_kill_between_file_and_log_finds_the_file(tmp_path):
    store = fill(tmp_path, ["a", "b"])
    store.write(table(group("c")))  # killed before the driver logged it
    (tmp_path / ".part-torn.parquet.123").write_bytes(b"PAR1 half")
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"file": "part-')  # killed while it wrote the log
    assert store.recover() == {"a", "b", "c"}
    assert store.recover() == {"a", "b", "c"}
    assert [location.key for location in store.locations()] == ["a", "b", "c"]
    assert not list(tmp_path.glob(".part-*"))
    assert all(json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())


def test_store_same_group_committed_twice_counts_once(tmp_path):
    store = fill(tmp_path, ["a", "b"])
    store.append(store.write(table(group("b"), group("c"))))  # a retried task, other neighbours
    store.append(store.write(table(group("a"), group("b"))))  # the same file again
    assert [location.key for location in store.locations()] == ["a", "b", "c"]
    read = [key for part in store.tables() for key in part["problem_id"].to_pylist()]
    assert sorted(read) == ["a", "b", "c"]


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
    seen: list[tuple[float, list[str]]] = []

    def follow() -> None:
        for step in steps(plan):
            seen.append((time.monotonic(), [location.key for location in step.locations]))

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    fill(tmp_path, ids[:4], per_file=1)
    deadline = time.monotonic() + 20
    while not seen and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [keys for _, keys in seen] == [ids[:3]], "a whole step starts before the store is done"
    fill(tmp_path, ids[4:], per_file=2)
    finish(tmp_path)
    reader.join(timeout=30)
    assert [keys for _, keys in seen[:4]] == [ids[:3], ids[3:6], ids[6:9], ids[9:]]
    assert sorted(key for _, keys in seen[4:] for key in keys) == sorted(ids)


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
