"""fsck tells what is damaged in a run and changes nothing; the next run makes just that again."""

from pathlib import Path

import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.cli import main
from fastdistill_ray.groups.store import Store
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.fsck import fsck
from fastdistill_ray.run.graph import Stage
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place

DEMO = "jobs/recipes/demo_full.yaml"
GROUPS, WORK = Stage("groups", "", {}, {"n": "1"}), Stage("train", "a", {}, {"n": "1"})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of a store and a stage with an exported folder."""
    made = RunFolder(tmp_path / "run", load_recipe(DEMO, []))
    made.claim()

    def groups(*, out: Place) -> StageResult:
        write_store(out, [make_group(f"p{i}", [make_completion()]) for i in range(4)], per_file=2)
        return StageResult(4, 4)

    made.stage(GROUPS, groups)
    made.stage(WORK, work, [])
    return made


def work(calls: list[str], *, out: Place) -> StageResult:
    calls.append("work")
    (out / "epoch_1" / "model.safetensors").put(b"weights")
    (out / "metrics.jsonl").put("{}\n")
    return StageResult(1, 1)


def contents(run: RunFolder) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in run.path.local.rglob("*") if file.is_file()}


def test_fsck_of_a_sound_run_finds_nothing(run, capsys):
    assert fsck(str(run.path)).faults == []
    assert main(["fsck", str(run.path)]) == 0
    assert "2 stages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pattern", "spoilt"),
    [
        ("stages/groups/*/part-*.parquet", b""),
        ("stages/groups/*/part-*.parquet", None),
        ("stages/groups/*/log/*.jsonl", b"{"),
        ("stages/groups/*/manifest.json", b"{"),
        ("stages/train/*/epoch_1/model.safetensors", b"wei"),
        ("stages/train/*/metrics.jsonl", None),
    ],
)
def test_fsck_names_the_damaged_file_and_changes_nothing(run, capsys, pattern, spoilt):
    file = sorted(run.path.local.glob(pattern))[-1]
    file.unlink() if spoilt is None else file.write_bytes(spoilt)
    before = contents(run)
    assert main(["fsck", str(run.path)]) == 1
    said = capsys.readouterr().out
    assert str(file) in said and "Traceback" not in said
    assert contents(run) == before


def test_altered_part_of_equal_size_is_found_by_its_content(run):
    file = sorted(run.path.local.glob("stages/groups/*/part-*.parquet"))[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    (fault, *_) = fsck(str(run.path)).faults
    assert fault == f"{file} was altered"


def test_damaged_stage_is_made_again_and_sound_ones_are_not(run, caplog):
    calls: list[str] = []
    run.stage(WORK, work, calls)
    assert calls == []
    file = next(run.path.local.glob("stages/train/*/epoch_1/model.safetensors"))
    file.write_bytes(b"")
    run.stage(WORK, work, calls)
    assert calls == ["work"]
    assert f"{file} has 0 of 7 bytes" in caplog.text
    assert fsck(str(run.path)).faults == []


@pytest.mark.parametrize("is_lost", [True, False])
def test_store_whose_log_is_lost_or_torn_is_made_whole_by_its_files(run, is_lost):
    """Nothing is asked again: the files say what the log named."""
    store = Store(run.folder(GROUPS))
    for file in store.log.folder.list():
        file.unlink() if is_lost else file.put(b"{")
    assert fsck(str(run.path)).faults
    calls: list[list[str]] = []

    def groups(*, out: Place) -> StageResult:
        Store(out).begin()
        calls.append(sorted(Store(out).keys()))
        return StageResult(4, 4)

    run.stage(GROUPS, groups)
    assert calls == [["p0", "p1", "p2", "p3"]]
    assert fsck(str(run.path)).faults == []
    run.stage(GROUPS, groups)
    assert len(calls) == 1, "it is complete again"


def test_what_goes_when_a_stage_is_complete_is_no_part_of_its_result(run):
    def train(*, out: Place) -> StageResult:
        (out / "checkpoints" / "step_1" / "weights").put(b"weights")
        (out / "policies" / "round_0" / "weights").put(b"weights")
        (out / "epoch_1" / "model.safetensors").put(b"weights")
        return StageResult(1, 1)

    stage = Stage("train", "b", {}, {"n": "1"})
    folder = run.stage(stage, train)
    for name in ("checkpoints", "policies"):
        (folder / name).remove_tree()
    assert fsck(str(run.path)).faults == [] and run.is_whole(stage, folder)


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["fsck", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
