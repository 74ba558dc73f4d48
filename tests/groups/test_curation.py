"""Bundles of answered requests become files, commits and a line of progress."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.requests import completion, request

from fastdistill_ray.evaluation.answers import AnswerWriter
from fastdistill_ray.generation.completions import bundle, unbundle
from fastdistill_ray.generation.outputs import NO_IDS, Answer, completion_logprobs, with_completions
from fastdistill_ray.groups.curation import GroupWriter, log_commits
from fastdistill_ray.groups.store import Commit, Store
from fastdistill_ray.records import REQUEST_SCHEMA
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import REFUSED, Judging, SelectionKnobs
from fastdistill_ray.verifiers import VerifierKnobs


def test_group_writer_cuts_bundles_of_any_size_into_files(tmp_path):
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs(), tau=0.5)
    batch = pa.Table.from_pylist([request(i) for i in range(6)], schema=REQUEST_SCHEMA)
    answers = [Answer([completion(f"\\boxed{{{i}}}", 1 + i, i)], 5) for i in range(6)]
    rows = with_completions(batch, answers, "someone")
    bundles = [bundle(rows.slice(first, size)) for first, size in ((0, 3), (3, 0), (3, 3))]
    assert [one.num_rows for one in bundles] == [1, 1, 1]
    assert unbundle(pa.concat_tables(bundles)).equals(rows.combine_chunks())
    lines = GroupWriter(str(tmp_path), judging, "{}", 4)(pa.concat_tables(bundles)).to_pylist()
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
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs(), tau=0.5)
    nothing = with_completions(pa.Table.from_pylist([], schema=REQUEST_SCHEMA), [], "someone")
    lines = GroupWriter(str(tmp_path), judging, "{}", 4)(bundle(nothing))
    assert (lines.num_rows, list(tmp_path.glob("part-*"))) == (0, [])
    lines = AnswerWriter(str(tmp_path), VerifierKnobs())(bundle(nothing))
    assert (lines.num_rows, list(tmp_path.glob("part-*"))) == (0, [])


def test_group_writer_stores_every_array_beside_its_completion(tmp_path):
    """Groups of several sizes; a refused one, one not answered; with and without signals."""
    judging = Judging(
        RewardKnobs(), AdvantageKnobs(), SelectionKnobs(dedup=True, min_size=1), tau=0.5
    )
    right, wrong = "\\boxed{7}", "\\boxed{8}"
    answers = [
        Answer(
            [completion(wrong, 3, 0, 2), completion(right, 0, 1, 2), completion(right, 2, 2, 2)], 5
        ),
        Answer([], 0),
        Answer([], 0, failure="the server is gone"),
        Answer(
            [completion(right, 4, 3), completion(right, 1, 4)._replace(token_ids=NO_IDS)], 6, 0.25
        ),
    ]
    batch = pa.Table.from_pylist([request(i) for i in range(4)], schema=REQUEST_SCHEMA)
    writer = GroupWriter(str(tmp_path), judging, "{}", 4)
    lines = writer(bundle(with_completions(batch, answers, "someone"))).to_pylist()
    assert [line["failure"] for line in lines] == ["", "the server is gone"]
    (file,) = tmp_path.glob("part-*.parquet")
    mixed, refused, plain = pq.read_table(file).to_pylist()
    assert [row["problem_id"] for row in (mixed, refused, plain)] == ["p0", "p1", "p3"]
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
    class Written:
        """Commits as the judging actors hand them over."""

        def iter_rows(self):
            for i in range(3):
                commit = Commit(f"part-{i}.parquet", [f"p{i}"], [""], 50, 5, 0.0, cost=0.25)
                commit = commit._replace(dropped=["too_few_correct"] if i == 1 else [""])
                yield {"commit": json.dumps(commit._asdict()), "failure": ""}

    log_commits(Written(), Store(tmp_path), 4, price_per_hour=0.0, max_failed_share=0.02)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "] 3/4  kept 67%  cost 0.75  " in last
    assert re.search(r"\d+ tokens/s  left \d+:\d\d$", last), last
    assert [commit.file for commit in Store(tmp_path).commits()] == [
        f"part-{i}.parquet" for i in range(3)
    ]
