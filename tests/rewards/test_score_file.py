"""The score file: both line forms, its count law, its faults, its speed."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.answers import draw_case, draw_spoilt

from fastdistill_ray.errors import UserError
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.score_file import ScoreSummary, score_file
from fastdistill_ray.verifiers.process import JudgingProcess

PATIENT = RewardKnobs(verifier={"time_limit": 200.0})
WHOLE = "<think>t</think><answer>\\boxed{%s}</answer>"


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def score(tmp_path: Path, lines: list[Any]) -> tuple[ScoreSummary, list[dict[str, Any]]]:
    source, output = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    summary = score_file(
        source, output, reward=PATIENT, advantage=AdvantageKnobs(eps=1e-8), tau=0.5
    )
    return summary, [json.loads(line) for line in output.read_text().splitlines()]


def test_score_file_group_has_reference_rewards_advantages_weights(tmp_path: Path) -> None:
    texts = [WHOLE % 42, WHOLE % 42, WHOLE % 41, "no"]
    responses = [
        {"text": text, "num_tokens": n, "mine": n}
        for text, n in zip(texts, [256, 1024, 512, 2048], strict=True)
    ]
    group = {"id": "g", "kind": "number", "gold": "42", "responses": responses, "note": [1]}
    summary, (scored,) = score(tmp_path, [group])
    got = scored["responses"]
    assert [item["verdict"] for item in got] == ["correct", "correct", "wrong", "unparsable"]
    assert [item["reward"] for item in got] == pytest.approx(
        [2.9619397663, 2.5, 0.8535533906, -1.0], abs=1e-9
    )
    assert [item["advantage"] for item in got] == pytest.approx(
        [1.0493400784, 0.7525169439, -0.3054206468, -1.4964363755], abs=1e-9
    )
    assert [item["weight"] for item in got] == pytest.approx(
        [0.6153744442, 0.3398772986, 0.0409646494, 0.0037836079], abs=1e-9
    )
    assert got[1]["scores"] == {"cosine": 0.75, "format": 1.0}
    assert {key: scored[key] for key in ("id", "kind", "gold", "note")} == {
        key: group[key] for key in ("id", "kind", "gold", "note")
    }
    assert [item["mine"] for item in got] == [256, 1024, 512, 2048]
    assert (summary.num_lines, summary.num_responses) == (1, 4)
    assert summary.verdicts == {"correct": 2, "wrong": 1, "unparsable": 1}


def test_score_file_single_lines_come_back_in_order_with_their_fields(tmp_path: Path) -> None:
    lines = [
        {"id": 1, "kind": "number", "response": "#### 42", "gold": "42", "extra": {"a": None}},
        {"id": "b", "kind": "choice", "response": WHOLE % "B", "gold": "B", "options": ["x", "y"]},
        {"id": "c", "kind": "number", "response": "", "gold": "42"},
        {"id": "d", "kind": "math", "response": WHOLE % "(x+1)^2", "gold": "x^2+2x+1"},
        {"id": "e", "kind": "number", "response": "#### 1\u2028", "gold": ""},
    ]
    summary, scored = score(tmp_path, lines)
    assert [
        {k: line[k] for k in source} for line, source in zip(scored, lines, strict=True)
    ] == lines
    assert [line["verdict"] for line in scored] == [
        *("correct", "correct", "unparsable", "correct", "error")
    ]
    assert all(isinstance(line["reason"], str) and line["reason"] for line in scored)
    assert scored[3]["answer"] == "(x+1)^2"
    assert summary.num_lines == 5


def test_column_text_beside_a_response_is_not_judged(tmp_path: Path) -> None:
    line = {"id": 1, "kind": "number", "response": "#### 3", "gold": "3", "text": "#### 4"}
    _, scored = score(tmp_path, [line])
    assert (scored[0]["verdict"], scored[0]["text"]) == ("correct", "#### 4")


def test_score_file_group_with_unusable_gold_has_no_rewards(tmp_path: Path) -> None:
    responses = [{"text": WHOLE % "", "num_tokens": 1}, {"text": "5", "num_tokens": 1}]
    _, (scored,) = score(
        tmp_path, [{"id": "g", "kind": "number", "gold": " ", "responses": responses}]
    )
    for item in scored["responses"]:
        assert item["verdict"] == "error" and item["reason"]
        assert [item[k] for k in ("scores", "reward", "advantage", "weight")] == [None] * 4


def test_score_file_tolerance_holds_for_line_and_group(tmp_path: Path) -> None:
    gold = {"kind": "number", "gold": "4.33", "tolerance": 0.01}
    responses = [{"text": WHOLE % value, "num_tokens": 9} for value in ("4.34", "4.35")]
    _, (single, group) = score(
        tmp_path,
        [
            {"id": 1, "response": WHOLE % "4.32", **gold},
            {"id": 2, "responses": responses, **gold},
        ],
    )
    assert single["verdict"] == "correct"
    assert [item["verdict"] for item in group["responses"]] == ["correct", "wrong"]


def test_score_file_length_at_limit_keeps_verdict(tmp_path: Path) -> None:
    responses = [{"text": WHOLE % 42, "num_tokens": n} for n in (2047, 2048, 10**9)]
    _, (scored,) = score(
        tmp_path, [{"id": "g", "kind": "number", "gold": "42", "responses": responses}]
    )
    assert [item["verdict"] for item in scored["responses"]] == ["correct"] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["empty"]),
        ("\n \n", ["empty"]),
        ('{"id": "a"}', ["line 1", "kind: missing", "gold: missing", "response or responses"]),
        ('{"id": "a", "kind": "number"', ["line 1", "not JSON"]),
        ("[1]", ["line 1", "object"]),
        (
            '{"id": [], "kind": "numbr", "gold": [4], "response": null, "options": "A"}',
            ["id: expected", "kind: 'numbr'", "gold: expected", "response: expected", "options"],
        ),
        (
            '{"id": "a", "kind": "number", "gold": "4", "responses": [{"text": 1}, 2, '
            '{"num_tokens": "3", "text": ""}]}',
            [
                *("responses[0].text: expected", "responses[0].num_tokens: missing"),
                *("responses[1]: expected", "responses[2].num_tokens: expected"),
            ],
        ),
        ('{"id": "a", "kind": "number", "gold": "4", "responses": []}', ["responses: expected"]),
        (
            '{"id": "a", "kind": "number", "gold": "4", "response": "", "tolerance": "1"}',
            ["tolerance: expected a number"],
        ),
        (
            '{"id": "a", "kind": "list", "gold": "4", "response": "", "tolerance": -1}',
            ["tolerance: expected a finite number of at least 0"],
        ),
        (
            '{"id": "a", "kind": "text", "gold": "4", "response": "", "tolerance": 1}',
            ["tolerance: kind text has none"],
        ),
    ],
)
def test_score_file_bad_line_names_everything_and_writes_nothing(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    good = '{"id": "z", "kind": "number", "gold": "4", "response": "#### 4"}\n'
    source = tmp_path / "in.jsonl"
    source.write_text(text if len(expected) == 1 and expected[0] == "empty" else text + "\n" + good)
    with pytest.raises(ValueError) as error:
        score_file(
            source, tmp_path / "out", reward=RewardKnobs(), advantage=AdvantageKnobs(), tau=0.5
        )
    message = str(error.value)
    assert str(source) in message and "\n" not in message
    assert all(part in message for part in expected), message
    assert list(tmp_path.iterdir()) == [source]


def test_score_file_duplicate_id_names_both_lines(tmp_path: Path) -> None:
    line = {"id": "a", "kind": "number", "gold": "4", "response": ""}
    with pytest.raises(ValueError, match=r"line 3: id 'a' is that of line 1"):
        score(tmp_path, [line, {**line, "id": "b"}, line])


def test_score_file_blank_lines_are_passed_over(tmp_path: Path) -> None:
    line = json.dumps({"id": 1, "kind": "number", "gold": "42", "response": "42"})
    source = tmp_path / "in.jsonl"
    source.write_text(f"{line}\n\n  \n{line.replace('1,', '2,', 1)}\n")
    summary = score_file(
        source, tmp_path / "out.jsonl", reward=PATIENT, advantage=AdvantageKnobs(), tau=0.5
    )
    assert summary.num_lines == 2


def test_score_file_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.jsonl: no such file"):
        score_file(
            *(tmp_path / "nowhere.jsonl", tmp_path / "out"),
            reward=RewardKnobs(),
            advantage=AdvantageKnobs(),
            tau=0.5,
        )


def test_score_file_numbers_are_judged_here_and_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(_self: JudgingProcess) -> None:
        pytest.fail("a number asks the process of expressions")

    monkeypatch.setattr(JudgingProcess, "_start", no_process)
    lines = [
        {"id": i, "kind": "number", "gold": str(i), "response": "so " * 100 + WHOLE % i}
        for i in range(2_000)
    ]
    begin = time.process_time()  # of this process: what others do meanwhile does not count
    score(tmp_path, lines)
    assert time.process_time() - begin < 5


def test_scoring_import_loads_no_heavy_library() -> None:
    script = (
        "import sys, fastdistill_ray.rewards.score_file\n"
        "print([m for m in ('torch', 'ray', 'vllm', 'sympy', 'math_verify') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_file_is_judged_alike_twice_while_eight_others_are_busy(tmp_path: Path) -> None:
    """With the limit of every recipe: a second of CPU time, whatever the clock says."""
    rng = random.Random(3)
    cases = [draw(rng) for _ in range(5_000) for draw in (draw_case, draw_spoilt)]
    source = write(
        tmp_path / "in.jsonl",
        [
            {
                "id": i,
                "kind": case.kind,
                "gold": case.reference,
                "response": case.response,
                "options": list(case.options),
            }
            for i, case in enumerate(cases)
        ],
    )
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    try:
        for name in ("first", "second"):
            score_file(
                source,
                tmp_path / name,
                reward=RewardKnobs(),
                advantage=AdvantageKnobs(),
                tau=0.5,
            )
    finally:
        for one in busy:
            one.kill()
            one.wait()
    assert (tmp_path / "first").read_text() == (tmp_path / "second").read_text()
    lines = (tmp_path / "first").read_text().splitlines()
    verdicts = Counter(json.loads(line)["verdict"] for line in lines)
    assert verdicts.total() == 10_000 and not verdicts["error"]
    assert verdicts["timeout"] < 10, "spoilt formulas alone, which take a second of computing"


def test_function_that_fails_of_every_response_ends_in_an_error_with_its_reason(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text("def f(one): return {'6': 1.0}[one['text']]\n")
    functions = {"mine": {"path": f"{tmp_path / 'mine.py'}:f", "time_limit": 200.0}}
    reward = PATIENT.model_copy(
        update=vars(RewardKnobs.model_validate({"functions": functions, "weights": {"mine": 1}}))
        | {"verifier": PATIENT.verifier}
    )
    items = [{"text": text, "num_tokens": 3} for text in ("7", "8")]
    group = {"id": 1, "kind": "number", "gold": "6", "responses": items}
    without_reference = {**group, "id": 2, "gold": " "}
    output = tmp_path / "out.jsonl"

    def run() -> None:
        score_file(
            write(tmp_path / "in.jsonl", [without_reference, group]),
            output,
            reward=reward,
            advantage=AdvantageKnobs(),
            tau=0.5,
        )

    with pytest.raises(UserError, match=r"score mine: KeyError: '7' \(all 2 that were scored; "):
        run()
    (_, scored) = map(json.loads, output.read_text().splitlines())
    assert scored["responses"][1]["verdict"] == "error"
    items[0]["text"] = "6"
    run()
