"""Nodes that come on demand, late or never."""

import logging
from itertools import chain, repeat

import pytest

from fastdistill_ray.errors import UserError
from fastdistill_ray.run.waiting import wait

LACKING = "pools.teacher: the pools that run at once want 8 GPUs (teacher 8), the cluster has 0"
REMEDY = "; lower pools.teacher.workers"


def test_wait_ends_when_the_nodes_are_there_and_says_once_what_for(caplog):
    caplog.set_level(logging.INFO)
    answers = chain([LACKING + REMEDY] * 3, [""])
    wait(lambda: next(answers), minutes=5, pause=0.0)
    assert next(answers, None) is None
    assert caplog.messages == [f"waiting 0:00 for nodes, at most 5 min: {LACKING}"]


def test_wait_in_vain_ends_with_what_is_lacking_and_what_to_change():
    answers = repeat(LACKING + REMEDY)
    with pytest.raises(UserError) as error:
        wait(lambda: next(answers), minutes=1e-9, pause=0.0)
    assert str(error.value).startswith("pools.wait_minutes: 1e-09 minutes for nodes in vain; pools")
    assert str(error.value).endswith(REMEDY)
