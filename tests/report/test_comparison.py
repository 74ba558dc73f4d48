"""Recipes side by side: what differs between them, each one's numbers, and paired differences."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.run_folder import SKILL, make_run

from fastdistill_ray.errors import UserError
from fastdistill_ray.report.comparison import _results, write_comparison
from fastdistill_ray.report.conclusion import points
from fastdistill_ray.report.page import Table
from fastdistill_ray.report.pairs import paired
from fastdistill_ray.report.reading import read_run


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
    text = Path(write_comparison([str(run), str(view)], "")).read_text(encoding="utf-8")
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


def test_long_texts_differ_where_they_do_and_costs_stand_below_their_names(tmp_path: Path) -> None:
    first, second = (Path(make_run(tmp_path / name)) for name in ("one", "two"))
    for run, end in ((first, "first"), (second, "second")):
        file = run / "recipe.yaml"
        recipe = yaml.safe_load(file.read_text())
        recipe["student"]["prompt"]["system"] = f"{'the same words ' * 20}and the {end} ones"
        file.write_text(yaml.safe_dump(recipe))
    file = second / "results.json"
    results = json.loads(file.read_text())
    for cost in results["costs"]:
        cost["scored_tokens"] = 1234567
    file.write_text(json.dumps(results))
    text = Path(write_comparison([str(first), str(second)], "")).read_text(encoding="utf-8")
    assert "and the first ones" in text and "and the second ones" in text
    runs = {"A": read_run(first), "B": read_run(second)}
    for table in _results(runs):
        assert isinstance(table, Table)
        place = table.header.index("Scored tokens")
        assert {len(row) for row in table.rows} == {len(table.header)}
        of_students = {(str(row[0]), str(row[place])) for row in table.rows if row[place] != "0"}
        assert of_students == {("B", "1,234,567")}


def change_answers(run: Path, changes: dict[str, dict]) -> None:
    """Of AdvDistill, by the problem's name."""
    file = run / "stages/answers/advdistill-0/answers.parquet"
    rows = pq.read_table(file).to_pylist()
    assert set(changes) <= {row["problem_id"] for row in rows}
    changed = [row | changes.get(row["problem_id"], {}) for row in rows]
    pq.write_table(pa.Table.from_pylist(changed), file)


def test_differences_to_the_first_run_are_paired_where_problems_are_shared(tmp_path: Path) -> None:
    first, second = (Path(make_run(tmp_path / name)) for name in ("one", "two"))
    rows = pq.read_table(first / "stages/answers/advdistill-0/answers.parquet").to_pylist()
    wrong = [r for r in rows if r["split"] == "test" and r["lenient_verdict"] != "correct"]
    assert len(wrong) > 9
    gained = {row["problem_id"]: {"lenient_verdict": "correct"} for row in wrong[:9]}
    other = {wrong[9]["problem_id"]: {"question": "another", "lenient_verdict": "correct"}}
    change_answers(second, gained | other)
    found = {
        (pair.model, pair.split): pair
        for pair in paired({"A": read_run(first), "B": read_run(second)})
    }
    assert len(found) == 2 * len(SKILL)
    pair = found["advdistill", "test"]
    gap = pair.difference
    assert (pair.letter, pair.minus, gap.num_problems) == ("B", "advdistill", 119)
    assert gap.value == pytest.approx(9 / 119)
    # Of 119 problems 9 are gained: the draws' mean is normal enough for this much.
    half = 1.96 * np.std([1.0] * 9 + [0.0] * 110) / 119**0.5
    assert (gap.low, gap.high) == pytest.approx((9 / 119 - half, 9 / 119 + half), abs=0.01)
    same = found["sft", "ood"].difference
    assert (same.value, same.num_problems, same.p) == (0.0, 120, 1.0)
    assert gap.p_holm == pytest.approx(min(1.0, 10 * gap.p))
    page = write_comparison([str(first), str(second)], "")
    assert page == str(first / "compare.html")
    text = Path(page).read_text(encoding="utf-8")
    assert "B AdvDistill minus A AdvDistill" in text
    assert f"{points(gap.low)} to {points(gap.high)}" in text
    assert "adjusted for all 10 of this table" in text
    assert "19,752 / 19,752" in text
    assert "Nothing that changes a result differs between them." in text


def test_runs_without_a_shared_problem_are_not_paired(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    for file in (tmp_path / "two/stages/answers").glob("*/answers.parquet"):
        rows = pq.read_table(file).to_pylist()
        pq.write_table(pa.Table.from_pylist([r | {"reference": "other"} for r in rows]), file)
    text = Path(write_comparison(runs, str(tmp_path / "page.html"))).read_text(encoding="utf-8")
    assert "No model of these runs can be paired" in text
    assert "minus" not in text


def test_answers_of_further_seeds_belong_to_their_student(tmp_path: Path) -> None:
    first, second = (Path(make_run(tmp_path / name)) for name in ("one", "two"))
    graph = json.loads((second / "graph.json").read_text())
    graph["answers/advdistill-seed_3"] = "stages/answers/advdistill-1"
    shutil.copytree(second / graph["answers/advdistill"], second / "stages/answers/advdistill-1")
    (second / "graph.json").write_text(json.dumps(graph))
    recipe = yaml.safe_load((second / "recipe.yaml").read_text())
    recipe["compare"]["seeds"] = [0, 3]
    (second / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows = pq.read_table(first / "stages/answers/advdistill-0/answers.parquet").to_pylist()
    lost = [r for r in rows if r["split"] == "ood" and r["lenient_verdict"] == "correct"][:6]
    change_answers(second, {row["problem_id"]: {"lenient_verdict": "wrong"} for row in lost})
    (pair,) = (
        pair
        for pair in paired({"A": read_run(first), "B": read_run(second)})
        if (pair.model, pair.split) == ("advdistill", "ood")
    )
    # One of two seeds loses 6 of 120 problems.
    assert pair.difference.value == pytest.approx(-3 / 120)


def test_what_cannot_be_laid_side_by_side_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="named twice"):
        write_comparison([run, f"{run}/."], "")
    with pytest.raises(UserError, match=r"no recipe\.yaml in it"):
        write_comparison([run, str(tmp_path)], "")
