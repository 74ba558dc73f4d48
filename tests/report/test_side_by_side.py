"""Recipes side by side: what differs between them, and each one's numbers."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support.run_folder import SKILL, make_run

from fastdistill_ray.errors import UserError
from fastdistill_ray.report.side_by_side import write_side_by_side


def with_tau(view: Path, tau: float) -> Path:
    file = view / "recipe.yaml"
    recipe = yaml.safe_load(file.read_text())
    recipe["objective"]["tau"] = tau
    recipe["pools"]["teacher"]["workers"] = 7
    file.write_text(yaml.safe_dump(recipe))
    return view


def test_two_recipes_of_one_run_show_what_differs_and_both_results(tmp_path: Path) -> None:
    run = Path(make_run(tmp_path / "run"))
    view = run / "recipes" / "abcd"
    view.mkdir(parents=True)
    for name in ("recipe.yaml", "results.json", "graph.json"):
        shutil.copy(run / name, view / name)
    with_tau(view, 1.25)
    text = Path(write_side_by_side([str(run), str(view)], "")).read_text(encoding="utf-8")
    assert ">objective.tau</th>" in text
    assert "1.25" in text and "pools.teacher.workers" not in text
    results = json.loads((run / "results.json").read_text())["rows"]
    shares = [
        f"{100 * row['value']:.1f}"
        for row in results
        if (row["split"], row["metric"]) == ("test", "accuracy")
    ]
    assert len(shares) == len(SKILL)
    assert all(text.count(share) >= 2 for share in shares)
    assert "All recipes asked the same problems." in text


def test_other_runs_are_not_said_to_be_paired(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    page = write_side_by_side(runs, str(tmp_path / "page.html"))
    text = Path(page).read_text(encoding="utf-8")
    assert "differences between them are not paired" in text
    assert "Nothing that changes a result differs between them." in text


def test_what_cannot_be_laid_side_by_side_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="named twice"):
        write_side_by_side([run, f"{run}/."], "")
    with pytest.raises(UserError, match=r"no recipe\.yaml in it"):
        write_side_by_side([run, str(tmp_path)], "")
