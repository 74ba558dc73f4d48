"""Judged completions to read: some of each verdict, drawn by seed, and each verdict's share.

Of a run: the teacher's groups and every answer of its evaluations. Of a file: what `fastdistill
score` wrote. Reading is a batch at a time; what is shown is all that is kept.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import VERDICTS
from fastdistill_ray.report.group_numbers import SCORE_FIELDS, group_batches
from fastdistill_ray.report.page import (
    MAX_CHARACTERS,
    Block,
    Cell,
    Example,
    Page,
    Section,
    Shown,
    Table,
    Text,
    to_html,
)
from fastdistill_ray.rewards.score_file import read_lines
from fastdistill_ray.run_files import ANSWERS, AUDIT, RECIPE, stage_folders
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import open_parquet

TEACHER_GROUPS = "teacher's groups"
REASONS_SHOWN = 5  # of each verdict
COLUMNS = ["problem_id", "task", "question", "reference", "options"]
FIELDS = ("text", "num_tokens", "finish_reason", "verdict", "answer", "reason", "reward")

MEANING = {
    "correct": "The extracted answer equals the reference.",
    "wrong": "An answer was read and is another.",
    "unparsable": "No answer could be read.",
    "truncated": "Cut at the token limit before an answer.",
    "timeout": "Not decided within the time limit; counts as not correct.",
    "error": "Could not be judged or scored; has no reward and leaves its group.",
}


class Judged(NamedTuple):
    """One completion with its problem."""

    writer: str
    task: str
    problem_id: str
    place: int
    question: str
    reference: str
    options: list[str]
    completion: dict[str, Any]

    @property
    def verdict(self) -> str:
        return self.completion["verdict"]


class Audit:
    """Counts every completion it is shown and keeps the drawn ones."""

    def __init__(self, per_verdict: int, seed: int) -> None:
        self.per_verdict, self.seed = per_verdict, seed
        self.counts: dict[tuple[str, str], Counter[str]] = {}  # by task and writer
        self.reasons: dict[str, Counter[str]] = {}
        self._drawn: dict[str, list[tuple[int, Judged]]] = {}

    def add(self, one: Judged) -> None:
        self.counts.setdefault((one.task, one.writer), Counter())[one.verdict] += 1
        reason = " ".join(one.completion["reason"].split())[:160]
        self.reasons.setdefault(one.verdict, Counter())[reason] += 1
        # The smallest hashes: a random choice that depends on no order of arrival.
        key = f"{self.seed}/{one.writer}/{one.problem_id}/{one.place}"
        entry = (-int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"), one)
        drawn = self._drawn.setdefault(one.verdict, [])
        if len(drawn) < self.per_verdict:
            heapq.heappush(drawn, entry)
        elif entry[0] > drawn[0][0]:
            heapq.heapreplace(drawn, entry)

    def drawn(self, verdict: str) -> list[Judged]:
        return [one for _, one in sorted(self._drawn.get(verdict, []), key=lambda item: -item[0])]

    @property
    def verdicts(self) -> Counter[str]:
        return sum(self.counts.values(), Counter())


def write_audit(source: str, output: str, per_verdict: int, seed: int) -> tuple[Place, str]:
    """-> the page, and the shares as text."""
    path = Place(source)
    audit = Audit(per_verdict, seed)
    is_run = path.is_dir()
    judged = _read_run(path) if is_run else _read_file(Path(source))
    for one in judged:
        audit.add(one)
    if not audit.counts:
        raise UserError(f"audit {source}: nothing is judged in it yet")
    beside = path / AUDIT if is_run else Place(Path(source).with_suffix(".audit.html"))
    page = Place(output) if output else beside
    if page.is_local and (page.is_dir() or not page.parent.is_dir()):
        raise UserError(f"--output {page}: not a file in an existing folder")
    page.put(to_html(_page(source, audit)))
    return page, shares_text(audit)


def _read_run(run: Place) -> Iterator[Judged]:
    if not (run / RECIPE).is_file():
        raise UserError(f"audit {run}: no run folder, it holds no {RECIPE}")
    stages = stage_folders(run)
    fields = (*FIELDS, *SCORE_FIELDS)
    groups = stages.get("groups", run / "none")
    for batch in group_batches(groups, COLUMNS, fields, batch_size=64):
        for row in batch.to_pylist():
            for place, completion in enumerate(row["completions"]):
                yield _judged(TEACHER_GROUPS, row, place, completion)
    for name, folder in sorted(stages.items()):
        if name.startswith("answers/") and (folder / ANSWERS).exists():
            with open_parquet(folder / ANSWERS) as file:
                wanted = [*COLUMNS, "k", *FIELDS[:-1]]
                for batch in file.iter_batches(columns=wanted, batch_size=512):
                    for row in batch.to_pylist():
                        yield _judged(name, row, row["k"], row)


def _judged(writer: str, row: dict[str, Any], place: int, completion: dict[str, Any]) -> Judged:
    return Judged(
        writer=writer,
        task=row["task"],
        problem_id=row["problem_id"],
        place=place,
        question=row["question"],
        reference=row["reference"],
        options=row["options"] or [],
        completion=completion,
    )


def _read_file(path: Path) -> Iterator[Judged]:
    for number, line in enumerate(read_lines(path), start=1):
        items = line.get("responses") or [{**line, "text": line["response"]}]
        for place, item in enumerate(items):
            if not isinstance(item.get("verdict"), str) or "reason" not in item:
                raise UserError(f"{path}, line {number}: not judged; run fastdistill score first")
            yield Judged(
                path.name,
                str(line.get("task") or f"kind {line['kind']}"),
                str(line["id"]),
                place,
                line.get("question", ""),
                line["gold"],
                line.get("options") or [],
                item,
            )


def shares_text(audit: Audit) -> str:
    """The shares of each task as aligned lines."""
    header, *rows = [["task", "writer", "number", *VERDICTS], *_share_rows(audit, " %")]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    )


def _share_rows(audit: Audit, unit: str = "") -> list[list[str]]:
    return [
        [
            *(task, writer, f"{counts.total():,}"),
            *(f"{100 * counts[verdict] / counts.total():.1f}{unit}" for verdict in VERDICTS),
        ]
        for (task, writer), counts in audit.counts.items()
    ]


def _page(source: str, audit: Audit) -> Page:
    verdicts = audit.verdicts
    total, failed = verdicts.total(), verdicts["error"] + verdicts["timeout"]
    sections = [Section("Shares", [_share_table(audit), _reason_table(audit)])]
    for verdict in VERDICTS:
        drawn = audit.drawn(verdict)
        if drawn:
            head = Text(f"{MEANING[verdict]} {len(drawn)} of {verdicts[verdict]:,} are shown.")
            sections.append(
                Section(verdict.capitalize(), [head, *(_example(one) for one in drawn)])
            )
    return Page(
        title=f"Audit of {Place(source).name}",
        subtitle=f"{total:,} judged completions \u00b7 up to {audit.per_verdict} of each verdict, "
        f"drawn with seed {audit.seed}",
        conclusion=[
            f"{verdicts['correct']:,} of {total:,} completions are correct, strictly "
            f"({verdicts['correct'] / total:.1%}); {failed:,} could not be judged "
            f"({failed / total:.2%}, error and timeout). Read some of each verdict below: a wrong "
            "verdict poisons what follows it."
        ],
        sections=sections,
    )


def _share_table(audit: Audit) -> Table:
    header = ["Task", "Writer", "Completions", *(f"{name.capitalize()} %" for name in VERDICTS)]
    caption = "Strict verdicts, in percent of the row's completions."
    return Table(header, _share_rows(audit), caption, num_text_columns=2)


def _reason_table(audit: Audit) -> Table:
    rows: list[list[Cell | str]] = [
        [verdict.capitalize(), reason, f"{count:,}"]
        for verdict in VERDICTS
        for reason, count in audit.reasons.get(verdict, Counter()).most_common(REASONS_SHOWN)
    ]
    caption = f"The {REASONS_SHOWN} most frequent of each verdict: where the answer stood, and why."
    return Table(["Verdict", "Reason", "Completions"], rows, caption, 2, "Reasons")


def _example(one: Judged) -> Block:
    reference = one.reference
    if one.options:
        reference += f" of {len(one.options)} options: " + "; ".join(one.options)
    completion = one.completion
    facts = [completion["reason"], *_numbers(completion)]
    answer = completion["answer"] or "no answer"
    return Example(
        f"{one.task} {one.problem_id}, completion {one.place + 1} of {one.writer}",
        one.question or "(the file holds no question)",
        reference,
        [Shown(f"Read: {answer}", one.verdict, facts, _ends(completion["text"]), is_open=True)],
    )


def _ends(text: str) -> str:
    """Both ends of a long text: the answer stands in the last one."""
    half = MAX_CHARACTERS // 2 - 50  # with the note between it must not be shortened again
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"


def _numbers(completion: dict[str, Any]) -> Iterator[str]:
    if completion.get("num_tokens") is not None:
        yield f"{completion['num_tokens']:,} tokens"
    if completion.get("finish_reason", "stop") != "stop":
        yield f"finish: {completion['finish_reason']}"
    if completion.get("reward") is not None:
        yield f"reward {completion['reward']:.3f}"
    for name, value in _scores(completion.get("scores") or {}):
        yield f"{name} {'failed' if value is None else format(value, '.3f')}"


def _scores(scores: dict[str, Any] | list[dict[str, Any]]) -> Iterable[tuple[str, float | None]]:
    """A store keeps a list of name and value, a file an object."""
    if isinstance(scores, dict):
        return scores.items()
    return [(one["name"], one["value"]) for one in scores]
