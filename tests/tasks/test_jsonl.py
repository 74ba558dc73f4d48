"""A file of one's own: all its fields, and every fault named by its line."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Problem
from fastdistill_ray.tasks import TaskKnobs, load_problems


def write_lines(file: Path, rows: list[Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def test_jsonl_reads_all_its_fields(tmp_path: Path) -> None:
    rows = [
        {"question": "1 + 1?", "answer": 2, "note": "ignored"},
        {
            "question": " Which? ",
            "answer": "B",
            "kind": "choice",
            "options": ["red", "blue"],
            "id": 7,
            "split": "test",
            "cluster": "colours",
        },
        {"question": "Roots?", "answer": [1, -2.5], "kind": "list", "id": "r", "split": "ood"},
    ]
    splits = load_problems(TaskKnobs(name="jsonl", path=write_lines(tmp_path / "a.jsonl", rows)))
    digest = hashlib.sha1(b"1 + 1?").hexdigest()[:12]
    assert splits == {
        "train": [Problem(f"jsonl/{digest}", "jsonl", "train", "1 + 1?", "2", "number")],
        "validation": [],
        "test": [
            Problem(
                *("7", "jsonl", "test", "Which?", "B", "choice", ["red", "blue"]),
                cluster="colours",
            )
        ],
        "ood": [Problem("r", "jsonl", "ood", "Roots?", "1, -2.5", "list")],
    }


def test_jsonl_blank_lines_byte_order_mark_and_line_separators_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    question = "one\u2028two \u0085 three?"
    line = json.dumps({"question": question, "answer": "1"}, ensure_ascii=False)
    file.write_text(f"\ufeff{line}\r\n\n  \n", encoding="utf-8", newline="")
    (problem,) = load_problems(TaskKnobs(name="jsonl", path=str(file)))["train"]
    assert problem.question == question


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "b?"', "line 2: not JSON: "),
        ('{"question": "b?", "answer": NaN}', "line 2: not JSON: NaN is not a number of JSON"),
        ("[" * 100_000, "line 2: not JSON: "),
        ('["b?", "2"]', "line 2: expected an object"),
        ("{}", "line 2: missing question, answer"),
        ('{"question": "b?", "answer": null}', "line 2: missing answer"),
        ('{"question": " ", "answer": "2"}', "line 2: question is empty"),
        ('{"question": "b?", "answer": "2", "cluster": [1]}', "line 2: cluster must be text"),
        ('{"question": "b?", "answer": ""}', "line 2: answer is empty"),
        ('{"question": 5, "answer": "2"}', "line 2: question must be text, is 5"),
        ('{"question": "b?", "answer": true}', "line 2: answer must be text, is True"),
        ('{"question": "b?", "answer": "2", "kind": "maths"}', "line 2: kind 'maths' is not one"),
        ('{"question": "b?", "answer": "2", "kind": []}', r"line 2: kind \[\] is not one"),
        ('{"question": "b?", "answer": "A", "options": "x"}', "line 2: options must be a list"),
        ('{"question": "b?", "answer": "2", "split": "dev"}', "line 2: split 'dev' is not one of"),
        ('{"question": "b?", "answer": "2", "id": ""}', "line 2: id must be text or a whole"),
        ('{"question": "b?", "answer": "2", "id": "x"}', "line 2: id x is that of line 1"),
        (r'{"question": "b \ud83d?", "answer": "2"}', "line 2: question holds half of a character"),
        (r'{"question": "b?", "answer": "\ude00"}', "line 2: answer holds half of a character"),
        (
            r'{"question": "b?", "answer": "A", "options": ["\ud83d", "x"]}',
            "line 2: options holds half of a character",
        ),
    ],
)
def test_jsonl_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"question": "a?", "answer": "1", "id": "x"}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"a\.jsonl {message}") as error:
        load_problems(TaskKnobs(name="jsonl", path=str(file)))
    assert "\n" not in str(error.value)


def test_number_that_a_table_does_not_have_is_no_answer(tmp_path: Path) -> None:
    """As polars and numpy write it."""
    table = pa.table({"question": ["a?", "b?", "c?"], "answer": [1.0, math.nan, 2.5]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet row 2: missing answer"):
        load_problems(TaskKnobs(name="jsonl", path=str(tmp_path / "a.parquet")))


def test_jsonl_same_question_without_ids_is_refused(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": answer} for answer in "12"]
    path = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match=r"line 2: id jsonl/\w+ is that of line 1; lines that ask"):
        load_problems(TaskKnobs(name="jsonl", path=path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no problems in it"), (b"\n \n", "no problems in it"), (b"\xff\xfe{", "not UTF-8")],
)
def test_jsonl_file_without_problems_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.jsonl: {message}"):
        load_problems(TaskKnobs(name="jsonl", path=str(file)))


def test_jsonl_without_path_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task\.path: task jsonl needs the file"):
        load_problems(TaskKnobs(name="jsonl"))


def test_training_lines_need_no_answer_where_none_is_looked_at(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "1 + 1?"},
        {"question": "2 + 2?", "answer": 4},
        {"question": "3 + 3?", "answer": 6, "split": "test"},
    ]
    file = write_lines(tmp_path / "a.jsonl", rows)
    splits = load_problems(TaskKnobs(name="jsonl", path=file, unlabelled=True))
    assert [one.reference for one in splits["train"]] == ["", "4"]
    with pytest.raises(UserError, match="line 1: missing answer"):
        load_problems(TaskKnobs(name="jsonl", path=file))
    del rows[2]["answer"]
    write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match="line 3: missing answer"):
        load_problems(TaskKnobs(name="jsonl", path=file, unlabelled=True))
    write_lines(tmp_path / "a.jsonl", rows[:1])
    with pytest.raises(UserError, match=r"\(test\): .* is empty; only training problems need none"):
        load_problems(TaskKnobs(name="jsonl", path=file, unlabelled=True, num_test=1))


@pytest.mark.parametrize(
    ("num_rows", "num_tests", "given"),
    [(30, 6, {}), (4, 0, {}), (1400, 200, {}), (30, 9, {"num_test": 9}), (30, 0, {"num_test": 0})],
)
def test_a_fifth_is_held_out_where_no_line_is_a_test(num_rows, num_tests, given, tmp_path) -> None:
    rows = [{"question": f"{i} + 1?", "answer": i + 1} for i in range(num_rows)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    splits = load_problems(TaskKnobs(name="jsonl", path=path, **given))
    assert (len(splits["train"]), len(splits["test"])) == (num_rows - num_tests, num_tests)
    rows[3]["split"] = "test"
    with_one = load_problems(TaskKnobs(name="jsonl", path=write_lines(tmp_path / "a.jsonl", rows)))
    assert [one.question for one in with_one["test"]] == ["3 + 1?"]


def test_columns_go_into_lists_of_messages(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    path = write_lines(tmp_path / "a.jsonl", [{"messages": said}])
    columns: dict[Any, str] = {"question": "messages.0.content", "answer": "messages.-1.content"}
    (problem,) = load_problems(TaskKnobs(name="jsonl", path=path, columns=columns))["train"]
    assert (problem.question, problem.reference) == ("1 + 1?", "2")
    columns["answer"] = "messages.2.content"
    with pytest.raises(UserError, match=r"line 1: missing messages\.2\.content, which task"):
        load_problems(TaskKnobs(name="jsonl", path=path, columns=columns))


def test_unlabelled_lines_may_lack_the_column_that_holds_answers(tmp_path: Path) -> None:
    lines = [{"question": "1?"}, {"question": "2?", "solution": "2", "split": "test"}]
    columns: dict[Any, str] = {"answer": "solution"}
    path = write_lines(tmp_path / "a.jsonl", lines)
    found = load_problems(TaskKnobs(name="jsonl", path=path, columns=columns, unlabelled=True))
    assert [one.question for one in found["train"]] == ["1?"]
    assert [one.reference for one in found["test"]] == ["2"]
    path = write_lines(tmp_path / "b.jsonl", [*lines, {"question": "3?", "split": "test"}])
    with pytest.raises(UserError, match="missing answer"):
        load_problems(TaskKnobs(name="jsonl", path=path, columns=columns, unlabelled=True))


def test_all_of_a_file_without_tests_is_out_of_domain_where_that_is_asked_for(tmp_path) -> None:
    own = write_lines(tmp_path / "a.jsonl", [{"question": f"{i}?", "answer": i} for i in range(10)])
    rows = [{"question": f"other {i}?", "answer": i} for i in range(20)]
    ood: Any = {"name": "jsonl", "path": write_lines(tmp_path / "b.jsonl", rows)}
    found = load_problems(TaskKnobs(name="jsonl", path=own, ood=ood))
    assert [len(found[split]) for split in ("train", "test", "ood")] == [8, 2, 20]


def test_csv_is_read_as_text_with_quoted_cells_and_empty_ones_as_none(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    rows = [
        "question,answer,split,id",
        '"Tom, ""the cat"",\nhas 2. How many?",2,,',
        "2+2?,4,test,x",
    ]
    file.write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8", newline="")
    splits = load_problems(TaskKnobs(name="jsonl", path=str(file)))
    (train,), (test,) = splits["train"], splits["test"]
    assert train.question.split() == ["Tom,", '"the', 'cat",', "has", "2.", "How", "many?"]
    assert "\n" in train.question and (train.reference, test.problem_id) == ("2", "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("question,answer\n1?,1,2\n", "row 1: more cells than the first line"),
        ("question,question\n1?,1\n", "its first line must name each column once"),
        ('question,answer\n"1?,1\n', "line 1: not CSV"),
        ("question\n1?\n", "row 1: missing answer"),
    ],
)
def test_csv_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=rf"a\.csv:? {message}"):
        load_problems(TaskKnobs(name="jsonl", path=str(file)))


def test_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [{"question": "1?", "answer": 1}])
    (tmp_path / "dev.csv").write_text("question,answer\n2?,2\n")
    (tmp_path / "test").mkdir()
    table = pa.table({"question": ["3?"], "answer": ["3"], "split": ["ood"]})
    pq.write_table(table, tmp_path / "test" / "part.parquet")
    splits = load_problems(TaskKnobs(name="jsonl", path=str(tmp_path), num_validation=1))
    found = {split: [one.reference for one in problems] for split, problems in splits.items()}
    assert found == {"train": ["1"], "validation": ["2"], "test": [], "ood": ["3"]}
    with pytest.raises(UserError, match="no file in it is named after a split"):
        load_problems(TaskKnobs(name="jsonl", path=str(tmp_path / "test")))


def test_rows_that_repeat_or_differ_by_their_options_need_no_id(tmp_path: Path) -> None:
    which = {"question": "Which is true?", "kind": "choice", "answer": "A"}
    rows = [
        {**which, "options": ["one", "two"]},
        {**which, "options": ["one", "two"]},
        {**which, "options": ["three", "four"]},
        {"question": "1 + 1?", "answer": 2},
        {"question": "1 + 1?", "answer": 2},
    ]
    path = write_lines(tmp_path / "a.jsonl", rows)
    found = load_problems(TaskKnobs(name="jsonl", path=path, num_test=0))["train"]
    assert [one.options for one in found] == [["one", "two"], ["three", "four"], []]
    assert len({one.problem_id for one in found}) == 3
    digest = hashlib.sha1(b"Which is true?").hexdigest()[:12]
    assert found[0].problem_id == f"jsonl/{digest}", "that of a file with it alone"
    tested = {"question": "1 + 1?", "answer": 2, "split": "test"}
    path = write_lines(tmp_path / "c.jsonl", [*rows, tested])
    found = load_problems(TaskKnobs(name="jsonl", path=path))
    assert [len(found[split]) for split in ("train", "test")] == [2, 1], "a tested one leaves"
    path = write_lines(tmp_path / "b.jsonl", [*rows, {"question": "1 + 1?", "answer": 3}])
    with pytest.raises(UserError, match="lines that ask the same question need an id"):
        load_problems(TaskKnobs(name="jsonl", path=path))


def test_choice_whose_answer_is_a_number_is_refused(tmp_path: Path) -> None:
    row = {"question": "?", "kind": "choice", "options": ["3", "2", "1"], "answer": 1}
    path = write_lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(UserError, match="answer 1 is a number, which may be an option's place"):
        load_problems(TaskKnobs(name="jsonl", path=path))


def test_problems_of_another_file_have_the_kind_of_the_task_or_their_own(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"question": "Where?", "answer": "Paris"}])
    other = write_lines(tmp_path / "b.jsonl", [{"asked": "Where else?", "answer": "Oslo"}])
    ood = {"name": "jsonl", "path": other, "columns": {"question": "asked"}}
    for own, expected in (({}, "text"), ({"kind": "math"}, "math")):
        knobs = TaskKnobs.model_validate(
            {"name": "jsonl", "path": path, "kind": "text", "num_test": 0, "ood": ood | own}
        )
        (problem,) = load_problems(knobs)["ood"]
        assert (problem.kind, problem.question) == (expected, "Where else?")


def test_tolerance_of_a_table_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer,tolerance\nPi?,3.14,0.01\n")
    (problem,) = load_problems(TaskKnobs(name="jsonl", path=str(tmp_path / "a.csv")))["train"]
    assert problem.tolerance == 0.01


def test_files_of_a_folder_that_no_split_takes_are_named(tmp_path: Path, caplog) -> None:
    for name in ("train.jsonl", "test.jsonl", "test_hard.jsonl"):
        write_lines(tmp_path / name, [{"question": name, "answer": 1}])
    (tmp_path / "train.csv").write_text("question,answer\n?,1\n")
    found = load_problems(TaskKnobs(name="jsonl", path=str(tmp_path)))
    assert [len(found[split]) for split in ("train", "test")] == [1, 1]
    assert "not read are test_hard.jsonl, train.csv: " in caplog.text
