import json
from pathlib import Path

from support.run_folder import make_run

from fastdistill_ray.report.overlaps import overlap_blocks, overlap_warning
from fastdistill_ray.report.page import Text
from fastdistill_ray.report.reading import Contents, read_run


def run_with(folder: Path, found: dict[str, str], short: int) -> Contents:
    run = Path(make_run(str(folder)))
    stage = run / "stages/overlaps/0"
    stage.mkdir(parents=True)
    aside = {"too_short": short, "overlaps_training_text": len(found)}
    aside = {why: number for why, number in aside.items() if number}
    manifest = {"rows_in": 1320, "set_aside": aside, "finished": "2026-11-29T00:00:00Z"}
    (stage / "manifest.json").write_text(json.dumps(manifest))
    (stage / "overlaps.json").write_text(json.dumps(found))
    graph = run / "graph.json"
    stages = {**json.loads(graph.read_text()), "overlaps": "stages/overlaps/0"}
    graph.write_text(json.dumps(stages))
    return read_run(str(run))


def test_tested_problems_in_training_texts_are_counted_named_and_warned_of(tmp_path: Path) -> None:
    found = {f"test/{number}": "p" for number in range(7)}
    run = run_with(tmp_path / "run", found, short=20)
    said = overlap_warning(run)
    assert overlap_blocks(run) == [Text(said)]
    assert said.startswith(
        "7 of the 1,300 tested problems (20 shorter ones cannot be looked for) share 13 words"
    )
    assert "(test/0, test/1, test/2, test/3, test/4, ...)" in said


def test_where_there_are_none_the_report_says_so_without_a_warning(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", {}, short=0)
    assert overlap_warning(run) == ""
    (block,) = overlap_blocks(run)
    assert isinstance(block, Text)
    assert block.text.startswith("None of the 1,320 tested problems shares 13 words in a row")


def test_nothing_is_said_where_it_was_not_looked_for(tmp_path: Path) -> None:
    run = read_run(make_run(str(tmp_path / "run")))
    assert overlap_blocks(run) == [] and overlap_warning(run) == ""
