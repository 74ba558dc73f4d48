"""What is said of a student that began as, is taught by or reads the texts of one before it."""

import numpy as np
import pytest
from support.run_folder import RECIPE, make_run

from fastdistill_ray.recipe.loading import dump_recipe, parse_recipe
from fastdistill_ray.report.costs import training_tables
from fastdistill_ray.report.model_card import card_of
from fastdistill_ray.report.reading import Contents, Training, first_model, read_run

STUDENTS = [
    {"kind": "sft", "name": "small", "model": "org/small"},
    {"kind": "dpo", "name": "after", "start": "small"},
    {"kind": "dpo", "name": "third", "start": "after"},
    {"kind": "sft", "name": "cut", "init": {"layers": [0, 2]}},
    {"kind": "dpo", "name": "after_cut", "start": "cut"},
    {"kind": "sft", "name": "reader", "writer": "small"},
    {"kind": "born_again", "name": "again", "teacher": "cut"},
]
RUN = {
    "teacher": {"model": "org/big"},
    "student": {"model": "org/own", "init": {"layers": [0, 1, 3]}},
    "training": {"epochs": 1},
    "compare": {"students": STUDENTS, "baselines": []},
}
STEP = np.array([1])
COUNTED = {
    f"train/{name}_tokens": (STEP, np.array([10.0]))
    for name in ("computed", "unique", "row", "trained")
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Contents:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    text = dump_recipe(parse_recipe(RECIPE | RUN, "former"))
    (folder / "recipe.yaml").write_text(text)
    return read_run(str(folder))


def test_student_is_made_of_the_model_that_the_first_of_its_chain_has(run):
    names = ["after", "third", "after_cut", "reader", "advdistill"]
    assert [first_model(name, run.recipe) for name in names] == [
        ("org/small", []),
        ("org/small", []),
        ("org/own", [0, 2]),
        ("org/own", [0, 1, 3]),
        ("org/own", [0, 1, 3]),
    ]


def test_memory_measured_stands_beside_the_plan_of_the_model_that_was_trained(run):
    planned = ["org/own#layers=0,1,3", "org/small", "org/own#layers=0,2"]
    peaks = {"third": 5.0, "small": 4.0, "after_cut": 2.0, "reader": 7.0}
    trainings = [
        Training(name, 1e-5, None, {"memory/peak_gib": (STEP, np.array([peak]))} | COUNTED)
        for name, peak in peaks.items()
    ]
    memory = {model: {"weights": 2**30, "micro_batch_tokens": 512} for model in planned}
    _, table = training_tables(run._replace(memory=memory, trainings=trainings))
    assert [(row[0], row[3]) for row in table.rows] == [
        ("org/own, 3 blocks", "7.0"),
        ("org/small", "5.0"),
        ("org/own, 2 blocks", "2.0"),
    ]


@pytest.mark.parametrize(
    ("name", "said", "base"),
    [
        ("third", "`org/small`, taught by `org/big` on the task", "org/small"),
        (
            "reader",
            "`org/own`, taught by texts of the student `small` of this run, and so in the end by "
            "`org/big`, on the task",
            "org/own",
        ),
        (
            "again",
            "`org/own`, taught by the student `cut` of this run, and so in the end by `org/big`, "
            "on the task",
            "org/own",
        ),
    ],
)
def test_card_names_the_first_model_and_the_former_student_that_taught(run, name, said, base):
    card = card_of(run, name, None)
    assert said in card and f"base_model: {base}\n" in card
