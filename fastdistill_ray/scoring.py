"""Completions and a reference answer -> verdicts, scores, rewards, advantages and weights.

`score_group` serves every stage; `score_file` is the verb `fastdistill score`, whose lines keep the
words of that format: gold is the reference, a response is a completion. No torch, no Ray.
"""

import json
import math
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastdistill_ray.advantages import AdvantageKnobs, group_advantages, softmax_weights
from fastdistill_ray.records import KINDS, Kind, Verdict
from fastdistill_ray.rewards import RewardKnobs, score_completion, weighted_reward
from fastdistill_ray.verifiers import Judge


class Response(NamedTuple):
    text: str
    num_tokens: int
    finish_reason: str = "stop"


@dataclass(frozen=True)
class ScoredCompletion:
    """Of a group whose reference cannot be used everything after `reason` is None."""

    verdict: Verdict
    answer: str
    reason: str
    scores: dict[str, float] | None
    reward: float | None
    advantage: float | None
    weight: float | None


class ScoreSummary(NamedTuple):
    num_lines: int
    num_responses: int
    verdicts: dict[str, int]
    seconds: float


def score_group(
    kind: Kind,
    reference: str,
    options: tuple[str, ...] | list[str],
    responses: list[Response],
    *,
    tolerance: float | None,
    judge: Judge,
    reward: RewardKnobs,
    advantage: AdvantageKnobs,
    tau: float,
) -> list[ScoredCompletion]:
    """One entry per response, in order; advantages and weights are relative to all of them."""
    fault = judge.reference_error(kind, reference, options)
    if fault:
        return [ScoredCompletion("error", "", fault, None, None, None, None) for _ in responses]
    judgements = [
        judge.judge(
            *(kind, response.text, reference, options, response.finish_reason),
            tolerance=tolerance,
        )
        for response in responses
    ]
    scores = [
        score_completion(response.text, response.num_tokens, judgement.verdict == "correct", reward)
        for response, judgement in zip(responses, judgements, strict=True)
    ]
    rewards = [weighted_reward(score, reward.weights) for score in scores]
    advantages = group_advantages(rewards, advantage)
    weights = softmax_weights(advantages, tau)
    return [
        ScoredCompletion(
            judgement.verdict,
            judgement.answer,
            judgement.reason,
            scores[i],
            rewards[i],
            float(advantages[i]),
            float(weights[i]),
        )
        for i, judgement in enumerate(judgements)
    ]


def score_file(
    path: str | Path,
    output: str | Path,
    *,
    reward: RewardKnobs,
    advantage: AdvantageKnobs,
    tau: float,
) -> ScoreSummary:
    """Scores every line of a JSONL file into `output`, in order, none left out.

    All lines are checked before the first is judged; `output` appears when it is complete.
    """
    begin = time.monotonic()
    lines = read_lines(Path(path))
    verdicts: Counter[str] = Counter()
    output = Path(output)
    if output.is_dir() or not output.parent.is_dir():
        raise ValueError(f"output {output}: not a file in an existing folder")
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with Judge(reward.verifier) as judge, partial.open("w", encoding="utf-8") as file:
            for line in lines:
                scored = _score_line(line, judge, reward, advantage, tau)
                verdicts.update(item["verdict"] for item in scored.get("responses", [scored]))
                file.write(json.dumps(scored) + "\n")
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    seconds = time.monotonic() - begin
    return ScoreSummary(len(lines), verdicts.total(), dict(verdicts), seconds)


def _score_line(
    line: dict[str, Any], judge: Judge, reward: RewardKnobs, advantage: AdvantageKnobs, tau: float
) -> dict[str, Any]:
    kind, gold, options = line["kind"], line["gold"], line.get("options") or []
    tolerance = line.get("tolerance")
    if "response" in line:
        finish_reason = line.get("finish_reason", "stop")
        judgement = judge.judge(
            *(kind, line["response"], gold, options, finish_reason), tolerance=tolerance
        )
        return {**line, **asdict(judgement)}
    responses = [
        Response(item["text"], item["num_tokens"], item.get("finish_reason", "stop"))
        for item in line["responses"]
    ]
    scored = score_group(
        *(kind, gold, options, responses),
        tolerance=tolerance,
        judge=judge,
        reward=reward,
        advantage=advantage,
        tau=tau,
    )
    pairs = zip(line["responses"], scored, strict=True)
    return {**line, "responses": [{**item, **asdict(score)} for item, score in pairs]}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The checked lines of a score file; ValueError names the file, the line and all its faults."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path}: a folder, expected a JSONL file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text") from error
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    lines: list[dict[str, Any]] = []
    first_line: dict[str | int, int] = {}
    # Not splitlines(): JSON strings may hold U+2028, which it takes for a line break.
    for number, raw in enumerate(text.rstrip().split("\n"), start=1):
        line = _parse_line(raw, f"{path}, line {number}")
        earlier = first_line.setdefault(line["id"], number)
        if earlier != number:
            raise ValueError(
                f"{path}, line {number}: id {line['id']!r} is that of line {earlier} too"
            )
        lines.append(line)
    return lines


def _parse_line(raw: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
    if not isinstance(line, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(line).__name__}")
    faults = _line_faults(line)
    if faults:
        raise ValueError(f"{where}: {'; '.join(faults)}")
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
    elif line["kind"] not in KINDS:
        faults.append(f"kind: {line['kind']!r} is none of {', '.join(KINDS)}")
    faults += _text_faults(line, "gold")
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
