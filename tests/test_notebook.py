"""The notebook of examples/ runs from its first cell to its last."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support.jobs import ROOT, tiny_recipe, write_recipe
from support.models import make_tiny_model


@pytest.mark.ray
@pytest.mark.long
def test_notebook_distils_a_tiny_model_and_shows_every_result(tmp_path, monkeypatch):
    """Its cell of parameters replaced by a recipe of seconds, nothing else."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make_tiny_model(str(tmp_path / "model"))
    recipe = write_recipe(tmp_path, tiny_recipe(str(tmp_path / "model")))
    notebook = nbformat.read(ROOT / "examples" / "distill.ipynb", 4)
    (parameters,) = [one for one in notebook.cells if "parameters" in one.metadata.get("tags", [])]
    given = {"recipe": str(recipe), "run_dir": str(tmp_path / "run")}
    imports, _ = parameters.source.split("\n", 1)
    set_to = [f"{name} = {value!r}" for name, value in given.items()]
    parameters.source = "\n".join([imports, *set_to, 'changes = {"training.epochs": 1}'])
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    said = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "generate   24 groups of 4 completions" in said  # the plan
    assert "accuracy, 95 % interval" in said  # the summary
    assert "report.html" in said  # the last cell
    assert Path(tmp_path / "run" / "students" / "advdistill" / "config.json").is_file()


def test_notebook_in_the_repository_has_no_outputs():
    notebook = nbformat.read(ROOT / "examples" / "distill.ipynb", 4)
    assert not [one for one in notebook.cells if one.get("outputs") or one.get("execution_count")]
