"""What is said of a student that is as good as its teachers before it learns from them."""

import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.run.graph import Made
from fastdistill_ray.run.rounds import share_right
from fastdistill_ray.run_files import MANIFEST
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.written import advise


@pytest.mark.parametrize(
    ("own", "taught", "is_said"),
    [(0.8, 0.6, True), (0.6, 0.6, True), (0.5, 0.6, False), (1, None, False)],
)
def test_a_line_is_said_where_the_teachers_are_no_better(own, taught, is_said):
    line = advise({"rounds/correct": own}, taught)
    assert bool(line) == is_said
    assert not is_said or "80%" in line or "60%, its teachers' groups in 60%" in line


def test_share_right_counts_the_texts_of_complete_groups(tmp_path):
    verdicts = ("correct", "wrong"), ("correct", "correct"), ("truncated", "wrong")
    groups = [
        make_group(str(place), [make_completion(verdict=one) for one in pair])
        for place, pair in enumerate(verdicts)
    ]
    write_store(tmp_path, groups)
    found = Made(Place(tmp_path), {})
    assert share_right(found) is None, "not complete"
    (tmp_path / MANIFEST).write_text("{}")
    assert share_right(found) == 3 / 6
    assert share_right(None) is None
