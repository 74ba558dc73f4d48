"""What lm-evaluation-harness says beside a run's own answers: counts by hand."""

import json
import shlex
from pathlib import Path

import yaml
from support.run_folder import make_run

from benchmarks.lm_eval.__main__ import TASK, compare, compared, export
from fastdistill_ray.run_files import ANSWERS
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet


def theirs(name: str, is_right: int, text: str, found: str = "7") -> dict:
    doc = {"problem_id": name, "question": "3 + 4?", "reference": "7"}
    answer = {"resps": [[text]], "filtered_resps": [found], "exact_match": float(is_right)}
    return {"doc": doc, "filter": "boxed", **answer}


def ours(name: str, verdict: str, text: str) -> dict:
    row = {"problem_id": name, "reference": "7", "text": text, "verdict": verdict, "answer": "7"}
    return {name: row}


def test_what_both_say_is_counted_problem_by_problem():
    rows = [
        (theirs("a", 1, "7"), ours("a", "correct", "7")),
        (theirs("b", 0, "8"), ours("b", "wrong", "8 ")),
        (theirs("c", 1, "7"), ours("c", "wrong", "7")),
        (theirs("d", 0, "7"), ours("d", "correct", "seven")),
        (theirs("e", 0, "9"), ours("e", "missing", "none")),
    ]
    own = {name: row for _, one in rows for name, row in one.items()}
    found = compared("boxed", "verdict", [one for one, _ in rows], own)
    assert (found["agree"], found["only_theirs"], found["only_ours"]) == (3, 1, 1)
    assert (found["equal_texts"], found["agree_on_equal_texts"]) == (3, 2)
    assert found["theirs"].startswith("40.0 (") and found["ours"].startswith("40.0 (")
    assert [one["problem_id"] for one in found["apart"]] == ["c", "d"]


def test_export_and_compare_a_run(tmp_path: Path):
    run = Place(make_run(str(tmp_path / "run")))
    command = export(run, "test", 5, tmp_path / "out")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    words = shlex.split(command)
    assert recipe["student"]["prompt"]["system"] in words
    assert f"max_gen_toks={recipe['evaluation']['max_new_tokens']}" in words
    written = (tmp_path / "out" / "problems.jsonl").read_text().splitlines()
    problems = [json.loads(line) for line in written]
    assert len(problems) == 5 and (tmp_path / "out" / "problems.yaml").is_file()
    answers = read_parquet(run / f"stages/answers/base-0/{ANSWERS}").to_pylist()
    right = {one["problem_id"] for one in answers if one["verdict"] == "correct"}
    samples = [
        theirs(one["problem_id"], one["problem_id"] in right, "?") | {"filter": rule}
        for one in problems
        for rule in ("boxed", "last_number")
    ]
    lines = "".join(json.dumps(one) + "\n" for one in samples)
    (tmp_path / "out" / f"samples_{TASK}_2026.jsonl").write_text(lines)
    boxed, lenient = compare(run, "base", tmp_path / "out")
    assert (boxed["problems"], boxed["agree"]) == (5, 5)
    assert lenient["only_theirs"] == 0
