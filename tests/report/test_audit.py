"""The audit: counts every completion, draws by seed, shows what it drew."""

import json
import random
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.run_folder import HOSTILE, make_run

from fastdistill_ray.records import VERDICTS
from fastdistill_ray.report.audit import Audit, Judged, write_audit
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.score_file import score_file
from fastdistill_ray.storage.place import Place

WHOLE = "<think>t</think><answer>\\boxed{%s}</answer>"


class Page(HTMLParser):
    """Verdicts of the answers shown, and whether the page asks for anything from elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.verdicts: Counter[str] = Counter()
        self.tags: set[str] = set()
        self.outside: list[str] = []
        self.text = Path(path).read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.outside += [v for k, v in given.items() if k in ("src", "href") and v[:1] != "#"]
        if tag == "span" and given.get("class", "").startswith("verdict "):
            self.verdicts[given["class"].split()[1]] += 1


def judged(place: int, verdict: str, task: str = "t", writer: str = "w") -> Judged:
    completion = {"text": f"text {place}", "verdict": verdict, "answer": "", "reason": "r"}
    return Judged(writer, task, f"p{place}", 0, "q", "42", [], completion)


def test_audit_counts_all_and_draws_the_same_whatever_the_order() -> None:
    rows = [judged(i, VERDICTS[i % 4 and 1], f"t{i % 3}") for i in range(300)]
    audits = [Audit(5, 0), Audit(5, 0), Audit(5, 1)]
    for number, audit in enumerate(audits):
        for row in random.Random(number).sample(rows, len(rows)):
            audit.add(row)
    same, again, other = ([one.problem_id for one in a.drawn("wrong")] for a in audits)
    assert same == again != other
    assert len(set(same)) == 5
    assert audits[0].verdicts == {"correct": 75, "wrong": 225}
    assert sum(counts.total() for counts in audits[0].counts.values()) == 300


def test_audit_draws_evenly() -> None:
    hits: Counter[str] = Counter()
    for seed in range(200):
        audit = Audit(5, seed)
        for place in range(20):
            audit.add(judged(place, "correct"))
        hits.update(one.problem_id for one in audit.drawn("correct"))
    assert len(hits) == 20
    assert min(hits.values()) >= 25 and max(hits.values()) <= 80  # 50 expected, deviation 6


def test_audit_of_a_scored_file_shows_each_verdict_and_prints_shares(tmp_path: Path) -> None:
    source, scored = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        {
            "id": i,
            "kind": "number",
            "gold": "42",
            "response": text,
            "task": task,
            "question": "6*7?",
        }
        for i, (text, task) in enumerate(
            [(WHOLE % 42, "a"), (WHOLE % 41, "a"), (HOSTILE, "a"), (WHOLE % 42, "b")]
        )
    ]
    lines.append({**lines[0], "id": "long", "response": "so " * 5000 + WHOLE % 424242, "task": "b"})
    group = [{"text": WHOLE % 42, "num_tokens": 3}, {"text": WHOLE % 7, "num_tokens": 4}]
    lines.append({"id": "g", "kind": "number", "gold": "42", "responses": group})
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    score_file(source, scored, reward=RewardKnobs(), advantage=AdvantageKnobs(), tau=0.5)
    path, shares = write_audit(str(scored), "", 3, 0)
    assert path == Place(tmp_path / "out.audit.html")
    rows = [line.split() for line in shares.splitlines()]
    assert rows[0] == ["task", "writer", "number", *VERDICTS]
    assert rows[1][:4] == ["a", "out.jsonl", "3", "33.3"]
    assert [row[0] for row in rows[1:]] == ["a", "b", "kind"]
    page = Page(path)
    assert page.verdicts == {"correct": 3, "wrong": 3, "unparsable": 1}
    assert "\\boxed{424242}" in page.text, "the end of a long text is shown"
    assert not page.outside and "script" not in page.tags
    assert HOSTILE not in page.text and "&lt;script&gt;" in page.text


def test_audit_of_a_run_reads_groups_and_answers(tmp_path: Path) -> None:
    run = Path(make_run(str(tmp_path / "run")))
    path, shares = write_audit(str(run), "", 2, 0)
    assert path == Place(run / "audit.html")
    assert "teacher's groups" in shares
    for model in ("base", "teacher", "advdistill"):
        assert f"answers/{model}" in shares
    page = Page(path)
    assert set(page.verdicts.values()) == {2}
    assert "reward" in page.text


@pytest.mark.parametrize("content", ['{"id": 1, "kind": "number", "gold": "4", "response": "4"}'])
def test_audit_of_a_file_that_is_not_judged_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "raw.jsonl").write_text(content + "\n")
    with pytest.raises(ValueError, match=r"line 1: not judged; run fastdistill score first"):
        write_audit(str(tmp_path / "raw.jsonl"), "", 2, 0)


def test_audit_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder"):
        write_audit(str(tmp_path), "", 2, 0)
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(ValueError, match="nothing is judged"):
        write_audit(str(tmp_path), "", 2, 0)
    with pytest.raises(ValueError, match="no such file"):
        write_audit(str(tmp_path / "none.jsonl"), "", 2, 0)
