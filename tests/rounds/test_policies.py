"""Who writes finds the newest student that is whole; none that may still be asked is forgotten."""

from pathlib import Path

from fastdistill_ray.groups.shares import record_of
from fastdistill_ray.rounds.policies import Policies
from fastdistill_ray.storage.place import Place


def policies_in(folder: Path, staleness: int = 0) -> Policies:
    return Policies(Place(folder / "policies"), "model", 2, staleness, 1.0, "begun")


def write(folder: Place) -> None:
    (folder / "weights").put("w")


def test_newest_student_is_the_last_that_is_whole(tmp_path):
    policies = policies_in(tmp_path)
    assert policies.newest() == (0, "begun")
    policies.publish(1, write, is_first=True)
    assert policies.newest() == (1, str(policies.place(1)))
    write(policies.place(2))  # killed before its record
    assert policies.newest().version == 1
    policies.publish(2, write, is_first=True)
    assert policies.newest().version == 2


def test_students_that_no_text_is_asked_of_are_forgotten(tmp_path):
    for staleness, kept in ((0, [10]), (1, [9, 10])):
        policies = policies_in(tmp_path / str(staleness), staleness)
        for version in range(1, 11):
            policies.publish(version, write, is_first=True)
        names = [one.name for one in policies.folder.list() if one.is_dir()]
        assert sorted(names) == sorted(f"round_{version}" for version in kept)


def test_training_that_goes_on_from_a_checkpoint_writes_no_older_student(tmp_path):
    policies = policies_in(tmp_path)
    policies.publish(3, write, is_first=True)
    policies.publish(2, lambda folder: (folder / "weights").put("other"), is_first=True)
    assert policies.newest().version == 3
    assert not policies.place(2).is_dir()


def test_records_stay_with_the_shares_they_say_and_one_that_is_gone_is_written_again(tmp_path):
    """They say what a training that begins anew was made of."""
    policies = policies_in(tmp_path)
    for version in (1, 2, 3):
        policies.publish(version, write, is_first=True, share=version / 10)
    records = [record_of(policies.folder, version) for version in (1, 2, 3)]
    assert [one.read_text() for one in records] == ["0.1", "0.2", "0.3"]
    records[0].unlink()  # killed while the folder was removed
    policies.publish(1, write, is_first=True, share=0.1)
    policies.publish(2, write, is_first=True, share=0.9)
    assert [one.read_text() for one in records] == ["0.1", "0.2", "0.3"]
    assert policies.newest().version == 3
