"""What lies in students/<name> is the trial that was chosen last, on a disk and in a bucket."""

import time

import pytest

from fastdistill_ray.run.chosen_students import place_student
from fastdistill_ray.storage.place import Place


@pytest.fixture(params=["disk", "bucket"])
def root(request, tmp_path) -> Place:
    if request.param == "disk":
        return Place(tmp_path / "run")
    return Place(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def test_another_trial_of_the_same_size_takes_the_place_of_the_first(root):
    for name in ("first", "other"):
        (root / name / "config.json").put("{}")
        (root / name / "model.safetensors").put(name)  # five letters each
    student, note = root / "students" / "advdistill", root / "placed" / "advdistill.json"
    for name in ("first", "first", "other"):
        place_student(root / name, student, note)
        assert (student / "model.safetensors").read_text() == name


def test_student_that_is_placed_again_is_not_written_again(root):
    """In a bucket its files' times are part of what a recipe that begins with it goes by."""
    student, note = root / "students" / "advdistill", root / "placed" / "advdistill.json"
    file = student / "model.safetensors"
    (root / "first" / "model.safetensors").put("first")
    place_student(root / "first", student, note)
    (student / "README.md").put("the report's card")
    before = file.changed()
    time.sleep(1.1)  # a bucket's clock
    place_student(root / "first", student, note)
    assert file.changed() == before
    (root / "first" / "model.safetensors").put("anew!")  # trained again
    place_student(root / "first", student, note)
    assert file.read_text() == "anew!"
