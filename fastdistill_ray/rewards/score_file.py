"""`fastdistill score FILE`: lines of responses -> the same lines judged, rewarded and weighted.

Lines keep the words of that format: gold is the reference, a response is a completion.
"""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import WRITTEN_KINDS
from fastdistill_ray.rewards import RewardKnobs, Scorer
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.assess import (
    Response,
    ToScore,
    assess,
    judge_group,
    relative,
    relative_weights,
)
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.storage.given import read_text
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.source import from_json
from fastdistill_ray.verifiers import Judge

LINES_AT_ONCE = 64  # groups of a file scored together, so that an endpoint is asked at once


class ScoreSummary(NamedTuple):
    num_lines: int
    num_responses: int
    verdicts: dict[str, int]
    seconds: float


def score_file(
    path: str | Path,
    output: str | Path,
    *,
    reward: RewardKnobs,
    advantage: AdvantageKnobs,
    tau: float,
) -> ScoreSummary:
    """Scores every line of a JSONL file into `output`, in order, none left out; weights are
    AdvDistill's at that temperature.

    All lines are checked before the first is judged; `output` appears when it is complete.
    UserError where a score fails of every response that has one.
    """
    begin = time.monotonic()
    path = Path(path)
    lines = read_lines(path)
    verdicts: Counter[str] = Counter()
    failures: list[str] = []
    num_scored = 0
    output = Path(output)
    _check_output(path, output)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    cache = Place(output.with_name(f"{output.name}.{LLM_JUDGE}"))
    try:
        with (
            Judge(reward.verifier) as judge,
            Scorer(reward, cache) as scorer,
            partial.open("w", encoding="utf-8") as file,
        ):
            scorer.check()
            for start in range(0, len(lines), LINES_AT_ONCE):
                batch = lines[start : start + LINES_AT_ONCE]
                for scored in _score_lines(batch, judge, scorer, advantage, tau):
                    items = scored.get("responses", [])
                    verdicts.update(item["verdict"] for item in items or [scored])
                    asked = [one for one in items if one["scores"] is not None]
                    num_scored += len(asked)
                    failures += [one["reason"] for one in asked if one["reward"] is None]
                    file.write(json.dumps(scored) + "\n")
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    if failures and num_scored == len(failures):
        raise UserError(f"{failures[0]} (all {num_scored} that were scored; {output} has them)")
    seconds = time.monotonic() - begin
    return ScoreSummary(len(lines), verdicts.total(), dict(verdicts), seconds)


def _check_output(path: Path, output: Path) -> None:
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}; make it first")
    if output.is_dir():
        raise UserError(f"--output {output}: that is a folder; name a file")
    if output.resolve() == path.resolve():
        raise UserError(f"--output {output}: that is the input; name another file")
    probe = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from error


def _score_lines(
    lines: list[dict[str, Any]],
    judge: Judge,
    scorer: Scorer,
    advantage: AdvantageKnobs,
    tau: float,
) -> Iterator[dict[str, Any]]:
    """A line with one response is judged only: there is no group to compare it with."""
    assessed = iter(
        assess([_to_score(line) for line in lines if "responses" in line], judge, scorer)
    )
    for line in lines:
        if "response" in line:
            (judgement,) = judge_group(_to_score(line), judge)
            yield {**line, **vars(judgement)}
            continue
        group = next(assessed)
        advantages = relative([one.reward for one in group], advantage)
        weights = relative_weights(advantages, tau)
        yield {
            **line,
            "responses": [
                {**item, **one._asdict(), "advantage": value, "weight": weight}
                for item, one, value, weight in zip(
                    line["responses"], group, advantages, weights, strict=True
                )
            ],
        }


