"""What a server says when it is not asked for completions, and how long it asks to wait."""

import email.utils
import time

import pytest
from support.servers import ChatServer

from fastdistill_ray.endpoints.client import check_server, retry_after
from fastdistill_ray.endpoints.knobs import ServerKnobs


def test_check_names_what_is_wrong(monkeypatch):
    with ChatServer([""]) as server:
        knobs = ServerKnobs(url=server.url)
        check_server("teacher.engine", "teacher.model", "served", knobs)
        with pytest.raises(ValueError, match=r"teachers.0.model: .* has no model other; it names"):
            check_server("teachers.0.engine", "teachers.0.model", "other", knobs)
        bare = ServerKnobs(url=server.url.removesuffix("/v1"))
        with pytest.raises(ValueError, match=r"teacher.engine.url: .*such as http.*/v1$"):
            check_server("teacher.engine", "teacher.model", "served", bare)
    with pytest.raises(ValueError, match=r"teacher.engine.url: nothing answers at http"):
        check_server("teacher.engine", "teacher.model", "served", knobs)
    monkeypatch.delenv("SOME_KEY", raising=False)
    knobs = ServerKnobs(url="http://h/v1", api_key_env="SOME_KEY")
    with pytest.raises(ValueError, match=r"reward.llm_judge.api_key_env: SOME_KEY is not set"):
        check_server("reward.llm_judge", "reward.llm_judge.model", "served", knobs)


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        ("", 0, 0),
        ("soon", 0, 0),
        ("-3", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_that_has_passed(header, low, high):
    assert low <= retry_after(header) <= high


def test_retry_after_is_a_date_to_come():
    in_an_hour = email.utils.formatdate(time.time() + 3600, usegmt=True)
    assert 3500 <= retry_after(in_an_hour) <= 3600
