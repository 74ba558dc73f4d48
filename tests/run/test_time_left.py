"""How long a run still takes: told from what its stages took, and only as far as those tell it."""

import json
import logging

import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.recipe.derived import baselines, students
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.records import SPLITS, Problem
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.forecast import describe_stages, standing
from fastdistill_ray.run.graph import Stage, new_folder
from fastdistill_ray.run.rates import Work, expected
from fastdistill_ray.run.stages import Stages
from fastdistill_ray.run_files import METRICS, SECONDS, StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems

NUM = 40  # problems of each split: 80 to test on
# Two students of one training of 10 steps, two baselines; nothing is validated.
PLAN = [
    "--compare.students=[{kind: sft}]",
    "--compare.baselines=[base, teacher]",
    "--compare.learning_rates=[]",
    "--compare.epochs=[]",
    "--training.epochs=1",
    "--training.groups_per_step=4",
]


class Run:
    def __init__(self, folder: Place, *overrides: str) -> None:
        self.recipe: Recipe = load_recipe("demo", [*PLAN, *overrides])
        self.path, self.stages = folder, Stages(self.recipe, folder)
        problems = self.done(self.stages.problems(), 5.0, 1)
        for split in SPLITS:
            members = [
                Problem(f"{split}{i}", "t", split, f"{i}?", "3", "number") for i in range(NUM)
            ]
            write_problems(members, problems / f"{split}.parquet")
        self.files = {split: ProblemFile(problems / f"{split}.parquet") for split in SPLITS}

    def done(self, stage: Stage, seconds: float, rows: int, steps: int = 0) -> Place:
        folder = new_folder(self.path, stage)
        manifest = {"seconds": seconds, "cpu_hours": 0.0, "gpu_hours": 0.0, "rows_in": rows}
        manifest["facts"] = {"planned_steps": steps} if steps else {}
        (folder / "manifest.json").put(json.dumps(manifest))
        return folder

    def begun(self, stage: Stage, seconds: float) -> Place:
        folder = new_folder(self.path, stage)
        (folder / SECONDS).put(json.dumps({"seconds": seconds}))
        return folder

    @property
    def groups(self) -> Stage:
        return self.stages.groups(self.files["train"])

    def training(self, name: str) -> Stage:
        (student,) = [one for one in students(self.recipe) if one.name == name]
        return self.stages.training(student.trainings[0], self.files["train"])

    def answers(self, name: str) -> Stage:
        (model,) = [one for one in baselines(self.recipe) if one.name == name]
        return self.stages.answers(model, [self.files["test"], self.files["ood"]])

    def left(self) -> str:
        lines = describe_stages(self.recipe, self.path).splitlines()
        return next((line for line in lines if line.startswith("left of")), "")[15:].strip()


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(Place(tmp_path))


def rows_of(folder: Place, number: int) -> None:
    write_store(folder, [make_group(f"train{i}", [make_completion()]) for i in range(number)])


def steps_of(folder: Place, number: int, **seconds: float) -> None:
    lines = [
        {"step": step, "epoch": 0, "train/loss": 1.0, **seconds} for step in range(1, number + 1)
    ]
    (folder / METRICS).put("".join(json.dumps(line) + "\n" for line in lines))


def test_of_what_was_never_seen_nothing_is_said(run):
    rows_of(run.begun(run.groups, seconds=100.0), 2)  # of 40: engines have hardly started
    assert run.left() == ""
    assert standing(run.recipe, run.path, "distill") == "1 of 8 stages are done"


def test_a_begun_stage_goes_on_at_its_own_pace(run):
    rows_of(run.begun(run.groups, seconds=100.0), 10)
    assert run.left() == "about 5:00 or more", "30 more at 10 seconds each; others are not known"
    assert standing(run.recipe, run.path, "generate") == (
        "1 of 2 stages are done, about 5:00 left of the run"
    ), "nothing else is to come"


