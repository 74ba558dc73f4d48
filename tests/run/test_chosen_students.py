"""What lies in students/<name> is the trial that was chosen last, on a disk and in a bucket."""

import pytest

from fastdistill_ray.run.pipeline import place_student
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
    for name in ("first", "first", "other"):
        place_student(root / name, root / "students" / "advdistill")
        assert (root / "students" / "advdistill" / "model.safetensors").read_text() == name
