"""Tests run from the repository's root and import `support`, the folder beside this file.

One Ray head serves every test that neither kills it nor needs nodes of its own: `head`, its
address, for jobs that are processes, and `cluster`, for tests that use Ray in this one.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # an actor for each job that counts its own

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

LONGEST = ("test_pipeline.py", "test_job.py", "test_teachers.py", "test_rounds.py", "test_score.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limits are for what hangs: jobs and engines take minutes to start on a busy machine."""
    for item in items:
        if item.get_closest_marker("ray") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))
    # Of the files that run at a time the longest begin first.
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def head() -> Iterator[str]:
    from support.head import local_head

    with local_head() as address:
        yield address


@pytest.fixture(scope="module")
def cluster(head: str) -> Iterator[None]:
    import ray

    ray.init(address=head, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """Address of a bucket on a real S3 server; its keys are in this process's environment."""
    from support.buckets import s3_server

    with s3_server() as environment:
        os.environ.update(environment)
        yield "s3://runs"
        for name in environment:
            os.environ.pop(name)


@pytest.fixture
def world_of_one(tmp_path: Path) -> Iterator[None]:
    """torch.distributed with this process as its only rank."""
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()
