"""What the report says of a run's stages, of what it was made from, and first of all."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support.run_folder import folder_of, make_run

from fastdistill_ray.evaluation.statistics import Difference, Estimate
from fastdistill_ray.report.brief import brief_table, rivals_table
from fastdistill_ray.report.conclusion import conclusion
from fastdistill_ray.report.drawing import direct, graph_svg
from fastdistill_ray.report.page import Cell, Table
from fastdistill_ray.report.provenance import provenance_blocks
from fastdistill_ray.report.reading import Results, of_one_run, read_run
from fastdistill_ray.report.sections import write_report
from fastdistill_ray.report.stages import find_troubles, sources, stage_blocks, status_sentence
from fastdistill_ray.report.timeline import _spans
from fastdistill_ray.storage.place import Place


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_run(tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def rows_of(blocks: list) -> dict[str, list[str]]:
    (table,) = [block for block in blocks if isinstance(block, Table)][:1]
    return {str(row[0]): [str(cell) for cell in row[1:]] for row in table.rows}


def test_stages_are_told_with_what_they_are_made_from(run: Path) -> None:
    found_run = read_run(run)
    found = sources(found_run)
    assert found["groups"] == ["problems"]
    assert found["train/sft-lr_2e-05"] == ["groups"]
    assert found["answers/sft"] == ["problems", "train/sft-lr_5e-05"]
    assert found["answers/sft_lr_2e-05_epoch_1"] == ["problems", "train/sft-lr_2e-05"]
    assert found["answers/base"] == ["problems"] and found["problems"] == []
    rows = rows_of(stage_blocks(found_run, find_troubles(found_run)))
    assert rows["groups"][:2] == ["complete", "problems"]
    assert "too few correct" in rows["groups"][-1]


def test_a_line_that_follows_from_others_is_not_drawn() -> None:
    lines = {"a": [], "b": ["a"], "c": ["a", "b"]}
    assert direct(lines["c"], lines) == ["b"]
    assert direct(["a"], lines) == ["a"]
    assert all(f">{name}</text>" in graph_svg(lines) for name in lines)


def test_failures_restarts_and_what_is_unfinished_are_told(run: Path) -> None:
    whole = read_run(run)
    none = find_troubles(whole)
    assert set(map(tuple, none.values())) == {()}
    assert status_sentence(whole, none).startswith("Complete: all 19 stages are. None of them")
    groups = run / folder_of("groups")
    aside = [{"key": "p", "reason": "two engines died of it", "time": 0.0}] * 2
    (groups / "set_aside.jsonl").write_text("".join(json.dumps(one) + "\n" for one in aside))
    (groups / "stall-1.txt").write_text("a stack")
    (groups / "damaged").mkdir()
    (groups / "damaged/part.parquet").write_text("")
    training = run / folder_of("train/sft-lr_2e-05")
    # Each step takes 5 seconds; before the fourth nothing is done for 7.5 minutes.
    ends = [100.0, 105.0, 110.0, 565.0, 570.0]
    steps = [json.dumps({"step": step, "time": end}) for step, end in enumerate(ends)]
    (training / "steps.jsonl").write_text("\n".join(steps) + "\n")
    (run / folder_of("answers/base") / "manifest.json").unlink()
    found = read_run(run)
    troubles = find_troubles(found)
    rows = rows_of(stage_blocks(found, troubles))
    told = rows["groups"][-1].split("; ")
    assert told[1:] == [
        "times it hung: 1",
        "damaged files made again: 1",
        "2 not answered: two engines died of it",
    ]
    assert rows["train/sft-lr_2e-05"][-1] == "no step for 7.5 minutes before step 4"
    assert rows["answers/base"][0] == "not complete"
    assert status_sentence(found, troubles) == (
        "Unfinished: 18 of the 19 stages begun are complete, answers/base is not. In 2 of them "
        "something failed, hung or paused and was gone on with, such as groups; the table of "
        "stages says what."
    )


def test_two_names_of_one_stage_are_both_complete(run: Path) -> None:
    graph = json.loads((run / "graph.json").read_text())
    graph["answers/teacher"] = graph["answers/base"]
    (run / "graph.json").write_text(json.dumps(graph))
    found = read_run(run)
    assert status_sentence(found, find_troubles(found)).startswith("Complete: all 19 stages are.")


def test_training_whose_first_step_is_not_done_has_no_line_yet(run: Path) -> None:
    (run / folder_of("train/sft-lr_2e-05") / "steps.jsonl").write_text("")
    assert "sft 2e-05" not in read_run(run).timeline.trainings
    assert write_report(str(run))


def test_model_that_answered_fewer_problems_is_named(run: Path) -> None:
    file = run / "results.json"
    results = json.loads(file.read_text())
    for row in results["rows"]:
        if (row["model"], row["split"]) == ("base", "test"):
            row["num_problems"] -= 3
    file.write_text(json.dumps(results))
    table = brief_table(read_run(run), "")
    assert table
    (trusted,) = [str(answer) for question, answer in table.rows if "trust" in str(question)]
    assert "of the test problems alone; differences from it are over these." in trusted


def test_timeline_leaves_out_time_in_which_nothing_was_done(run: Path) -> None:
    """Problems 0.4 s; groups 212 s until 10:01; a day later all the rest."""
    for file in run.glob("stages/**/manifest.json"):
        manifest = json.loads(file.read_text())
        if manifest["stage"] not in ("problems", "groups"):
            manifest["finished"] = manifest["finished"].replace("-01T", "-02T")
            file.write_text(json.dumps(manifest))
    spans = {span.label: span for span in _spans(read_run(run))}
    assert spans["groups"].start == 0 and spans["groups"].end == pytest.approx(212 / 60)
    first = spans["train/sft-lr_2e-05"]
    assert first.start == pytest.approx(212 / 60)
    assert first.end - first.start == pytest.approx(120.8 / 60)
    # They finish a minute apart and take two: from the second on one more minute each.
    assert spans["train/sft-lr_5e-05"].end == pytest.approx(first.end + 1)


def test_provenance_has_revisions_seeds_workers_code_and_command(run: Path) -> None:
    (run / "git.txt").write_text("0123abc-dirty\ndiff --git a/x b/x\n+one line\n")
    found = provenance_blocks(read_run(run))
    rows = {name: which for name, (which,) in rows_of(found).items()}
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert rows["Teacher model"] == f"{recipe['teacher']['model']} (smollm@b179c952)"
    assert rows["The problems of task"] == "3737ccd7"
    assert f"sampling {recipe['sampling']['seed']}" in rows["Seeds"]
    assert "teacher: 1 of" in rows["Workers asked for"]
    assert rows["Code of the run"] == "0123abc, with changes that were not committed (below)"
    assert rows["Command"] == "fastdistill distill RUN/recipe.yaml --run-dir NEW"
    assert rows["Written by"].startswith("fastdistill-ray")
    write_report(str(run))
    assert "+one line" in (run / "report.html").read_text()


def test_four_questions_are_answered_first(run: Path) -> None:
    table = brief_table(read_run(run), "All went well.")
    assert table is not None
    rows = {str(question): str(answer) for question, answer in table.rows}
    results = json.loads((run / "results.json").read_text())
    (gap,) = (
        row
        for row in results["differences"]
        if (row["minus"], row["split"], row["metric"]) == ("teacher", "ood", "accuracy")
    )
    assert "Better than the base student: yes" in rows["Is it better?"]
    assert "Better than the few-shot teacher: yes, on test and out-of-dis" in rows["Is it better?"]
    said = "no difference can be shown from SFT on best completion (74.2 %)."
    assert rows["Is it better?"].endswith(f"On test problems (68.3 %): {said}")
    assert "Against SFT on best completion: -5.8 points on test" in rows["By how much?"]
    assert "One training of SFT on best completion: 19,752 in 121 seconds" in rows["At what cost?"]
    numbers = [f"{100 * gap[name]:+.1f}" for name in ("value", "low", "high")]
    assert (
        "{} points on out-of-distribution problems ({} to {})".format(*numbers)
        in rows["By how much?"]
    )
    assert "19,752 trained tokens in 121 seconds" in rows["At what cost?"]
    for words in ("120 problems", "Holm", "8 comparisons", "One training seed", "validation"):
        assert words in rows["Can I trust it?"]
    assert rows["Can I trust it?"].endswith(" All went well.")
    write_report(str(run))
    text = (run / "report.md").read_text()
    assert text.index("Is it better?") < text.index("AdvDistill solves")


def test_many_others_are_told_by_numbers_and_each_in_a_table(run: Path) -> None:
    found = read_run(run)
    shares = {"base": 0.2, "teacher": 0.5, "sft": 0.61, "dpo": 0.55, "jsd": 0.4, "tvd": 0.3}
    rows = {
        (name, "test", "accuracy"): Estimate(share, 0, 1, 9, 9) for name, share in shares.items()
    }
    rows["advdistill", "test", "accuracy"] = Estimate(0.6, 0.5, 0.7, 9, 9)
    gaps = {
        ("advdistill", name, "test", "accuracy"): Difference(
            0.6 - share, 0.55 - share, 0.65 - share, 9, 9, 0.01, 0.01 if share < 0.55 else 0.5
        )
        for name, share in shares.items()
    }
    costs = {name: {"trained_tokens": 1000, "seconds": 5.0} for name in ("dpo", "jsd", "tvd")}
    plain = found.recipe["compare"]["students"][0]
    students = [{**plain, "kind": kind} for kind in ("sft", "dpo", "jsd", "tvd")]
    compare = {**found.recipe["compare"], "students": students}
    many = found._replace(
        results=Results(rows, gaps, costs), recipe={**found.recipe, "compare": compare}
    )
    assert rivals_table(found) is None
    table = rivals_table(many)
    assert table is not None
    told = [[one.text if isinstance(one, Cell) else one for one in row] for row in table.rows]
    assert len(told) == 6
    assert [row[1] for row in told[:3]] == ["+10.0", "+40.0", "-1.0"], "bases first, then the best"
    assert [row[2] for row in told[:3]] == ["yes", "yes", "not shown"]
    assert {row[3] for row in told} == {"0", "1,000"}
    brief = brief_table(many, "")
    assert brief and "Of 4 others" not in str(brief.rows[0])
    said = conclusion(many.results, many.recipe)[0]
    assert (
        "Of 6 models it beats 4, is worse than none, and from 2 no difference can be shown" in said
    )
    assert "the best of them is the SFT baseline (61.0 %)" in said


def test_nothing_is_said_of_a_choice_where_no_validation_problem_was_answered(run: Path) -> None:
    found = read_run(run)
    trials = [{**trial, "validation_accuracy": None} for trial in found.trials]
    table = brief_table(found._replace(trials=trials), "")
    assert table is not None and "validation" not in str(table.rows[-1])
    assert "none were chosen among several" in str(table.rows[-1])


def test_markdown_has_every_figure_as_a_file_beside_it(run: Path) -> None:
    (run / "figures").mkdir()
    (run / "figures/stale.svg").write_text("<svg/>")
    write_report(str(run))
    text = (run / "report.md").read_text()
    files = {file.name for file in (run / "figures").iterdir()}
    assert len(files) == (run / "report.html").read_text().count("<svg ") > 9
    for name in files:
        assert f"](figures/{name})" in text
        assert "var(--" not in (run / "figures" / name).read_text()


def test_stage_made_from_one_that_another_has_replaced_is_not_shown(tmp_path: Path) -> None:
    """As of problems whose file was changed: the run was stopped after it had judged the new."""
    inputs = {
        "problems/0a": {},
        "groups/0b": {},
        "groups/0c": {},
        "train/sft-lr_1-0d": {"groups": "0b"},
        "answers/sft-0e": {"model": "stages/train/sft-lr_1-0d/epoch_1"},
        "answers/base-0f": {"model": "folder@1234"},
    }
    for name, given in inputs.items():
        (tmp_path / "stages" / name).mkdir(parents=True)
        (tmp_path / "stages" / name / "stage.json").write_text(json.dumps({"inputs": given}))
    graph = {name.rpartition("-")[0] or name.partition("/")[0]: name for name in inputs}
    (tmp_path / "recipe.yaml").touch()
    for groups, expected in (("groups/0b", 5), ("groups/0c", 3), ("", 4)):
        now = {**graph, "groups": groups} if groups else graph | {"groups": None}
        places = {name: f"stages/{place}" for name, place in now.items() if place}
        (tmp_path / "graph.json").write_text(json.dumps(places))
        assert len(of_one_run(Place(tmp_path))) == expected
