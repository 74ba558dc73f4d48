"""Where a run stands, from its folder: who writes it, what is done, what goes on."""

import json
from pathlib import Path

import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.cli import main
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.lease import LEASES, lease
from fastdistill_ray.run_files import METRICS, StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks import load_problems
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems

DEMO = "jobs/recipes/demo_full.yaml"


def problems_of(run: RunFolder) -> ProblemFile:
    def write(*, out: Place) -> StageResult:
        problems = load_problems(run.recipe.task)
        for split, members in problems.items():
            write_problems(members, out / f"{split}.parquet")
        return StageResult(1, 1)

    folder = run.stage(run.stages.problems(), write)
    return ProblemFile(folder / "train.parquet")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_status_says_who_writes_what_is_done_and_how_it_goes_on(tmp_path: Path, capsys) -> None:
    recipe = load_recipe(DEMO, ["--compare={students: [], learning_rates: [], epochs: []}"])
    run = RunFolder(tmp_path / "run", recipe)
    run.claim()
    train = problems_of(run)
    groups = run.enter(run.stages.groups(train))
    rows = [make_group(f"p{i}", [make_completion()]) for i in range(5)]
    write_store(groups, rows, per_file=2)
    assert main(["status", str(run.path)]) == 0
    first, *stages, last = lines(capsys)
    assert first == "nobody writes it"
    assert last == f"go on: fastdistill distill {run.path}/recipe.yaml --run-dir {run.path}"
    by_name = dict(line.split(maxsplit=1) for line in stages)
    assert by_name["problems"].startswith("reused  stages/problems/")
    assert by_name["groups"].endswith("; 5 rows are there")
    (training,) = [name for name in by_name if name.startswith("train/")]
    assert by_name[training].startswith("new: nothing of it is there; at most ")

    from fastdistill_ray.recipe.derived import students

    ((one,),) = [student.trainings for student in students(recipe)]
    folder = run.enter(run.stages.training(one, train))
    steps = [{"step": step, "train/loss": 1.5 / step} for step in (1, 2)]
    (folder / METRICS).put("".join(json.dumps(step) + "\n" for step in steps) + '{"step": 3, "tr')
    with lease(run.path):
        main(["status", str(run.path)])
    first, *stages = lines(capsys)
    assert first.endswith("writes it") and "process" in first
    (line,) = [line for line in stages if line.startswith("train/")]
    assert line.endswith("; 2 steps, loss 0.75")


def test_driver_whose_process_is_gone_writes_nothing(tmp_path: Path, capsys) -> None:
    run = RunFolder(tmp_path / "run", load_recipe(DEMO, []))
    run.claim()
    with lease(run.path):
        (file,) = (run.path / LEASES).list()
        text = file.read_text()
    dead = json.loads(text) | {"started": "0"}  # as if the process id were another's by now
    (run.path / LEASES / "dead.json").put(json.dumps(dead))
    main(["status", str(run.path)])
    first, *_, last = lines(capsys)
    assert first == "nobody writes it" and last.startswith("go on: ")
    (run.path / LEASES / "dead.json").put(json.dumps(dead | {"host": "elsewhere"}))
    main(["status", str(run.path)])
    assert lines(capsys)[0].endswith("writes it"), "of another machine nobody can tell"


def test_what_is_no_run_has_no_status(tmp_path: Path, capsys) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "no run folder, it holds no recipe.yaml" in capsys.readouterr().err
