"""Files of problems and of responses as people get them wrong, and what the line must say."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW = {"question": "What is 6 * 7?", "answer": "42"}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def problems(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} + 1?", "answer": i + 1} for i in range(count)]


def parquet(**columns: list[Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


WHOLE = parquet(question=["What is 6 * 7?"] * 9, answer=["42"] * 9)

# (id, name of the file, its bytes, words); further knobs of the task stand in KNOBS by id.
TASKS: list[tuple[str, str, bytes | None, list[str]]] = [
    ("missing", "none.jsonl", None, ["task.path", "none.jsonl", "no such file"]),
    ("no path", "", None, ["task.path"]),
    ("a folder", "foreign", None, ["task.path", "foreign"]),
    ("empty", "p.jsonl", b"", ["p.jsonl", "no problems"]),
    ("blank lines", "p.jsonl", b"\n \n\n", ["p.jsonl", "no problems"]),
    ("not utf-8", "p.jsonl", b'{"question": "caf\xe9"}\n', ["p.jsonl", "UTF-8"]),
    ("utf-16", "p.jsonl", '{"question": "q"}\n'.encode("utf-16"), ["p.jsonl", "UTF-8"]),
    (
        "bom, then wrong",
        "p.jsonl",
        b"\xef\xbb\xbf" + lines({"question": "q"}),
        ["line 1", "answer"],
    ),
    ("no json", "p.jsonl", lines(ROW) + b"question: what\n", ["line 2", "not JSON"]),
    ("torn", "p.jsonl", lines(ROW) + b'{"question": "What', ["line 2", "not JSON"]),
    ("nan", "p.jsonl", b'{"question": "q", "answer": NaN}\n', ["line 1", "NaN"]),
    ("null bytes", "p.jsonl", lines(ROW) + b"\0" * 64, ["line 2", "not JSON"]),
    ("a list", "p.jsonl", lines(ROW, ["q", "a"]), ["line 2", "object"]),
    ("a text", "p.jsonl", lines("q"), ["line 1", "object"]),
    ("pretty json", "p.jsonl", json.dumps(ROW, indent=1).encode(), ["line 1", "not JSON"]),
    ("nested", "p.jsonl", b"[" * 100_000 + b"\n", ["line 1", "not JSON"]),
    ("no question", "p.jsonl", lines({"answer": "1"}), ["line 1", "question"]),
    ("no answer", "p.jsonl", lines(ROW, {"question": "q"}), ["line 2", "answer"]),
    ("null answer", "p.jsonl", lines({"question": "q", "answer": None}), ["line 1", "answer"]),
    ("empty question", "p.jsonl", lines({"question": " ", "answer": "1"}), ["line 1", "question"]),
    ("other names", "p.jsonl", lines({"prompt": "q", "label": 1}), ["task.columns", "prompt"]),
    ("answer true", "p.jsonl", lines({**ROW, "answer": True}), ["line 1", "answer", "True"]),
    ("answer object", "p.jsonl", lines({**ROW, "answer": {"a": 1}}), ["line 1", "answer", "text"]),
    ("question number", "p.jsonl", lines({**ROW, "question": 5}), ["line 1", "question", "5"]),
    ("same id", "p.jsonl", lines({**ROW, "id": 1}, {**ROW, "id": 1}), ["line 2", "id 1", "line 1"]),
    (
        "same question",
        "p.jsonl",
        lines(ROW, {**ROW, "answer": "43"}),
        ["line 2", "line 1", "need an id"],
    ),
    ("id list", "p.jsonl", lines({**ROW, "id": [1]}), ["line 1", "id"]),
    ("kind", "p.jsonl", lines({**ROW, "kind": "integer"}), ["line 1", "kind", "number"]),
    ("kind list", "p.jsonl", lines({**ROW, "kind": ["number"]}), ["line 1", "kind"]),
    ("split", "p.jsonl", lines({**ROW, "split": "training"}), ["line 1", "split", "train"]),
    ("split list", "p.jsonl", lines({**ROW, "split": ["train"]}), ["line 1", "split"]),
    ("options text", "p.jsonl", lines({**ROW, "options": "A or B"}), ["line 1", "options"]),
    (
        "options many",
        "p.jsonl",
        lines({**ROW, "kind": "choice", "answer": "A", "options": [str(i) for i in range(27)]}),
        ["line 1", "options", "26"],
    ),
    ("tolerance", "p.jsonl", lines({**ROW, "tolerance": -1}), ["line 1", "tolerance", "-1"]),
    ("tolerance text", "p.jsonl", lines({**ROW, "tolerance": "1 %"}), ["line 1", "tolerance"]),
    ("too few", "p.jsonl", lines(*problems(5)), ["task.num_test", "6", "5"]),
    ("too few to train", "p.jsonl", lines(*problems(16)), ["task.num_train", "24", "10"]),
    (
        "letter without option",
        "p.jsonl",
        lines(
            *[{**p, "kind": "choice", "answer": "D", "options": ["a", "b"]} for p in problems(40)]
        ),
        ["p.jsonl", "none of", "'D'", "no letter"],
    ),
    ("csv of no answers", "p.csv", b"question\nq\n", ["p.csv row 1", "missing answer"]),
    ("csv torn", "p.csv", b'question,answer\n"q,1\n', ["p.csv", "not CSV"]),
    ("csv of other cells", "p.csv", b"question,answer\nq,1,2\n", ["p.csv row 1", "more cells"]),
    ("xlsx", "p.xlsx", b"PK\x03\x04", ["p.xlsx", ".jsonl"]),
    ("no suffix", "p", lines(ROW), ["p: expected", ".jsonl"]),
    ("json of a text", "p.json", b'"q"', ["p.json", "object"]),
    ("json list of texts", "p.json", b'["q"]', ["p.json item 1", "object"]),
    ("json torn", "p.json", b'[{"question": "q", "ans', ["p.json", "not JSON"]),
    ("xml torn", "p.xml", b"<Problem><Body>", ["p.xml", "not XML"]),
    ("not parquet", "p.parquet", lines(ROW), ["p.parquet", "not a readable Parquet"]),
    ("parquet empty", "p.parquet", b"", ["p.parquet", "not a readable Parquet"]),
    ("parquet torn", "p.parquet", WHOLE[:-20], ["p.parquet", "not a readable Parquet"]),
    ("parquet torn in front", "p.parquet", WHOLE[20:], ["p.parquet", "not a readable Parquet"]),
    (
        "parquet spoilt",
        "p.parquet",
        WHOLE[:4] + b"\xff" * 60 + WHOLE[64:],
        ["p.parquet", "not a readable Parquet"],
    ),
    (
        "parquet columns",
        "p.parquet",
        parquet(q=["q"], a=["1"]),
        ["row 1", "question", "task.columns"],
    ),
    ("parquet null", "p.parquet", parquet(question=["q"], answer=[None]), ["row 1", "answer"]),
    ("parquet bytes", "p.parquet", parquet(question=[b"q"], answer=["1"]), ["row 1", "question"]),
    ("parquet no rows", "p.parquet", parquet(question=[], answer=[]), ["p.parquet", "no problems"]),
    ("lfs parquet", "p.parquet", LFS, ["p.parquet", "git lfs pull"]),
    ("lfs jsonl", "p.jsonl", LFS, ["p.jsonl", "git lfs pull"]),
    ("html", "p.jsonl", b"<!DOCTYPE html>\n<html></html>\n", ["line 1", "not JSON"]),
    ("columns of nothing", "p.jsonl", lines(ROW), ["line 1", "missing q", "task.columns.question"]),
    ("gsm8k folder", "foreign", None, ["foreign", "train.jsonl"]),
    ("gsm8k row", "train.jsonl", lines({"question": "q", "answer": "no mark"}), ["line 1", "####"]),
    ("ood missing", "p.jsonl", lines(*problems(60)), ["task.ood", "none.jsonl", "no such file"]),
]
KNOBS: dict[str, dict[str, Any]] = {
    "columns of nothing": {"columns": {"question": "q"}},
    "gsm8k folder": {"name": "gsm8k"},
    "gsm8k row": {"name": "gsm8k"},
    "ood missing": {"ood": {"name": "svamp", "path": "none.jsonl"}, "num_ood": None},
}

GOOD = {"id": "1", "kind": "number", "gold": "42", "response": "\\boxed{42}"}
GROUP = {"id": "1", "kind": "number", "gold": "42"}
# (id, bytes of the file of responses, words)
RESPONSES: list[tuple[str, bytes | None, list[str]]] = [
    ("missing", None, ["in.jsonl", "no such file"]),
    ("empty", b"", ["in.jsonl", "empty"]),
    ("not utf-8", b'{"id": "caf\xe9"}\n', ["in.jsonl", "UTF-8"]),
    ("no json", lines(GOOD) + b"x\n", ["in.jsonl", "line 2", "not JSON"]),
    ("a list", lines([GOOD]), ["line 1", "object"]),
    ("lfs", LFS, ["in.jsonl", "git lfs pull"]),
    ("no fields", lines({}), ["line 1", "id: missing", "kind: missing", "gold: missing"]),
    ("id true", lines({**GOOD, "id": True}), ["line 1", "id"]),
    ("id nan", b'{"id": NaN}\n', ["line 1", "NaN"]),
    ("same id", lines(GOOD, GOOD), ["line 2", "'1'", "line 1"]),
    ("kind", lines({**GOOD, "kind": "int"}), ["line 1", "kind", "number"]),
    ("kind list", lines({**GOOD, "kind": ["number"]}), ["line 1", "kind"]),
    ("gold list", lines({**GOOD, "gold": [42]}), ["line 1", "gold", "string"]),
    ("both", lines({**GOOD, "responses": []}), ["line 1", "one of the two"]),
    ("none", lines(GROUP), ["line 1", "response or responses"]),
    ("no responses", lines({**GROUP, "responses": []}), ["line 1", "responses", "at least one"]),
    ("texts", lines({**GROUP, "responses": ["a"]}), ["line 1", "responses[0]", "object"]),
    ("no tokens", lines({**GROUP, "responses": [{"text": "a"}]}), ["responses[0].num_tokens"]),
    (
        "tokens negative",
        lines({**GROUP, "responses": [{"text": "a", "num_tokens": -1}]}),
        ["responses[0].num_tokens", "at least 0"],
    ),
    ("options", lines({**GOOD, "options": "A"}), ["line 1", "options", "list"]),
    ("tolerance", lines({**GOOD, "tolerance": -1}), ["line 1", "tolerance", "at least 0"]),
    (
        "huge tolerance",
        b'{"id":1,"kind":"number","gold":"1","response":"1","tolerance":1e999}\n',
        ["tolerance"],
    ),
]
OUT = ["--output", "DIR/out", "--recipe", "DIR/recipe.yaml"]
# (id, arguments behind `score DIR/good.jsonl`, words)
SCORES: list[tuple[str, list[str], list[str]]] = [
    ("no output", [], ["--output"]),
    ("output is a folder", ["--output", "DIR/foreign"], ["--output", "foreign", "folder"]),
    ("output nowhere", ["--output", "DIR/none/out.jsonl"], ["--output", "out.jsonl", "folder"]),
    ("output below a file", ["--output", "DIR/good.jsonl/out"], ["--output", "folder"]),
    ("output in the kernel", ["--output", "/proc/out.jsonl"], ["--output", "/proc/out.jsonl"]),
    ("output is the input", ["--output", "DIR/good.jsonl"], ["--output", "good.jsonl", "input"]),
    ("output in a bucket", ["--output", "s3://bucket/out.jsonl"], ["--output", "s3://"]),
    ("override", ["--output", "DIR/out", "--reward.length_unit=tokens"], ["--recipe"]),
    ("recipe", ["--output", "DIR/out", "--recipe", "DIR/none"], ["none", "no such file"]),
    (
        "function missing",
        [*OUT, "--reward.functions.f=DIR/f.py:f", "--reward.weights={f: 1}"],
        ["reward.functions.f", "f.py"],
    ),
    (
        "function broken",
        [*OUT, "--reward.functions.f=DIR/broken.py:f", "--reward.weights={f: 1}"],
        ["reward.functions.f", "broken.py", "not Python"],
    ),
]
