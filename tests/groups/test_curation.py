"""Bundles of answered requests become files, commits and a line of progress."""

import json
import re
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.requests import completion, request

from fastdistill_ray.cluster.pools import PoolKnobs, PoolsKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.evaluation.answers import AnswerMaker
from fastdistill_ray.generation.asking import bundle, unbundle
from fastdistill_ray.generation.knobs import SamplingKnobs
from fastdistill_ray.generation.outputs import NO_IDS, Reply, completion_logprobs, with_completions
from fastdistill_ray.groups.ask import RowWriter, log_rows
from fastdistill_ray.groups.curation import GroupMaker, Tally
from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.store import Store
from fastdistill_ray.progress import Progress
from fastdistill_ray.records import REQUEST_SCHEMA
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import REFUSED, Judging, SelectionKnobs
from fastdistill_ray.storage.place import Place
from fastdistill_ray.verifiers import VerifierKnobs


def group_writer(folder: Any, judging: Judging) -> RowWriter:
    make = partial(GroupMaker, Place(folder), judging, SamplingKnobs())
    return RowWriter(make, {"": Store(folder)}, 4)


def lines_table(*lines: tuple[str, str, str]) -> pa.Table:
    return pa.table(
        dict(zip(("store", "commit", "failure"), zip(*lines, strict=True), strict=True))
    )


@pytest.mark.parametrize(("said", "kind"), [("UserError: no", UserError), ("Trace", RuntimeError)])
def test_writer_that_fails_ends_the_loop_once_the_others_are_logged(tmp_path, said, kind):
    store = Store(tmp_path)
    commit = Commit("part-1.parquet", ["p1"], [""], 50, 5, 0.0)
    batches = [lines_table(("", "", said), ("", json.dumps(commit._asdict()), ""))]
    with pytest.raises(kind, match=said.removeprefix("UserError: ")):
        log_rows(batches, {"": store}, Progress("ask", 2), lambda commit: "")
    assert list(store.keys()) == ["p1"]


def test_what_a_writer_raises_is_returned_by_it(tmp_path):
    def fail(batch: pa.Table) -> pa.Table:
        raise ZeroDivisionError("in a reward")

    writer = RowWriter(lambda: fail, {"": Store(tmp_path)}, 4)
    batch = pa.Table.from_pylist([request(0)], schema=REQUEST_SCHEMA)
    rows = with_completions(batch, [Reply([completion("1", 1, 0)], 5)], "m")
    (line,) = writer(bundle(rows)).to_pylist()
    assert line["commit"] == "" and "ZeroDivisionError: in a reward" in line["failure"]


def test_rows_of_several_stores_go_each_to_its_own(tmp_path):
    stores = {name: Store(tmp_path / name) for name in "ab"}
    batch = pa.Table.from_pylist([request(i) for i in range(3)], schema=REQUEST_SCHEMA)
    rows = with_completions(batch, [Reply([completion("1", 1, i)], 5) for i in range(3)], "m")
    rows = rows.append_column("store", pa.array(["a", "b", "a"]))
    writer = RowWriter(partial(AnswerMaker, VerifierKnobs()), stores, 4)
    for line in writer(bundle(rows)).to_pylist():
        stores[line["store"]].append([Commit(**json.loads(line["commit"]))])
    assert [sorted(store.keys()) for store in stores.values()] == [["p0", "p2"], ["p1"]]


def test_group_writer_cuts_bundles_of_any_size_into_files(tmp_path):
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs())
    batch = pa.Table.from_pylist([request(i) for i in range(6)], schema=REQUEST_SCHEMA)
    answers = [Reply([completion(f"\\boxed{{{i}}}", 1 + i, i)], 5) for i in range(6)]
    rows = with_completions(batch, answers, "someone")
    bundles = [bundle(rows.slice(first, size)) for first, size in ((0, 3), (3, 0), (3, 3))]
    assert [one.num_rows for one in bundles] == [1, 1, 1]
    assert unbundle(pa.concat_tables(bundles)).equals(rows.combine_chunks())
    lines = group_writer(tmp_path, judging)(pa.concat_tables(bundles)).to_pylist()
    files = [json.loads(line["commit"])["file"] for line in lines]
    written = [pq.read_table(tmp_path / file).to_pylist() for file in files]
    assert [[row["problem_id"] for row in table] for table in written] == [
        ["p0", "p1", "p2", "p3"],
        ["p4", "p5"],
    ]
    assert [row["completions"][0]["token_ids"] for table in written for row in table] == [
        list(range(10 * i, 11 * i + 1)) for i in range(6)
    ]


