"""Rows as Python objects have the fields of their schemas, and problems those of theirs."""

from dataclasses import fields
from typing import get_type_hints

import pyarrow as pa
import pytest

from fastdistill_ray.records import (
    COMPLETION,
    GROUP_SCHEMA,
    PROBLEM_SCHEMA,
    SIGNALS,
    STEP_SCHEMA,
    CompletionRow,
    GroupRow,
    Problem,
    StepRow,
)


@pytest.mark.parametrize(
    ("row", "names"),
    [
        (CompletionRow, [field.name for field in COMPLETION]),
        (GroupRow, [name for name in GROUP_SCHEMA.names if name not in dict(SIGNALS)]),
        (StepRow, STEP_SCHEMA.names),
    ],
)
def test_row_has_the_columns_of_its_schema_in_their_order(row, names):
    assert list(get_type_hints(row)) == names


def test_problem_has_the_columns_of_its_schema():
    assert [field.name for field in fields(Problem)] == PROBLEM_SCHEMA.names


def test_step_holds_groups_without_signals():
    groups: pa.ListType = STEP_SCHEMA.field("groups").type
    assert [field.name for field in groups.value_type] == list(get_type_hints(GroupRow))