def test_one_training_tells_how_long_the_other_takes(run):
    run.done(run.groups, 90.0, NUM)
    training = run.begun(run.training("advdistill"), seconds=80.0)
    steps_of(training, 4)
    assert run.left() == "about 5:20 or more", "6 and 10 more steps at 20 s; no answer"
    steps_of(training, 8)
    assert run.left() == "about 2:00 or more", "2 more and 10 more at 10"


def test_start_of_a_training_is_not_multiplied_by_its_steps(run):
    run.done(run.groups, 90.0, NUM)
    training = run.done(run.training("advdistill"), 50.0, NUM, steps=4)
    steps_of(training, 4, **{"time/step": 2.0})
    assert expected(run.path, Work("train"), 10) == (62.0, 0.0, 0.0), "42, and 10 steps at 2"


def test_a_training_that_also_writes_or_asks_is_not_told_by_one_that_does_neither(tmp_path):
    also = "{kind: forward_kl}, {kind: opd, name: writes, rounds: {count: 5}}"
    students = f"--compare.students=[{also}]"
    run = Run(Place(tmp_path), students)
    run.done(run.groups, 90.0, NUM)
    run.done(run.answers("teacher"), 160.0, 80)
    steps_of(run.done(run.training("advdistill"), 50.0, NUM, steps=10), 10)
    writes = run.begun(run.training("writes"), seconds=100.0)
    # Four models that answer as the teacher did; of neither training anything is known.
    assert run.left() == "about 10:40 or more"
    steps_of(writes, 1)
    assert run.left() == "about 17:20 or more", "4 more steps at 100 seconds each"
    steps_of(run.begun(run.training("forward_kl"), seconds=60.0), 2)
    assert run.left() == "about 21:20", "and 8 more at 30"


def test_all_that_is_left_is_known_once_every_kind_was_seen(run):
    run.done(run.groups, 90.0, NUM)
    run.done(run.answers("teacher"), 160.0, 80)
    steps_of(run.done(run.training("advdistill"), 50.0, NUM, steps=10), 10)
    run.begun(run.training("sft"), seconds=1.0)
    # A training as long as the other, and three models that answer as the teacher did.
    assert run.left() == "about 8:50"
    assert standing(run.recipe, run.path, "distill") == (
        "4 of 8 stages are done, about 8:50 left of the run"
    )


def test_models_that_are_asked_together_share_their_time(run):
    run.done(run.groups, 90.0, NUM)
    for name in ("advdistill", "sft"):
        steps_of(run.done(run.training(name), 50.0, NUM, steps=10), 10)
    rows_of(run.begun(run.answers("base"), seconds=60.0), 40)  # the first of two has been asked
    run.begun(run.answers("teacher"), seconds=60.0)
    # 40 rows in 120 seconds. Trials without exported weights choose nobody: their students answer
    # with their training, as the forecast has it. 40 + 80 + 80 + 80 more.
    assert run.left() == "about 14:00"


def test_what_goes_side_by_side_counts_once(tmp_path):
    run = Run(Place(tmp_path), "--training.overlap=true")
    rows_of(run.begun(run.groups, seconds=100.0), 20)
    steps_of(run.begun(run.training("advdistill"), seconds=100.0), 2)
    # 20 more groups take 100 seconds, 8 more steps 400; after both 10 steps of the other take 500.
    assert run.left() == "about 15:00 or more"


def test_a_stage_says_at_its_start_how_far_the_run_is(run, caplog):
    run.done(run.groups, 90.0, NUM)
    steps_of(run.done(run.training("advdistill"), 50.0, NUM, steps=10), 10)
    folder = RunFolder(run.path, run.recipe, "train")
    with caplog.at_level(logging.INFO):
        folder.stage(run.training("sft"), lambda out: StageResult(1, 1))
    started = [one.message for one in caplog.records if "started" in one.message]
    (name,) = started
    assert name.endswith(": started; 3 of 4 stages are done, about 0:50 left of the run")