def test_bundle_of_a_task_whose_prompts_are_all_too_long_commits_nothing(tmp_path):
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs())
    nothing = with_completions(pa.Table.from_pylist([], schema=REQUEST_SCHEMA), [], "someone")
    lines = group_writer(tmp_path, judging)(bundle(nothing))
    assert (lines.num_rows, list(tmp_path.glob("part-*"))) == (0, [])
    lines = RowWriter(partial(AnswerMaker, VerifierKnobs()), {"": Store(tmp_path)}, 4)(
        bundle(nothing)
    )
    assert (lines.num_rows, list(tmp_path.glob("part-*"))) == (0, [])


def test_group_writer_stores_every_array_beside_its_completion(tmp_path):
    """Groups of several sizes, a refused one; with and without signals."""
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs(dedup=True, min_size=1))
    right, wrong = "\\boxed{7}", "\\boxed{8}"
    answers = [
        Reply(
            [completion(wrong, 3, 0, 2), completion(right, 0, 1, 2), completion(right, 2, 2, 2)], 5
        ),
        Reply([], 0),
        Reply(
            [completion(right, 4, 3), completion(right, 1, 4)._replace(token_ids=NO_IDS)], 6, 0.25
        ),
    ]
    batch = pa.Table.from_pylist([request(i) for i in range(3)], schema=REQUEST_SCHEMA)
    writer = group_writer(tmp_path, judging)
    lines = writer(bundle(with_completions(batch, answers, "someone"))).to_pylist()
    assert [line["failure"] for line in lines] == [""]
    (file,) = tmp_path.glob("part-*.parquet")
    mixed, refused, plain = pq.read_table(file).to_pylist()
    assert [row["problem_id"] for row in (mixed, refused, plain)] == ["p0", "p1", "p2"]
    assert (refused["dropped"], refused["completions"]) == (REFUSED, [])
    assert [one["token_ids"] for one in mixed["completions"]] == [[0, 1, 2], [], [20, 21]]
    assert [one["verdict"] for one in mixed["completions"]] == ["wrong", "correct", "correct"]
    selected = [one["is_selected"] for one in mixed["completions"]]
    assert selected == [True, True, False], "a repeated text leaves its group"
    assert [one["token_ids"] for one in plain["completions"]] == [[30, 31, 32, 33], []]
    assert (plain["logprobs"], plain["logprob_ids"], plain["cost"]) == (None, None, 0.25)
    assert (mixed["teacher"], mixed["prompt_num_tokens"]) == ("someone", 5)
    parts = completion_logprobs(
        np.array(mixed["logprob_ids"]),
        np.array(mixed["logprobs"], dtype=np.float32),
        [one["num_tokens"] for one in mixed["completions"]],
    )
    for (ids, logprobs), given in zip(parts, answers[0].completions, strict=True):
        np.testing.assert_array_equal(ids, given.logprob_ids)
        np.testing.assert_array_equal(logprobs, given.logprobs)


def test_progress_line_tells_share_kept_pace_and_what_was_paid(tmp_path, capsys):
    commits = [
        Commit(f"part-{i}.parquet", [f"p{i}"], [dropped], 50, 5, 0.0, cost=0.25)
        for i, dropped in enumerate(["", "too_few_correct", ""])
    ]
    batches = [lines_table(("", json.dumps(one._asdict()), "")) for one in commits]
    store = Store(tmp_path)
    tally = Tally(store, 0.02, PoolsKnobs(teacher=PoolKnobs()), 1)
    log_rows(batches, {"": store}, Progress("generate groups", 4), tally.add)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "] 3/4  kept 67%  cost 0.75  " in last
    assert re.search(r"\d+ tokens/s  left \d+:\d\d$", last), last
    assert [commit.file for commit in Store(tmp_path).commits()] == [
        f"part-{i}.parquet" for i in range(3)
    ]
