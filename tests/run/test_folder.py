"""A run's folder: complete stages are reused, counts must add up, each recipe has its view."""

import json
import os
import time
from pathlib import Path

import pytest

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.run import folder as folder_module
from fastdistill_ray.run.folder import Clock, RunFolder
from fastdistill_ray.run.graph import Stage
from fastdistill_ray.run_files import StageResult, run_of, stage_folders
from fastdistill_ray.storage.place import Place

DEMO = "jobs/recipes/demo_full.yaml"


def a_stage(**inputs: str) -> Stage:
    return Stage("work", "a", {}, inputs)


def test_stage_complete_is_reused_and_failed_is_run_again(tmp_path):
    run = RunFolder(tmp_path / "run", load_recipe(DEMO, []))
    calls = []

    def work(number: int, *, out) -> StageResult:
        calls.append(number)
        if number == 1:
            raise OSError("disk")
        (out / "rows").put("x")
        return StageResult(5, 3, {"too_long": 2})

    with pytest.raises(OSError, match="disk"):
        run.stage(a_stage(), work, 1)
    assert not run.is_complete(a_stage())
    folder = run.stage(a_stage(), work, 2)
    assert run.stage(a_stage(), work, 3) == folder
    assert calls == [1, 2]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["stage"], manifest["rows_in"], manifest["rows_out"]) == ("work/a", 5, 3)
    assert run.stage(a_stage(model="other"), work, 4) != folder


def test_two_stages_of_one_name_are_both_of_the_recipe(tmp_path):
    run = RunFolder(tmp_path / "run", load_recipe(DEMO, []))
    run.claim()
    folders = [run.stage(a_stage(of=one), lambda out: StageResult(1, 1)) for one in "aba"]
    assert folders[0] == folders[2] != folders[1]
    found = stage_folders(run.path)
    assert set(found.values()) == set(folders) and found["work/a"] == folders[0]


def test_hours_are_those_of_every_pool_and_of_the_attempt_that_was_killed(tmp_path, monkeypatch):
    """The first attempt is killed -9 after its time was noted once: it writes nothing more."""
    monkeypatch.setattr(folder_module, "NOTE_SECONDS", 0.05)
    run = RunFolder(tmp_path / "run", load_recipe(DEMO, []))

    def work(*, out) -> StageResult:
        while not (out / "seconds.json").exists():
            time.sleep(0.01)
        return StageResult(0, 0)

    child = os.fork()
    if child == 0:
        run.stage(a_stage(), lambda *, out: work(out=out) and os._exit(9))
    assert os.waitpid(child, 0)[1] == 9 << 8
    noted = json.loads((run.folder(a_stage()) / "seconds.json").read_text())["seconds"]
    assert noted > 0
    pools = [PoolKnobs(workers=2, cpus=3, gpus=1), PoolKnobs(workers=4, cpus=0.5)]
    folder = run.stage(a_stage(), work, pools=pools)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seconds"] >= round(noted, 2)
    assert manifest["cpu_hours"] / manifest["gpu_hours"] == pytest.approx((6 + 2) / 2)


def test_stage_rows_that_do_not_add_up_are_refused(tmp_path):
    run = RunFolder(tmp_path / "run", load_recipe(DEMO, []))
    with pytest.raises(AssertionError):
        run.stage(a_stage(), lambda *, out: StageResult(5, 3))
    assert not run.is_complete(a_stage())


def test_each_recipe_has_its_view_and_gets_it_back(tmp_path):
    first = RunFolder(tmp_path, load_recipe(DEMO, []))
    first.claim()
    first.enter(a_stage(model="one"))
    (tmp_path / "results.json").write_text("first")
    second = RunFolder(tmp_path, load_recipe(DEMO, ["--objective.tau=0.7"]))
    second.claim()
    second.enter(a_stage(model="two"))
    assert not (tmp_path / "results.json").exists(), "those of another recipe"
    (kept,) = (tmp_path / "recipes").iterdir()
    assert (kept / "results.json").read_text() == "first"
    kept, here = Place(kept), Place(tmp_path)
    assert run_of(kept) == here == run_of(here)
    assert stage_folders(kept) != stage_folders(here)
    assert all(folder.is_dir() for folder in stage_folders(kept).values())
    (tmp_path / "results.json").write_text("second")
    RunFolder(tmp_path, load_recipe(DEMO, [])).claim()
    assert (tmp_path / "results.json").read_text() == "first"


