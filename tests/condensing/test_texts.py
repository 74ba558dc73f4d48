"""Labelled texts: word problems against an independent reader, and files that are wrong."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from fastdistill_ray.condensing.knobs import TextKnobs
from fastdistill_ray.condensing.texts import check_per_class, load_texts, read_texts, write_texts
from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.place import Place

ROWS = [("good film", "yes"), ("bad film", "no"), ("fine", "yes"), ("awful", "no"), ("ok", "yes")]
SUBTRACTS = "of them away|left\\?|used up|is missing"


def jsonl(folder: Path, rows: list[dict[str, object]], **changes: object) -> TextKnobs:
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"name": "jsonl", "path": str(file), "num_train": 3, "num_test": 1, **changes}
    return TextKnobs.model_validate(given)


def labelled(rows: list[tuple[str, str]]) -> list[dict[str, object]]:
    return [{"text": text, "label": label} for text, label in rows]


def test_word_problems_have_every_operation_equally_often_and_share_no_question() -> None:
    found = load_texts(TextKnobs(name="word_problems", num_train=400, num_test=200))
    train, test = found["train"], found["test"]
    assert set(Counter(label for _, label in train).values()) == {100}
    assert set(Counter(label for _, label in test).values()) == {50}
    assert not {text for text, _ in train} & {text for text, _ in test}
    for text, label in train + test:
        is_two_step = bool(re.search(r"lost \d+ of them. How|then lost|fall off", text))
        if label == "subtract":
            assert re.search(SUBTRACTS, text), text
        elif label == "multiply":
            assert re.search(r"in each (box|row)|Each of \d+ shelves", text), text
        elif label == "add_subtract":
            assert is_two_step, text
        else:
            assert re.search(r"buys|finds|drops in|counts come to", text), text


def test_rows_of_a_file_are_divided_by_the_seed_and_kept(tmp_path: Path) -> None:
    rows = labelled(ROWS) + labelled(ROWS[:1])
    knobs = jsonl(tmp_path, rows, seed=3)
    out = Place(tmp_path / "out")
    result = write_texts(knobs, out=out)
    found = read_texts(out)
    assert (result.rows_in, result.rows_out) == (4, 4)
    assert found["train"].classes == ["no", "yes"]
    pairs = [
        (text, one.classes[number])
        for one in found.values()
        for text, number in zip(one.texts, one.labels, strict=True)
    ]
    assert len(set(pairs)) == 4 and set(pairs) <= set(ROWS)
    assert load_texts(knobs) == load_texts(knobs)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (labelled(ROWS), {"num_train": 9}, "9 and 1 for the test are 10, but .* has 5 different"),
        (labelled(ROWS), {"label": "class"}, "line 1: class, which task.label names, must be text"),
        ([{"text": " ", "label": "a"}], {}, "line 1: text, which task.text names, must be text"),
        (labelled([(t, "yes") for t, _ in ROWS]), {}, "all training texts have the label 'yes'"),
        (
            labelled([*ROWS, ("fine", "no")]),
            {},
            "line 6: its text has the label 'no', and 'yes' in",
        ),
    ],
)
def test_file_that_makes_no_task_is_one_line(tmp_path, rows, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        load_texts(jsonl(tmp_path, rows, **changes))


def test_class_with_too_few_texts_for_a_set_is_one_line(tmp_path: Path) -> None:
    write_texts(jsonl(tmp_path, labelled(ROWS), num_train=4), out=Place(tmp_path / "out"))
    train = read_texts(Place(tmp_path / "out"))["train"]
    labels = [train.classes[number] for number in train.labels]
    check_per_class(labels, 1)
    with pytest.raises(
        UserError, match=r"method.per_class: 5, but \d training texts have the label"
    ):
        check_per_class(labels, 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "x.jsonl"},
        {"name": "jsonl"},
        {"operations": ["add", "add"]},
        {"operations": ["add"]},
    ],
)
def test_task_that_contradicts_itself_is_refused(changes) -> None:
    with pytest.raises(ValueError):
        TextKnobs.model_validate(
            {"name": "word_problems", "num_train": 4, "num_test": 2, **changes}
        )