def _to_score(line: dict[str, Any]) -> ToScore:
    items = line.get("responses") or [{"num_tokens": 0, **line, "text": line["response"]}]
    return ToScore(
        line["kind"],
        line["gold"],
        line.get("options") or [],
        [
            Response(item["text"], item["num_tokens"], item.get("finish_reason", "stop"))
            for item in items
        ],
        line.get("tolerance"),
        line.get("question", ""),
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The checked lines of a score file; UserError names the file, the line and all its faults."""
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    lines: list[dict[str, Any]] = []
    first_line: dict[str | int, int] = {}
    # Not splitlines(): JSON strings may hold U+2028, which it takes for a line break.
    for number, raw in enumerate(text.rstrip().split("\n"), start=1):
        if not raw.strip():
            continue
        line = _parse_line(raw, f"{path}, line {number}")
        earlier = first_line.setdefault(line["id"], number)
        if earlier != number:
            raise UserError(
                f"{path}, line {number}: id {line['id']!r} is that of line {earlier} too"
            )
        lines.append(line)
    return lines


def _parse_line(raw: str, where: str) -> dict[str, Any]:
    line = from_json(raw, where)
    if not isinstance(line, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(line).__name__}")
    gold = line.get("gold")
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        line["gold"] = str(gold)  # as an answer of a file of problems
    faults = _line_faults(line)
    if faults:
        raise UserError(f"{where}: {'; '.join(faults)}")
    return line


def _line_faults(line: dict[str, Any]) -> list[str]:
    """Every missing or ill-typed field of a line."""
    faults = []
    if "id" not in line:
        faults.append("id: missing")
    elif isinstance(line["id"], bool) or not isinstance(line["id"], str | int):
        faults.append("id: expected a string or an integer")
    if "kind" not in line:
        faults.append("kind: missing")
    elif line["kind"] not in WRITTEN_KINDS:
        faults.append(f"kind: {line['kind']!r} is none of {', '.join(WRITTEN_KINDS)}")
    faults += _text_faults(line, "gold")
    faults += _text_faults({"question": "", **line}, "question")
    if "response" in line and "responses" in line:
        faults.append("response, responses: give one of the two")
    elif "responses" in line:
        faults += _responses_faults(line["responses"])
    elif "response" in line:
        faults += _text_faults(line, "response")
        faults += _finish_faults(line)
    else:
        faults.append("response or responses: missing")
    options = line.get("options")
    if options is not None and not _is_texts(options):
        faults.append("options: expected a list of strings")
    if line.get("tolerance") is not None:
        faults += _tolerance_faults(line["tolerance"], line.get("kind"))
    return faults


def _tolerance_faults(tolerance: Any, kind: Any) -> list[str]:
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
        return ["tolerance: expected a number"]
    if not 0 <= tolerance < math.inf:
        return ["tolerance: expected a finite number of at least 0"]
    return [f"tolerance: kind {kind} has none"] if kind in ("choice", "text") else []


def _responses_faults(responses: Any) -> list[str]:
    if not isinstance(responses, list) or not responses:
        return ["responses: expected a list of at least one object"]
    faults = []
    for i, item in enumerate(responses):
        if not isinstance(item, dict):
            faults.append(f"responses[{i}]: expected an object")
            continue
        faults += [f"responses[{i}].{fault}" for fault in _text_faults(item, "text")]
        num_tokens = item.get("num_tokens")
        if "num_tokens" not in item:
            faults.append(f"responses[{i}].num_tokens: missing")
        elif isinstance(num_tokens, bool) or not isinstance(num_tokens, int) or num_tokens < 0:
            faults.append(f"responses[{i}].num_tokens: expected an integer of at least 0")
        faults += [f"responses[{i}].{fault}" for fault in _finish_faults(item)]
    return faults


def _text_faults(item: dict[str, Any], name: str) -> list[str]:
    if name not in item:
        return [f"{name}: missing"]
    return [] if isinstance(item[name], str) else [f"{name}: expected a string"]


def _finish_faults(item: dict[str, Any]) -> list[str]:
    is_known = isinstance(item.get("finish_reason", "stop"), str)
    return [] if is_known else ["finish_reason: expected a string"]


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
