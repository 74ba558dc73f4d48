"""A loss of power: what a disk holds at any moment has every group that was logged by then.

The disk is a file, mounted; a copy of the file is what a machine finds that was switched off then:
what was not synced is not in it.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.groups import make_completion, make_group, make_table

from fastdistill_ray.groups.compaction import merge_files, replace_log, small_runs
from fastdistill_ray.groups.store import Store
from fastdistill_ray.storage.place import Place

NUM_GROUPS, NUM_CUTS = 160, 12


@contextlib.contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-o", "loop", str(image), str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    if not shutil.which("mkfs.ext4"):
        pytest.skip("needs mkfs.ext4")
    file = tmp_path / "disk"
    with open(file, "wb") as disk:
        disk.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(file)], check=True)
    return file


def fill(folder: Path, acknowledged: Path) -> None:
    """Commits groups, a file each, and merges the files now and then; a line for each group whose
    commit has returned, on another disk."""
    store = Store(folder)
    store.begin()
    for number in range(NUM_GROUPS):
        completions = [make_completion(f"{number}/{k}", range(1, 200)) for k in range(4)]
        store.append([store.write(make_table([make_group(f"p{number:03d}", completions)]))])
        with open(acknowledged, "a", encoding="utf-8") as file:
            file.write(f"p{number:03d}\n")
        if number % 48 == 47:
            runs = list(small_runs(store))
            replace_log(store, {run[0].file: merge_files(store, run) for run in runs})


def test_groups_that_were_logged_survive_a_loss_of_power_at_any_moment(tmp_path, image):
    acknowledged = tmp_path / "acknowledged"
    acknowledged.touch()
    copies: list[tuple[Path, list[str]]] = []
    with mounted(image, tmp_path / "live") as live:
        writer = multiprocessing.get_context("spawn").Process(
            target=fill, args=(live / "groups", acknowledged)
        )
        writer.start()
        while writer.is_alive():
            number = len(acknowledged.read_text().splitlines())
            if number < (len(copies) + 1) * NUM_GROUPS // (NUM_CUTS + 1):
                time.sleep(0.005)
                continue
            os.kill(writer.pid, signal.SIGSTOP)  # the copy is to be of one moment
            copies.append((tmp_path / f"cut_{len(copies)}", acknowledged.read_text().split()))
            shutil.copyfile(image, copies[-1][0])
            os.kill(writer.pid, signal.SIGCONT)
        writer.join()
        assert writer.exitcode == 0
    assert len(copies) >= NUM_CUTS
    for place, (copy, logged) in enumerate(copies):
        with mounted(copy, tmp_path / f"after_{place}") as after:
            store = Store(Place(after / "groups"))
            store.begin()
            keys = list(store.keys())
            assert len(keys) == len(set(keys))
            assert set(logged) <= set(keys), f"lost at cut {place}"
            rows = [row for table in store.tables() for row in table.to_pylist()]
            assert {row["problem_id"] for row in rows} == set(keys)
            for row in rows:
                number = int(row["problem_id"][1:])
                assert [one["text"] for one in row["completions"]] == [
                    f"{number}/{k}" for k in range(4)
                ]
            assert not store.damaged(is_deep=True), f"cut {place}"
