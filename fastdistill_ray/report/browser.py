"""The groups that a reader can search, filter and sort in the page itself.

All of them where they are few. Of many, MOST_GROUPS spread evenly over the store, and of long texts
both ends, so that a page stays below 5 MiB however large its run is.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.store import Store, batches_of
from fastdistill_ray.records import VERDICTS
from fastdistill_ray.report.completions import shown_completions, weights_of
from fastdistill_ray.report.group_numbers import SCORE_FIELDS
from fastdistill_ray.report.page import Block, Browser, Example, for_script
from fastdistill_ray.report.reading import Contents
from fastdistill_ray.run_files import run_of
from fastdistill_ray.storage.place import Place

MOST_GROUPS = 500
MOST_BYTES = 3_000_000  # of all completions shown
MOST_OF_ONE = 4_000
MOST_OF_QUESTION = 1_500
NUM_PLAIN = 3  # without scripts
COLUMNS = ["problem_id", "question", "reference", "teacher", "dropped"]
FIELDS = (
    *("text", "num_tokens", "finish_reason", "verdict", "answer", "reward", "advantage"),
    *SCORE_FIELDS,
)


def browser_blocks(run: Contents) -> list[Block]:
    if run.groups is None:
        return []
    folder = run.stages["groups"]
    commits = list(Store(folder).commits())
    total = sum(len(commit.keys) for commit in commits)
    places = np.unique(np.linspace(0, total - 1, min(total, MOST_GROUPS)).astype(int))
    signals = _signals(run)
    columns = [*COLUMNS]
    if len(places) == total and run.recipe["sampling"].get("logprobs"):
        columns.append("logprobs")  # of a whole large store they are more than all texts
    groups = list(_groups(folder, commits, places, columns))
    num_completions = sum(len(group["completions"]) for group in groups)
    limit = min(MOST_OF_ONE, MOST_BYTES // max(num_completions, 1))
    names = list(
        dict.fromkeys(s["name"] for g in groups for c in g["completions"] for s in c["scores"])
    )
    rows = [_row(group, run.recipe["objective"], names, signals, limit) for group in groups]
    data = {"verdicts": VERDICTS, "scores": names, "groups": rows}
    plain = [
        Example(
            f"Group {group['problem_id']}",
            group["question"],
            group["reference"],
            shown_completions(group["completions"], run.recipe["objective"]),
        )
        for group in groups[:NUM_PLAIN]
    ]
    return [Browser(_note(len(groups), total, limit, folder, run), data, plain)]


def _note(shown: int, total: int, limit: int, folder: Place, run: Contents) -> str:
    which = f"All {total:,} groups of the store, in its order."
    if shown < total:
        which = (
            f"{shown:,} of the {total:,} groups, spread evenly over the store in its order; all "
            f"are in {folder.relative_to(run_of(run.path))} of the run folder."
        )
    return (
        f"{which} Of completions longer than about {limit:,} bytes both ends are shown. Search, "
        f"filters and sorting need scripts; without them the first {min(NUM_PLAIN, shown)} groups "
        "are below."
    )


def _groups(
    folder: Place, commits: list[Commit], places: np.ndarray, columns: list[str]
) -> Iterator[dict[str, Any]]:
    """Those at these places of the store; files without any are not opened."""
    start = 0
    for commit in commits:
        own = places[(places >= start) & (places < start + len(commit.keys))] - start
        start += len(commit.keys)
        if not len(own):
            continue
        row = 0
        for batch in batches_of(folder / commit.file, columns, FIELDS, 64):
            for place in own[(own >= row) & (own < row + batch.num_rows)]:
                yield batch.slice(int(place) - row, 1).to_pylist()[0]
            row += batch.num_rows


def _signals(run: Contents) -> dict[str, set[str]]:
    """What was stored of the tokens of a group, by name -> the groups that have it."""
    return {
        name.partition("/")[2].replace("_", " "): set(Store(folder).keys())
        for name, folder in run.stages.items()
        if name.startswith("signals/")
    }


def _row(
    group: dict[str, Any],
    objective: dict[str, Any],
    names: list[str],
    signals: dict[str, set[str]],
    limit: int,
) -> list[Any]:
    """As browser.js reads it."""
    completions = group["completions"]
    own = [name for name, keys in signals.items() if group["problem_id"] in keys]
    likelihoods = _likelihoods(group)
    own += (
        ["log-probabilities of the teacher"] if any(one is not None for one in likelihoods) else []
    )
    rows = []
    for one, weight, likelihood in zip(
        completions, weights_of(completions, objective), likelihoods, strict=True
    ):
        scores = {score["name"]: score["value"] for score in one["scores"]}
        rows.append(
            [
                VERDICTS.index(one["verdict"]),
                *(_short(value) for value in (one["reward"], one["advantage"], weight)),
                one["num_tokens"],
                one["finish_reason"],
                ends(one["answer"] or "", 120),
                _short(likelihood),
                [_short(scores.get(name)) for name in names],
                ends(one["text"], limit),
            ]
        )
    question, reference = (
        ends(group[name], MOST_OF_QUESTION) for name in ("question", "reference")
    )
    return [group["problem_id"], question, reference, group["dropped"], group["teacher"], own, rows]


def _likelihoods(group: dict[str, Any]) -> list[float | None]:
    """Geometric mean of the probabilities that the teacher gave the tokens it drew."""
    completions = group["completions"]
    flat = group.get("logprobs")
    num_tokens = sum(one["num_tokens"] for one in completions)
    if not flat or not num_tokens or len(flat) % num_tokens:
        return [None] * len(completions)
    drawn = np.array(flat, float).reshape(num_tokens, -1)[:, 0]
    ends_at = np.cumsum([one["num_tokens"] for one in completions])
    parts = np.split(drawn, ends_at[:-1])
    return [math.exp(part.mean()) if len(part) else None for part in parts]


def ends(text: str, limit: int) -> str:
    """Both ends of a text that would take more bytes of the page."""
    size = len(for_script(json.dumps(text, ensure_ascii=False)).encode())
    if size <= limit:
        return text
    half = max(20, int(len(text) * limit / size) // 2 - 20)
    left = len(text) - 2 * half
    return f"{text[:half]}\n[... {left:,} characters ...]\n{text[-half:]}" if left > 0 else text


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