def test_recipe_that_lost_the_folder_to_another_goes_on_in_its_own_view(tmp_path):
    first = RunFolder(tmp_path, load_recipe(DEMO, []))
    first.claim()
    assert first.view == Place(tmp_path)
    RunFolder(tmp_path, load_recipe(DEMO, ["--objective.tau=0.7"])).claim()
    first.enter(a_stage(model="late"))
    assert first.view == Place(tmp_path / "recipes" / first.id)
    assert stage_folders(first.view).keys() == {"work/a"}
    assert not stage_folders(Place(tmp_path))


def test_claiming_again_keeps_what_the_recipe_has_come_to(tmp_path):
    first = RunFolder(tmp_path, load_recipe(DEMO, []))
    first.claim()
    first.enter(a_stage(model="one"))
    again = RunFolder(tmp_path, load_recipe(DEMO, []))
    again.claim()
    assert stage_folders(Place(tmp_path)).keys() == {"work/a"}


def test_start_that_ends_before_it_is_checked_forgets_no_stage_of_the_recipe(tmp_path):
    first = RunFolder(tmp_path, load_recipe(DEMO, []))
    first.claim()
    names = ["problems", "groups", "train"]
    for kind in names:
        first.enter(Stage(kind, "", {}, {"of": "one"}))
    before = stage_folders(first.path)
    again = RunFolder(tmp_path, load_recipe(DEMO, []))
    again.enter(Stage("problems", "", {}, {"of": "one"}))  # and is killed in its checks
    assert stage_folders(first.path) == before and list(before) == names
    again.claim()
    other = again.enter(Stage("groups", "", {}, {"of": "a changed file"}))
    assert stage_folders(first.path) == before | {"groups": other}, "under the stage's own name"


@pytest.mark.parametrize("killed_after", range(4))
def test_claim_killed_between_two_moves_mixes_no_two_recipes(tmp_path, monkeypatch, killed_after):
    recipes = {"first": [], "second": ["--objective.tau=0.7"]}
    for name, overrides in recipes.items():
        RunFolder(tmp_path, load_recipe(DEMO, overrides)).claim()
        (tmp_path / "results.json").write_text(name)
        (tmp_path / "report.md").write_text(name)
    moved, replace = [], os.replace

    def replace_some(source, target):
        if Path(source).parent in (tmp_path, *(tmp_path / "recipes").iterdir()):
            if len(moved) == killed_after:
                raise KeyboardInterrupt
            moved.append(source)
        replace(source, target)

    monkeypatch.setattr("fastdistill_ray.storage.folders.os.replace", replace_some)
    with pytest.raises(KeyboardInterrupt):
        RunFolder(tmp_path, load_recipe(DEMO, [])).claim()
    monkeypatch.undo()
    for name, overrides in recipes.items():
        RunFolder(tmp_path, load_recipe(DEMO, overrides)).claim()
        assert (tmp_path / "results.json").read_text() == name
        assert (tmp_path / "report.md").read_text() == name


def test_folder_is_claimed_by_no_recipe_before_it_is_checked(tmp_path):
    RunFolder(tmp_path / "run", load_recipe(DEMO, []))
    assert not (tmp_path / "run").exists()


def test_run_dir_with_foreign_files_or_a_url_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds no recipe\.yaml"):
        RunFolder(tmp_path, load_recipe(DEMO, []))
    with pytest.raises(UserError, match="a file; name a folder"):
        RunFolder(tmp_path / "notes.txt", load_recipe(DEMO, []))
    for address, message in (
        ("ftp://server/run", "not a kind of storage"),
        ("s3://key:secret@bucket/run", "keep keys out"),
        ("s3://bucket/run?access_key=a", "keep keys out"),
        ("s3:///run", "names no bucket"),
    ):
        with pytest.raises(UserError, match=f"--run-dir .*{message}") as caught:
            RunFolder(address, load_recipe(DEMO, []))
        assert "secret" not in str(caught.value)


def test_clock_divides_what_was_spent_by_the_work_done(tmp_path):
    folders = [Place(tmp_path / name) for name in "ab"]
    (folders[0] / "seconds.json").put(json.dumps({"seconds": 100.0}))
    clock = Clock(*folders)
    clock.start -= 40.0
    clock.stop({folders[0]: 30, folders[1]: 10})
    assert [round(clock.seconds[folder]) for folder in folders] == [130, 10]
    again = Clock(*folders)
    again.start -= 2.0
    again.stop()
    assert [round(again.seconds[folder]) for folder in folders] == [131, 11]
