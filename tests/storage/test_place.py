"""One set of verbs for a disk and a bucket: the same test on each, S3 by a real server and
Google's by an emulator,
Azure's by one where it is installed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.buckets import azure_server, google_server

from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.folders import copy, move, readable_folder, writable_folder
from fastdistill_ray.storage.place import Journal, Place

NO_TLS = "?enable_tls=false"


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What stands behind the names of a bucket of Google's."""
    with google_server(tmp_path_factory.mktemp("google")) as (query, environment):
        os.environ.update(environment)
        yield query
        for name in environment:
            os.environ.pop(name)


@pytest.fixture(scope="module")
def azure() -> Iterator[str]:
    """What addresses in a container of Azure's begin with."""
    if not shutil.which("azurite-blob"):
        pytest.skip("azurite-blob, of npm's azurite, is not on the PATH")
    with azure_server() as (start, environment):
        os.environ.update(environment)
        Place(f"{start}/x{NO_TLS}").file_system.create_dir("runs")
        yield start
        for name in environment:
            os.environ.pop(name)


@pytest.fixture(params=["disk", "bucket", "google", "azure"])
def root(request, tmp_path) -> Place:
    if request.param == "disk":
        return Place(tmp_path / "run")
    if request.param == "google":
        return Place(f"gs://runs/{tmp_path.name}{request.getfixturevalue('google')}")
    if request.param == "azure":
        return Place(f"{request.getfixturevalue('azure')}/{tmp_path.name}{NO_TLS}")
    return Place(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def names(places: list[Place]) -> list[str]:
    return [place.name for place in places]


def test_files_are_put_listed_read_and_removed(root):
    assert (root.exists(), root.list(), root.walk(), root.is_dir()) == (False, [], [], False)
    for name in ("b/two.txt", "a.txt", "b/c/three.txt"):
        (root / name).put(name)
    assert names(root.list()) == ["a.txt", "b"]
    assert root.sizes() == {"a.txt": 5}
    assert [file.relative_to(root) for file in root.walk()] == [
        "a.txt",
        "b/c/three.txt",
        "b/two.txt",
    ]
    assert (root / "b").is_dir() and not (root / "b").is_file()
    assert (root / "a.txt").is_file() and not (root / "a.txt").is_dir()
    (root / "a.txt").put(b"longer than before")
    assert ((root / "a.txt").read_text(), (root / "a.txt").size()) == ("longer than before", 18)
    (root / "a.txt").unlink()
    (root / "a.txt").unlink()
    assert not (root / "a.txt").exists()
    with pytest.raises(FileNotFoundError):
        (root / "a.txt").read_bytes()
    with pytest.raises(FileNotFoundError):
        (root / "a.txt").size()
    (root / "b").remove_tree()
    assert not root.walk()


def test_file_whose_writer_fails_is_not_there_and_the_old_one_stays(root):
    (root / "kept").put("old")
    for name in ("kept", "new"):
        with pytest.raises(RuntimeError), (root / name).create() as file:
            file.write(b"half")
            raise RuntimeError
    assert (root / "kept").read_text() == "old"
    assert names(root.list()) == ["kept"]


def test_changed_tells_a_file_that_was_written_again(root):
    assert (root / "a").changed() == (0, 0)
    (root / "a").put("1")
    first = (root / "a").changed()
    (root / "a").put("22")
    assert (root / "a").changed() != first


def test_folders_are_copied_and_moved_whole(root):
    for name in ("config.json", "weights", "sub/x"):
        (root / "from" / name).put(name)
    copy(root / "from", root / "to")
    (root / "to" / "weights").unlink()
    assert (root / "from" / "weights").read_text() == "weights"
    move(root / "from", root / "else")
    assert not (root / "from").exists()
    assert [file.relative_to(root / "else") for file in (root / "else").walk()] == [
        "config.json",
        "sub/x",
        "weights",
    ]
    move(root / "else" / "weights", root / "w")
    assert (root / "w").read_text() == "weights"


def test_folder_filled_here_replaces_the_old_one_when_it_is_whole(root):
    (root / "out" / "old").put("old")
    with pytest.raises(RuntimeError), writable_folder(root / "out") as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert names((root / "out").list()) == ["old"]
    with writable_folder(root / "out") as folder:
        (folder / "new").write_text("new")
    assert names((root / "out").list()) == ["new"]
    with readable_folder(root / "out") as folder:
        assert (folder / "new").read_text() == "new"
    assert names(root.list()) == ["out"]


def test_journal_has_every_line_once_synced_and_goes_on(root):
    for lines in (["1", "2"], ["3"]):
        journal = Journal(root / "lines")
        for line in lines:
            journal.append(line)
        journal.sync()
    assert (root / "lines").read_text() == "1\n2\n3\n"


def test_paths_below_and_beside(root):
    assert (root / "a").is_below(root) and not root.is_below(root / "a")
    assert not root.with_name(f"{root.name}x").is_below(root)
    with pytest.raises(ValueError, match="is not below"):
        root.relative_to(root / "a")
    assert (root / "a").with_name("b") == root / "b"
    assert (root / "a" / "b").parent.parent == root
    assert Place(str(root / "a")) == root / "a"


def test_address_keeps_what_stands_behind_its_question_mark():
    place = Place("s3://bucket/folder?region=eu-west-1") / "stages" / "x"
    assert str(place) == "s3://bucket/folder/stages/x?region=eu-west-1"
    assert Place(str(place)).parent.parent == Place("s3://bucket/folder?region=eu-west-1")


@pytest.mark.parametrize(
    ("address", "path", "account"),
    [
        ("abfs://runs@ours.dfs.core.windows.net/a/b", "runs/a/b", "ours"),
        ("abfss://ours.blob.core.windows.net/runs/a/b", "runs/a/b", "ours"),
        ("abfs://ours@127.0.0.1:1/runs/a/b?enable_tls=false", "runs/a/b", "ours"),
    ],
)
def test_address_of_azure_names_container_and_account(address, path, account):
    place = Place(address)
    assert (place.path, place.parent.path) == (path, "runs/a")
    assert account in str(place) and Place(str(place)) == place


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("abfs://runs/a", "name the container and the account"),
        ("abfs://ours.dfs.core.windows.net", "name the container and the account"),
        ("abfs://ours:secret@127.0.0.1:1/runs/a", "keep keys out of the address"),
        ("abfs://runs@ours.dfs.core.windows.net/a?sas_token=x", "keep keys out of the address"),
        ("gs://somebody@bucket/a", "keep keys out of the address"),
        ("s3://bucket/runs/a#1", "cannot hold #"),
    ],
)
def test_address_with_a_key_or_without_an_account_is_refused(address, said):
    with pytest.raises(UserError, match=said) as caught:
        Place(address)
    assert "secret" not in str(caught.value)


