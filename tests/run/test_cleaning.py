"""What `fastdistill clean` finds needless, and that it deletes nothing else."""

import json
from pathlib import Path

import pytest

from fastdistill_ray import cli
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.loading import dump_recipe, load_recipe
from fastdistill_ray.run.cleaning import clean
from fastdistill_ray.run.lease import lease
from fastdistill_ray.storage.place import Place


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The last recipe needs groups/a and train/a, one before it groups/a and train/b; nothing needs
    train/c and groups/c."""
    folder = tmp_path / "run"
    for name in ("groups/a", "groups/c", "train/a", "train/b", "train/c"):
        stage = folder / "stages" / name
        stage.mkdir(parents=True)
        (stage / "manifest.json").write_text("{}")
        (stage / "weights").write_bytes(b"x" * 1000)
    paid = folder / "stages/answers/c/paid"  # a server's, in no recipe any more
    paid.mkdir(parents=True)
    earlier = folder / "recipes" / "12345678"
    earlier.mkdir(parents=True)
    for view, training in ((folder, "a"), (earlier, "b")):
        graph = {"groups": "stages/groups/a", "train/x": f"stages/train/{training}"}
        (view / "graph.json").write_text(json.dumps(graph))
        (view / "recipe.yaml").write_text(dump_recipe(load_recipe("demo", [])))
    return folder


def names(run: Path, **options: bool) -> set[str]:
    whole = {"with_paid": False, "with_earlier": False, "is_deleting": False} | options
    return {place.relative_to(Place(run)) for place in clean(str(run), **whole)}


def test_clean_finds_what_no_recipe_needs_and_leaves_what_was_paid_for(run):
    assert names(run) == {"stages/train/c"}
    whole = {"stages/train/c", "stages/groups/c", "stages/answers/c"}
    assert names(run, with_paid=True) == whole
    assert names(run, with_earlier=True) == {
        *("stages/train/b", "stages/train/c", "recipes/12345678")
    }
    assert len(list(run.glob("stages/*/*"))) == 6, "listing deletes nothing"


def test_clean_deletes_with_yes_alone(run, capsys):
    assert cli.main(["clean", str(run)]) == 0
    assert "would be deleted with --yes" in capsys.readouterr().out
    assert (run / "stages/train/c").is_dir()
    assert cli.main(["clean", str(run), "--yes"]) == 0
    assert not (run / "stages/train/c").exists()
    left = {str(one.relative_to(run / "stages")) for one in run.glob("stages/*/*")}
    assert left == {"groups/a", "groups/c", "answers/c", "train/a", "train/b"}
    assert cli.main(["clean", str(run), "--yes"]) == 0
    assert capsys.readouterr().out.endswith("nothing to clean\n")


def test_clean_waits_for_nobody_who_writes_the_folder(run):
    with lease(Place(run)), pytest.raises(UserError, match="writes"):
        names(run, is_deleting=True)
    assert (run / "stages/train/c").is_dir()


def test_clean_of_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        names(tmp_path)
