"""What is taken into the page of a store of groups, and what its numbers are."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml
from support.groups import make_completion, make_group, write_store
from support.run_folder import make_run

from fastdistill_ray.report import browser
from fastdistill_ray.report.browser import browser_blocks, ends
from fastdistill_ray.report.group_numbers import read_group_numbers
from fastdistill_ray.report.page import Browser, for_script
from fastdistill_ray.report.reading import read_run
from fastdistill_ray.run_files import GRAPH


def shown(run: Path) -> Browser:
    (block,) = browser_blocks(read_run(run))
    assert isinstance(block, Browser)
    return block


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Without groups yet."""
    path = Path(make_run(tmp_path / "run"))
    graph = json.loads((path / GRAPH).read_text())
    (path / GRAPH).write_text(json.dumps(graph | {"groups": "stages/groups/1"}))
    return path


def test_a_groups_numbers_are_those_of_the_store(run: Path) -> None:
    scores = [{"name": "cosine", "value": 0.25}, {"name": "own", "value": None}]
    completions = [
        make_completion("a", verdict="correct", reward=1.0, advantage=1.0, scores=scores),
        make_completion("b", verdict="error", reward=None, advantage=None, finish_reason="length"),
        make_completion("c", reward=0.0, advantage=-1.0, answer="7"),
    ]
    write_store(run / "stages/groups/1", [make_group("p", completions, teacher="t")])
    data = shown(run).data
    ((name, question, reference, dropped, teacher, signals, rows),) = data["groups"]
    assert (name, question, reference, dropped, teacher, signals) == ("p", "q?", "1", "", "t", [])
    assert data["scores"] == ["cosine", "own"]
    tau = yaml.safe_load((run / "recipe.yaml").read_text())["objective"]["tau"]
    share = 1 / (1 + math.exp(-2 / tau))
    weights = [round(share, 4), None, round(1 - share, 4)]
    assert [row[:4] for row in rows] == [
        [0, 1.0, 1.0, weights[0]],
        [5, None, None, weights[1]],
        [1, 0.0, -1.0, weights[2]],
    ]
    assert [row[4:7] for row in rows] == [[3, "stop", ""], [3, "length", ""], [3, "stop", "7"]]
    assert [row[8] for row in rows] == [[0.25, None], [None, None], [None, None]]
    assert [row[9] for row in rows] == ["a", "b", "c"]


def test_stored_log_probabilities_are_told_as_likelihoods(run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["sampling"]["logprobs"] = 1
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    drawn = [math.log(p) for p in (0.5, 0.5, 0.5, 0.9, 0.1, 0.1)]
    both = [value for one in drawn for value in (one, -9.0)]
    completions = [make_completion(), make_completion()]
    group = make_group("p", completions, logprobs=both, logprob_ids=list(range(12)))
    write_store(run / "stages/groups/1", [group])
    ((*_, signals, rows),) = shown(run).data["groups"]
    assert signals == ["log-probabilities of the teacher"]
    assert [row[7] for row in rows] == [0.5, round((0.9 * 0.1 * 0.1) ** (1 / 3), 4)]


def test_of_many_groups_some_are_shown_from_all_over_the_store(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "MOST_GROUPS", 5)
    groups = [make_group(f"p{number}", [make_completion()]) for number in range(41)]
    write_store(run / "stages/groups/1", groups, per_file=7)
    block = shown(run)
    assert [row[0] for row in block.data["groups"]] == ["p0", "p10", "p20", "p30", "p40"]
    assert "5 of the 41 groups, spread evenly over the store" in block.note
    assert "all are in stages/groups/1 of the run folder" in block.note


@pytest.mark.parametrize("text", ["word " * 900, "\n<<" * 1500, "\u4f60\u597d" * 2000, "short"])
def test_both_ends_of_a_long_text_are_kept_within_the_limit(text: str) -> None:
    limit = 1000
    found = ends(text, limit)
    size = len(for_script(json.dumps(found, ensure_ascii=False)).encode())
    assert size <= limit * 1.05
    if len(text) > 10:
        assert size > limit / 2
        assert found.startswith(text[:20]) and found.endswith(text[-20:])
        before, left, after = re.split(r"\n\[\.\.\. ([\d,]+) characters \.\.\.\]\n", found)
        assert len(before) + int(left.replace(",", "")) + len(after) == len(text)
    else:
        assert found == text


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "\u2028\u2029", '"\\'])
def test_no_text_ends_the_script_that_holds_it(text: str) -> None:
    escaped = for_script(json.dumps(text, ensure_ascii=False))
    assert "<" not in escaped and "\u2028" not in escaped
    assert json.loads(escaped) == text


def test_scores_are_read_by_name_and_completion(run: Path) -> None:
    def scored(**scores: float | None) -> dict:
        return make_completion(scores=[{"name": n, "value": v} for n, v in scores.items()])

    groups = [
        make_group("a", [scored(x=1.0, y=2.0), scored(x=None, y=3.0)]),
        make_group("b", [scored(), scored(y=4.0, z=5.0)]),
    ]
    write_store(run / "stages/groups/1", groups)
    numbers = read_group_numbers(run / "stages/groups/1")
    assert numbers is not None
    found = {
        name: [None if math.isnan(v) else v for v in values.tolist()]
        for name, values in numbers.scores.items()
    }
    assert found == {
        "x": [1.0, None, None, None],
        "y": [2.0, 3.0, None, 4.0],
        "z": [None, None, None, 5.0],
    }
