"""Rows that are prepared while others are trained on."""

import threading

import pytest

from fastdistill_ray.training.feed import Ahead


def test_next_row_is_prepared_while_one_is_used_and_all_come_in_order():
    begun = [threading.Event() for _ in range(5)]

    def prepare(row: int) -> int:
        begun[row].set()
        return 10 * row

    found = []
    for row in Ahead(iter(range(5)), prepare):
        found.append(row)
        if row < 40:
            assert begun[row // 10 + 1].wait(60), "nothing asked for it"
    assert found == [0, 10, 20, 30, 40]


def test_row_that_is_not_known_yet_keeps_none_back():
    is_known = threading.Event()

    def rows():
        yield 1
        assert is_known.wait(60)
        yield 2

    found = Ahead(rows(), lambda row: row)
    assert next(found) == 1
    assert not found.is_here(0.01) and not found.is_over
    is_known.set()
    assert found.is_here(60) and not found.is_over
    assert list(found) == [2]
    assert found.is_here(0) and found.is_over and next(found, None) is None


def test_what_a_row_raises_is_raised_where_it_is_waited_for():
    def prepare(row: int) -> int:
        if row == 2:
            raise ValueError("the second")
        return row

    found = Ahead(iter([1, 2]), prepare)
    assert next(found) == 1
    with pytest.raises(ValueError, match="the second"):
        next(found)
