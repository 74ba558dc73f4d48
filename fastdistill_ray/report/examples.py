"""The few groups and problems that the report shows in full."""

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fastdistill_ray.report.group_numbers import SCORE_FIELDS, group_batches
from fastdistill_ray.report.reading import Contents
from fastdistill_ray.run_files import ANSWERS
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet

NUM_GROUPS_SEARCHED = 512


class ProblemAnswers(NamedTuple):
    """One evaluated problem and every model's first answer to it."""

    heading: str
    question: str
    reference: str
    answers: dict[str, dict[str, Any]]


def example_groups(run: Contents) -> list[tuple[str, dict[str, Any]]]:
    """The first group of each sort: of mixed verdicts, all correct, none correct, dropped."""
    order = ("Mixed group", "All correct", "None correct", "Dropped")
    found: dict[str, dict[str, Any]] = {}
    columns = ["question", "reference", "dropped"]
    fields = ("text", "num_tokens", "finish_reason", "verdict", "reward", "advantage")
    fields += SCORE_FIELDS
    if "groups" not in run.stages:
        return []
    batches = group_batches(run.stages["groups"], columns, fields, batch_size=64)
    num_seen = 0
    for batch in batches:
        for group in batch.to_pylist():
            found.setdefault(sort_of(group), group)
        num_seen += batch.num_rows
        if len(found) == len(order) or num_seen >= NUM_GROUPS_SEARCHED:
            break
    return [(name, found[name]) for name in order if name in found]


def example_answers(run: Contents, student: str) -> list[ProblemAnswers]:
    """Test problems that `student` gained over the base, and one it gets wrong."""
    if student not in run.answers:
        return []
    split = run.answers[student]["split"][0].as_py()
    right = {model: _first_answers(run.answers[model], split) for model in run.answers}
    base = right.get("base", {})
    own = sorted(right[student].items())
    gained = [i for i, ok in own if ok and not base.get(i, True)]
    lost = [i for i, ok in own if not ok]
    chosen = [("gained", i) for i in gained[:2]] + [("lost", i) for i in lost[:1]]
    ids = [problem_id for _, problem_id in chosen]
    texts = {
        model: _texts(run.stages[f"answers/{model}"] / ANSWERS, split, ids) for model in run.answers
    }
    examples = []
    for heading, problem_id in chosen:
        answers = {m: texts[m][problem_id] for m in texts if problem_id in texts[m]}
        first = answers[student]
        examples.append(ProblemAnswers(heading, first["question"], first["reference"], answers))
    return examples


def _first_answers(table: pa.Table, split: str) -> dict[str, bool]:
    first = table.filter((pc.field("split") == split) & (pc.field("k") == 0))
    pairs = zip(*(first[c].to_pylist() for c in ("problem_id", "lenient_verdict")), strict=True)
    return {problem_id: verdict == "correct" for problem_id, verdict in pairs}


def _texts(file: Place, split: str, ids: list[str]) -> dict[str, dict[str, Any]]:
    columns = ["problem_id", "question", "reference", "text", "num_tokens", "finish_reason"]
    rows = read_parquet(file, [*columns, "verdict", "lenient_verdict", "split", "k"])
    is_wanted = pc.field("problem_id").isin(ids) & (pc.field("split") == split)
    found = rows.filter(is_wanted & (pc.field("k") == 0)).to_pylist()
    return {row["problem_id"]: row for row in found}


def sort_of(group: dict[str, Any]) -> str:
    if group["dropped"]:
        return "Dropped"
    verdicts = {completion["verdict"] == "correct" for completion in group["completions"]}
    if len(verdicts) == 2:
        return "Mixed group"
    return "All correct" if True in verdicts else "None correct"
