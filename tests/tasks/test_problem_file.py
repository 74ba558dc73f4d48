"""Problems read by row from a Parquet file."""

import pickle

import numpy as np
from support.requests import made_up_problems

from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.store import Store
from fastdistill_ray.tasks.problem_file import (
    ROWS_PER_ROW_GROUP,
    ProblemFile,
    digests,
    write_problems,
)


def test_problem_file_counts_iterates_and_takes_rows_across_row_groups(tmp_path):
    problems = made_up_problems(2 * ROWS_PER_ROW_GROUP + 5)
    write_problems(problems, tmp_path / "train.parquet")
    file = pickle.loads(pickle.dumps(ProblemFile(tmp_path / "train.parquet")))
    assert len(file) == len(problems)
    assert list(file) == problems
    rows = [0, ROWS_PER_ROW_GROUP, ROWS_PER_ROW_GROUP - 1, 2 * ROWS_PER_ROW_GROUP + 4, 3]
    assert file.take(np.array(rows)) == [problems[row] for row in rows]
    write_problems([], tmp_path / "none.parquet")
    assert list(ProblemFile(tmp_path / "none.parquet")) == []


def test_missing_rows_are_those_no_commit_names(tmp_path):
    problems = made_up_problems(ROWS_PER_ROW_GROUP + 50)
    write_problems(problems, tmp_path / "train.parquet")
    file, store = ProblemFile(tmp_path / "train.parquet"), Store(tmp_path)
    assert file.rows_without(digests(store.keys())).tolist() == list(range(len(problems)))
    done = set(range(0, len(problems), 3))
    keys = [problems[i].problem_id for i in done]
    store.append([Commit("part-1.parquet", keys, [""] * len(keys), 1, 1, 0.0)])
    assert file.rows_without(digests(store.keys())).tolist() == [
        i for i in range(len(problems)) if i not in done
    ]