def test_what_a_call_returned_from_is_on_the_disk(tmp_path):
    """Every file and every folder whose names changed was synced after its last change, as the
    kernel was asked: by strace where it is, else by what Python called."""
    script = """
import os, sys
calls = []
def log(name, function):
    def wrapped(*args, **kwargs):
        found = function(*args, **kwargs)
        calls.append((name, args))
        return found
    return wrapped
replace, fsync, mkdir = os.replace, os.fsync, os.mkdir
def synced(handle):
    fsync(handle)
    calls.append(("fsync", (os.readlink(f"/proc/self/fd/{handle}"),)))
os.replace, os.fsync = log("replace", replace), synced
from fastdistill_ray.storage.place import Place
Place(sys.argv[1]).put("x")
for name, args in calls:
    print(name, *map(os.fspath, args))
"""
    file = tmp_path / "run" / "stages" / "file"
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    calls = [line.split() for line in done.stdout.splitlines()]
    verbs = [call[0] for call in calls]
    at = verbs.index("replace")
    temporary, target = calls[at][1:]
    assert target == str(file) and Path(temporary).parent == file.parent
    assert ["fsync", temporary] in calls[:at], "the content, before it gets its name"
    after = [call[1] for call in calls[at:] if call[0] == "fsync"]
    assert after == [str(file.parent)], "the name"
    before = [call[1] for call in calls[:at] if call[0] == "fsync"]
    assert {str(tmp_path), str(tmp_path / "run")} <= set(before), "the folders that are new"


def test_listing_goes_on_past_a_file_that_went_away_meanwhile(tmp_path):
    for name in ("a", "b"):
        Place(tmp_path / name).put(name)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")  # named, and not there when looked at
    assert names(Place(tmp_path).list())[:2] == ["a", "b"]
    assert Place(tmp_path).sizes() == {"a": 1, "b": 1}


def test_what_is_being_written_is_neither_listed_nor_walked(tmp_path):
    Place(tmp_path / "x" / "whole").put("w")
    (tmp_path / "x" / f".half.{'0123' * 8}").write_text("h")
    (tmp_path / ".partly").mkdir()
    (tmp_path / ".partly" / "file").write_text("p")
    (tmp_path / "x" / ".metadata").write_text("of a checkpoint of torch")
    walked = [file.relative_to(Place(tmp_path)) for file in Place(tmp_path).walk()]
    assert walked == ["x/.metadata", "x/whole"]
    assert names((Place(tmp_path) / "x").list()) == ["whole"]
