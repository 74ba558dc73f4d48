"""Loaders on small hand-written files with the columns of their published data.

OPEN-S1, OPEN-RS and Lila cannot be fetched where this is developed: these rows, with the columns
their cards name, are all that their loaders were tried on.
"""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastdistill_ray.records import Problem
from fastdistill_ray.tasks import TASKS, TaskKnobs, hub_of, load_problems
from fastdistill_ray.tasks.competition import last_box
from fastdistill_ray.tasks.sizes import count_problems
from fastdistill_ray.tasks.source import Hub, Row, hub_rows, plain_number, read_table, rounding

LONG = {"num_test": 0}
PARTS = {"type": "Number Theory", "level": "Level 2", "subject": "Number Theory"}


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def load_one(task: str, path: str, **knobs: Any) -> Any:
    found = load_problems(TaskKnobs(name=task, path=path, **knobs))
    (problem,) = [problem for problems in found.values() for problem in problems]
    return problem


# Of each task: a row as published, and what becomes of it: question, reference, kind, options,
# tolerance.
ROWS = [
    (
        "gsm_plus",
        {
            "question": "q?",
            "answer": "None",
            "perturbation_type": "critical thinking",
            "seed_question": "s?",
        },
        ("q?", "None", "number", [], None),
    ),
    (
        "gsm_plus",
        {
            "question": "q?",
            "answer": "4.33",
            "perturbation_type": "numerical substitution",
            "seed_question": "s?",
        },
        ("q?", "4.33", "number", [], 0.005),
    ),
    (
        "open_s1",
        {
            "problem": "Find f.",
            "solution": "So \\boxed{x}",
            "answer": "f(1997n + t) = m - k(1997n + t)",
            "source": "olympiads",
            "messages": [{"role": "user", "content": "Find f."}],
        },
        ("Find f.", "f(1997n + t) = m - k(1997n + t)", "math", [], None),
    ),
    (
        "open_rs",
        {"problem": "p", "solution": "s", "answer": "\\frac{1}{2}", "level": "Easy"},
        ("p", "\\frac{1}{2}", "math", [], None),
    ),
    (
        "mmlu_pro",
        {
            "question_id": 70,
            "question": "Which?",
            "options": ["red", "N/A", "blue", "N/A"],
            "answer": "C",
            "answer_index": 2,
            "cot_content": "",
            "category": "computer science",
            "src": "s",
        },
        ("Which?", "B", "choice", ["red", "blue"], None),
    ),
    (
        "math",
        {"problem": "p", "solution": "Thus \\boxed{1} or \\boxed{\\frac{1}{2}}.", **PARTS},
        ("p", "\\frac{1}{2}", "math", [], None),
    ),
    (
        "math",
        {
            "reward_model": {
                "ground_truth": {"question": "p", "solution": "is $\\boxed 2.$", "target": ""}
            },
            **PARTS,
        },
        ("p", "2", "math", [], None),
    ),
    (
        "math500",
        {"problem": "p", "solution": "s", "answer": "\\left( 3, \\pi \\right)", **PARTS},
        ("p", "\\left( 3, \\pi \\right)", "math", [], None),
    ),
    ("aime24", {"problem": "p", "answer": "073"}, ("p", "073", "number", [], None)),
    ("amc23", {"question": "p", "answer": 27.0}, ("p", "27", "number", [], None)),
    ("amc23", {"question": "p", "answer": 0.0}, ("p", "0", "number", [], None)),
    (
        "minerva",
        {"problem": "p", "solution": "so $\\boxed{1.6} \\mathrm{~cm}$"},
        ("p", "1.6", "math", [], None),
    ),
    ("minerva", {"problem": "p", "answer": ["9.6\n", "9.60"]}, ("p", "9.6", "math", [], None)),
    (
        "olympiadbench",
        {
            "context": None,
            "question": "Find a, b.",
            "final_answer": ["$f(n)=n$, $g(n)=1$"],
            "is_multiple_answer": True,
            "answer_type": "Expression",
            "error": None,
        },
        ("Find a, b.", "$f(n)=n$, $g(n)=1$", "list", [], None),
    ),
    (
        "olympiadbench",
        {
            "context": "Let x be 2.",
            "question": "x?",
            "final_answer": ["4.2"],
            "is_multiple_answer": False,
            "error": "1e-1",
        },
        ("Let x be 2.\nx?", "4.2", "math", [], 0.1),
    ),
    (
        "theoremqa",
        {"Question": "q", "Answer": -2.5, "Answer_type": "float", "Picture": None},
        ("q\nAnswer with a decimal number.", "-2.5", "number", [], 0.1),
    ),
    (
        "theoremqa",
        {"Question": "q", "Answer": "[4, 2]", "Answer_type": "list of integer"},
        ("q\nAnswer with a list of whole numbers.", "[4, 2]", "list", [], None),
    ),
    (
        "theoremqa",
        {"Question": "q", "Answer": [0.5, -0.25], "Answer_type": "list of float"},
        ("q\nAnswer with a list of decimal numbers.", "[0.5, -0.25]", "list", [], 0.01),
    ),
    (
        "theoremqa",
        {"Question": "q", "Answer": False, "Answer_type": "bool"},
        ("q\nIs this true or false?", "B", "choice", ["True", "False"], None),
    ),
    (
        "theoremqa",
        {"Question": "q", "Answer": "(c)", "Answer_type": "option"},
        ("q\nAnswer with the letter of the option.", "C", "choice", [], None),
    ),
    ("cmath", {"question": "q", "golden": "2/6"}, ("q", "2/6", "number", [], None)),
    ("cmath", {"input": "q", "golden": "9", "grade": 1}, ("q", "9", "number", [], None)),
    (
        "svamp",
        {"Body": "There are 2 groups", "Question": "How big?", "Answer": 145.0},
        ("There are 2 groups, How big?", "145", "number", [], None),
    ),
    (
        "asdiv",
        {"body": "Ann has 9.", "question": "How many?", "answer": "9 (red apples)"},
        ("Ann has 9. How many?", "9", "number", [], None),
    ),
    (
        "asdiv",
        {"body": "b.", "question": "q?", "answer": "3 (cats); 5 (dogs)"},
        ("b. q?", "3, 5", "list", [], None),
    ),
    (
        "asdiv",
        {"body": "b.", "question": "q?", "answer": "5:6"},
        ("b. q?", "5:6", "text", [], None),
    ),
    (
        "asdiv",
        {"body": "b.", "question": "q?", "answer": "-(1/3)"},
        ("b. q?", "-(1/3)", "math", [], None),
    ),
    (
        "mawps",
        {"input": "q", "target": 0.6666666667},
        ("q", "0.6666666667", "number", [], 5e-11),
    ),
    (
        "mawps",
        {"id": "m", "question": "q", "chain": "", "result": "11.5", "result_float": 11.5},
        ("q", "11.5", "number", [], None),
    ),
    (
        "aqua",
        {"question": "q", "options": ["A)21", "B) 3 (C)", "C)None"], "correct": "B"},
        ("q", "B", "choice", ["21", "3 (C)", "None"], None),
    ),
    (
        "lila",
        {
            "input": "q",
            "output_program": "print(4)",
            "output_answer": "4.0",
            "split": "train",
            "dataset": "amps_algebra.json",
        },
        ("q", "4", "number", [], None),
    ),
    (
        "lila",
        {"input": "q", "output_answer": "[1, 2]", "dataset": "d"},
        ("q", "[1, 2]", "list", [], None),
    ),
    (
        "lila",
        {"input": "q", "output_answer": "the sun", "dataset": "d"},
        ("q", "the sun", "text", [], None),
    ),
]


@pytest.mark.parametrize(("task", "row", "expected"), ROWS)
def test_loader_turns_a_published_row_into_its_problem(tmp_path, task, row, expected):
    hub = hub_of(task)
    knobs = LONG if hub and hub.held_out else {}
    problem = load_one(task, write(tmp_path / "mine.jsonl", [row]), **knobs)
    found = (problem.question, problem.reference, problem.kind, problem.options)
    assert found == expected[:4]
    assert problem.tolerance == (expected[4] and pytest.approx(expected[4]))
    assert problem.task == task
    assert problem.problem_id.startswith(f"{task}/")


def test_every_task_of_the_hub_has_a_row_here_and_its_size_in_the_plan():
    made = {"word_problems", "jsonl", "hub"}
    assert (
        {task for task, _, _ in ROWS} | {"gsm8k"}
        == set(TASKS) - made
        == {name for name in TASKS if hub_of(name)}
    )


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("gsm8k", {"question": "q"}, r"line 1: missing answer \(its columns: question\)"),
        ("gsm_plus", {"question": "q", "answer": "1"}, "line 1: missing perturbation_type"),
        ("math500", {"problem": "p", **PARTS}, "line 1: missing answer or solution"),
        ("math500", {"answer": "1", **PARTS}, "line 1: missing problem or question"),
        ("amc23", {"question": 3, "answer": "1"}, "line 1: problem must be text, is 3"),
        ("svamp", {"Body": "b", "Question": "q", "Answer": "x"}, "Answer must be a number, is 'x'"),
        ("svamp", {"Body": " ", "Question": "q", "Answer": 1}, "line 1: Body is empty"),
        ("lila", {"input": "q", "dataset": "d"}, "line 1: missing output_answer or Output Answer"),
        ("aqua", {"question": "q", "options": "A", "correct": "A"}, "options must be a list"),
        (
            "aqua",
            {"question": "q", "options": ["A)1"], "correct": "B"},
            "no letter of its 1",
        ),
        ("olympiadbench", {"question": "q", "final_answer": "4"}, "final_answer must be a list"),
        ("theoremqa", {"Question": "q", "Answer": 1, "Answer_type": "x"}, "'x' is not one of"),
        ("theoremqa", {"Question": "q", "Answer": "a", "Answer_type": "float"}, "must be float"),
        (
            "mmlu_pro",
            {"question": "q", "options": ["a", "N/A"], "answer": "B", "category": "c"},
            "answer 'B' is no letter of its 2 options",
        ),
    ],
)
def test_loader_says_file_row_and_what_is_missing(tmp_path, task, row, message):
    path = write(tmp_path / "mine.jsonl", [row])
    with pytest.raises(ValueError, match=message) as error:
        load_problems(TaskKnobs(name=task, path=path, num_test=0))
    assert str(error.value).startswith(f"{path} line 1: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "row", "other"),
    [
        ("theoremqa", {"Picture": "images/a.png"}, {"Picture": None}),
        ("math500", {"solution": "A proof."}, {"solution": "\\boxed{3}"}),
        ("lila", {"output_answer": ""}, {"output_answer": "3"}),
    ],
)
def test_loader_leaves_out_what_cannot_be_asked_and_counts_it(tmp_path, caplog, task, row, other):
    shared = {"Question": "q", "Answer": 1, "Answer_type": "integer", "problem": "p", "input": "i"}
    rows = [{**shared, **PARTS, "dataset": "d", **each} for each in (row, other)]
    problem = load_one(task, write(tmp_path / "test.jsonl", rows))
    assert problem.problem_id.endswith("00001")
    assert f"{task}: 1 problems left out: " in caplog.text


def open_rs_rows(count: int) -> list[dict[str, str]]:
    return [
        {"problem": f"p {i}", "solution": "s", "answer": str(i), "level": ("Easy", "Hard")[i % 2]}
        for i in range(count)
    ]


def test_open_rs_holds_out_850_hard_ones_by_seed_and_trains_on_the_rest(tmp_path):
    path = write(tmp_path / "train.parquet", open_rs_rows(2000))
    first = load_problems(TaskKnobs(name="open_rs", path=path))
    assert (len(first["train"]), len(first["test"])) == (1150, 850)
    assert all(problem.problem_id.startswith("open_rs/hard/") for problem in first["test"])
    assert {p.problem_id.split("/")[1] for p in first["train"]} == {"easy", "hard"}
    assert load_problems(TaskKnobs(name="open_rs", path=path)) == first
    other = load_problems(TaskKnobs(name="open_rs", path=path, seed=1))
    assert other["test"] != first["test"]
    few = load_problems(TaskKnobs(name="open_rs", path=path, num_test=5))
    assert (len(few["train"]), len(few["test"])) == (1995, 5)


def test_open_s1_and_mmlu_pro_hold_out_the_papers_numbers(tmp_path):
    path = write(tmp_path / "s1.parquet", open_rs_rows(1000))
    splits = load_problems(TaskKnobs(name="open_s1", path=path, num_validation=7))
    assert [len(splits[s]) for s in ("train", "validation", "test")] == [440, 7, 553]
    rows = [
        {"question": "Which is true?", "options": [f"o{i}", "b"], "answer": "A", "category": "c"}
        for i in range(2300)
    ]
    splits = load_problems(TaskKnobs(name="mmlu_pro", path=write(tmp_path / "m.parquet", rows)))
    assert (len(splits["train"]), len(splits["test"])) == (16, 2284), "options tell them apart"
    with pytest.raises(ValueError, match=r"task\.num_test: 553 problems asked for, 9 are there"):
        load_problems(TaskKnobs(name="open_s1", path=write(tmp_path / "f.jsonl", open_rs_rows(9))))


def test_folder_may_be_a_copy_of_the_hub_dataset_or_hold_a_file_per_split(tmp_path):
    rows = [{"problem": f"p {i}", "solution": f"\\boxed{{{i}}}", **PARTS} for i in range(6)]
    write(tmp_path / "hub/data/train-00000-of-00002.parquet", rows[:2])
    write(tmp_path / "hub/data/train-00001-of-00002.parquet", rows[2:4])
    write(tmp_path / "hub/data/test-00000-of-00001.parquet", rows[4:])
    write(tmp_path / "files/train.json", rows[:4])
    write(tmp_path / "files/test.jsonl", rows[4:])
    hub, files = (
        load_problems(TaskKnobs(name="math", path=str(tmp_path / folder)))
        for folder in ("hub", "files")
    )
    assert hub == files
    assert [problem.reference for problem in hub["train"]] == ["0", "1", "2", "3"]
    assert hub["test"][0].problem_id == "math/number_theory/test-00000"


def test_copy_of_a_dataset_that_lacks_a_shard_is_refused(tmp_path):
    for shard in (0, 2):
        rows = [{"question": f"{shard}?", "answer": "#### 1"}]
        write(tmp_path / f"main/train-{shard:05d}-of-00003.parquet", rows)
    write(tmp_path / "main/test-00000-of-00001.parquet", rows)
    with pytest.raises(ValueError, match=r"task\.path: .*main has 2 of 3 files of train; fetch"):
        load_problems(TaskKnobs(name="gsm8k", path=str(tmp_path)))


@pytest.mark.parametrize(("given", "asked"), [("", "refs/convert/parquet"), ("v1", "v1")])
def test_dataset_keeps_the_revision_of_its_task_unless_another_is_given(monkeypatch, given, asked):
    """One whose own script the library no longer runs is read as the hub converts it."""
    told = {}

    def load_dataset(*_: object, **arguments: object) -> None:
        told.update(arguments)
        raise RuntimeError("Dataset scripts are no longer supported")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"task lila: .* cannot be had from the hub"):
        load_problems(TaskKnobs(name="lila", revision=given))
    assert told["revision"] == asked


def test_folder_from_the_hub_with_several_configs_is_read_for_the_one_of_the_task(tmp_path):
    for config in ("main", "socratic"):
        for split in ("train", "test"):
            rows = [{"question": f"{config} {split}?", "answer": "#### 1"}]
            write(tmp_path / config / f"{split}-00000-of-00001.parquet", rows)
    for split in ("train", "validation", "test"):
        rows = [{"input": f"{split}?", "output_answer": "1", "dataset": "d"}]
        write(tmp_path / f"lila/iid/{split}/0000.parquet", rows)
    gsm8k = load_problems(TaskKnobs(name="gsm8k", path=str(tmp_path)))
    assert questions(gsm8k) == {"main train?", "main test?"}
    lila = load_problems(TaskKnobs(name="lila", path=str(tmp_path / "lila"), num_validation=1))
    assert questions(lila) == {"train?", "validation?", "test?"}


def test_dataset_of_the_hub_is_read_by_its_id_config_and_split(tmp_path):
    """The library takes a folder for an id, so this is what a download would go through."""
    write(tmp_path / "set/data/train-00000-of-00001.parquet", [{"text": "q 0"}, {"text": "q 1"}])
    write(tmp_path / "set/data/test-00000-of-00001.parquet", [{"text": "q 2"}])
    hub = Hub(str(tmp_path / "set"), {"train": ("train",), "test": ("test",)})

    def parse(row: Row) -> Problem:
        key = f"t/{row.source}/{row.index}"
        return Problem(key, "t", "train", row.text("text"), row.where, "text")

    found = read_table(TaskKnobs(name="t"), hub, parse)
    assert [(p.problem_id, p.split, p.question) for p in found["train"] + found["test"]] == [
        ("t/train/0", "train", "q 0"),
        ("t/train/1", "train", "q 1"),
        ("t/test/0", "test", "q 2"),
    ]
    assert found["train"][1].reference == f"{hub.id} train row 2"


def test_dataset_that_the_recipe_names_is_read_by_its_columns_and_splits(tmp_path):
    folder = tmp_path / "set"
    rows = [{"id": i, "chat": [{"content": f"q {i}"}], "gold": {"value": i}} for i in range(6)]
    write(folder / "easy/train-00000-of-00001.parquet", rows[:4])
    write(folder / "easy/validation-00000-of-00001.parquet", rows[4:])
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: easy\n  data_files:\n"
        "  - {split: train, path: easy/train-*}\n"
        "  - {split: validation, path: easy/validation-*}\n---\n"
    )
    columns = {"question": "chat.0.content", "answer": "gold.value"}
    knobs = TaskKnobs(
        name="hub", path=str(folder), config="easy", columns=columns, num_validation=2
    )
    found = load_problems(knobs)
    sizes = {"train": 4, "validation": 2, "test": 0, "ood": 0}
    assert {split: len(problems) for split, problems in found.items()} == sizes
    first = found["train"][0]
    assert (first.question, first.reference, first.task) == ("q 0", "0", "hub")
    given = load_problems(
        knobs.model_copy(update={"splits": {"train": "train", "test": "validation"}})
    )
    assert [one.question for one in given["test"]] == ["q 4", "q 5"]
    for update, message in (
        ({"splits": {"train": "training"}}, "task.splits.train: .* has no split training"),
        ({"columns": {}}, "set train row 1: missing question, answer .*task.columns"),
        ({"path": ""}, "task.path: task hub needs the dataset's name there"),
        ({"name": "jsonl"}, "task.config: .* is not read by it"),
    ):
        with pytest.raises(ValueError, match=message):
            load_problems(knobs.model_copy(update=update))


def test_revision_is_of_a_dataset_on_the_hub_alone():
    with pytest.raises(ValueError, match=r"task.revision: task word_problems is not read by it"):
        load_problems(TaskKnobs(name="word_problems", revision="v1"))
    with pytest.raises(ValueError, match=r"task aime24: .* cannot be had from the hub"):
        load_problems(TaskKnobs(name="aime24", revision="v1"))


@pytest.mark.parametrize("task", ["aime24", "lila"])
def test_dataset_that_cannot_be_downloaded_asks_for_a_path(task):
    with pytest.raises(ValueError, match=rf"task {task}: .* cannot be had from the hub .*; set"):
        load_problems(TaskKnobs(name=task))


def test_asdiv_is_read_from_its_xml(tmp_path):
    (tmp_path / "ASDiv.xml").write_text(
        "<?xml version='1.0' encoding='UTF-8'?>\n<Machine-Reading-Corpus-File><ProblemSet>"
        "<Problem ID='n1' Grade='1'><Body>Seven &amp; two.</Body><Question>How many?</Question>"
        "<Solution-Type>Addition</Solution-Type><Answer>9 (apples); 1 (pear)</Answer></Problem>"
        "</ProblemSet></Machine-Reading-Corpus-File>"
    )
    problem = load_one("asdiv", str(tmp_path / "ASDiv.xml"))
    assert problem.question == "Seven & two. How many?"
    assert (problem.reference, problem.kind) == ("9, 1", "list")


def test_file_named_like_a_split_is_that_split(tmp_path):
    rows = [{"question": f"q {i}", "answer": f"#### {i}"} for i in range(3)]
    splits = load_problems(TaskKnobs(name="gsm8k", path=write(tmp_path / "test.jsonl", rows)))
    assert (len(splits["train"]), len(splits["test"])) == (0, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[1]", r"a\.json item 1: expected an object"),
        ("a.json", "[", r"a\.json: not JSON"),
        ("a.txt", "x", r"a\.txt: expected a \.jsonl, \.json, \.parquet, \.csv or \.xml file"),
        ("a.xml", "<a>", r"a\.xml: not XML"),
        ("a.parquet", "x", r"a\.parquet: not a readable Parquet file"),
        ("a.jsonl", "", r"a\.jsonl: no problems in it"),
    ],
)
def test_unreadable_file_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_problems(TaskKnobs(name="svamp", path=str(tmp_path / name)))


def plus_row(question: str, seed: str) -> dict[str, str]:
    return {
        "question": question,
        "answer": "1",
        "perturbation_type": "digit expansion",
        "seed_question": seed,
    }


def test_ood_task_gives_its_test_and_takes_its_seed_questions_out_of_train(tmp_path):
    rows = [{"question": f"q {i}?", "answer": f"#### {i}"} for i in range(8)]
    train = write(tmp_path / "train.jsonl", rows)
    plus = [plus_row("new 1?", "Q  3?"), plus_row("q 4?", "q 5?"), plus_row("new 2?", "other?")]
    ood = {"name": "gsm_plus", "path": write(tmp_path / "plus.jsonl", plus)}
    knobs = TaskKnobs(name="gsm8k", path=train, num_validation=2, ood=ood)
    splits = load_problems(knobs)
    assert [problem.question for problem in splits["ood"]] == ["new 1?", "q 4?", "new 2?"]
    assert {problem.split for problem in splits["ood"]} == {"ood"}
    kept = {problem.question for problem in splits["train"] + splits["validation"]}
    assert kept == {f"q {i}?" for i in (0, 1, 2, 6, 7)}
    fewer = load_problems(knobs.model_copy(update={"num_ood": 2}))
    assert len(fewer["ood"]) == 2


def test_variants_of_one_gsm8k_question_are_a_cluster(tmp_path):
    plus = [plus_row("a?", "Q  3?"), plus_row("b?", "other?"), plus_row("c?", "q 3?")]
    path = write(tmp_path / "plus.jsonl", plus)
    found = load_problems(TaskKnobs(name="gsm_plus", path=path))["test"]
    assert [problem.cluster for problem in found] == ["q 3?", "other?", "q 3?"]


def test_ood_task_beside_ood_problems_of_the_task_itself_is_refused(tmp_path):
    rows = [{"question": "q?", "answer": "1", "split": "ood"}]
    path = write(tmp_path / "a.jsonl", rows)
    ood = {"name": "jsonl", "path": path}
    with pytest.raises(ValueError, match=r"task\.ood: jsonl has ood problems of its own"):
        load_problems(TaskKnobs(name="jsonl", path=path, ood=ood))


def test_plan_counts_held_out_and_ood_problems_without_a_download():
    def counts(**knobs: Any) -> list[int]:
        found = count_problems(TaskKnobs(**knobs))
        return [found[split] for split in ("train", "validation", "test", "ood")]

    assert counts(name="gsm8k", ood={"name": "gsm_plus"}) == [7473, 0, 1319, 2400]
    assert counts(name="open_s1", ood={"name": "open_rs"}) == [18062, 0, 553, 850]
    assert counts(name="mmlu_pro", num_validation=48) == [9700, 48, 2284, 0]
    assert counts(name="math", num_train=100, num_test=10, num_validation=5) == [100, 5, 10, 0]
    assert counts(name="mawps", num_validation=40) == [1089, 40, 520, 0]
    assert counts(name="gsm8k", ood={"name": "gsm_plus"}, num_ood=100)[3] == 100


def test_jsonl_columns_are_mapped_and_may_lie_inside_objects(tmp_path):
    rows = [
        {"prompt": "q?", "meta": {"gold": "4.2", "tol": 0.1}, "a.b": "id 1", "answer": "not this"}
    ]
    columns = {"question": "prompt", "answer": "meta.gold", "tolerance": "meta.tol", "id": "a.b"}
    problem = load_one("jsonl", write(tmp_path / "a.parquet", rows), columns=columns, kind="math")
    assert (problem.question, problem.reference, problem.kind) == ("q?", "4.2", "math")
    assert (problem.problem_id, problem.tolerance) == ("id 1", 0.1)


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"q": "a", "answer": "1"}, {"question": "x"}, "missing x, which task.columns.question"),
        ({"q": "a", "gold": {}}, {"question": "q", "answer": "gold.x"}, "missing gold.x, which"),
        ({"question": "a", "answer": "1", "tolerance": -1}, {}, "tolerance must be a number of at"),
        (
            {"question": "a", "answer": "1", "tolerance": "one"},
            {},
            "tolerance must be a number of at",
        ),
        (
            {"question": "a", "answer": "A", "kind": "text", "tolerance": 1},
            {},
            "tolerance must be .* of kind",
        ),
    ],
)
def test_jsonl_unmapped_column_or_bad_tolerance_is_one_line(tmp_path, row, columns, message):
    path = write(tmp_path / "a.jsonl", [row])
    with pytest.raises(ValueError, match=rf"a\.jsonl line 1: {message}"):
        load_problems(TaskKnobs(name="jsonl", path=path, columns=columns))


def questions(splits: dict[str, list[Any]]) -> set[str]:
    return {problem.question for members in splits.values() for problem in members}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (145.0, "145"),
        ("1,080", "1080"),
        (2e-06, "0.000002"),
        (" -7.50 ", "-7.5"),
        ("1200", "1200"),
        (".5", "0.5"),
        (10**30, "1" + "0" * 30),
        ("3/4", ""),
        ("nan", ""),
        (float("inf"), ""),
        (True, ""),
        ("\u0663", ""),
        ("1e9999999", ""),
    ],
)
def test_plain_number_writes_numbers_out_and_nothing_else(value, expected):
    assert plain_number(value) == expected


def test_rounding_is_half_a_unit_of_the_last_place():
    assert rounding("4.33", places=2) == pytest.approx(0.005)
    assert rounding("4.3", places=2) is None
    assert rounding("None", places=2) is None
    written = plain_number(2 / 3)
    tolerance = rounding(written, places=6)
    assert tolerance and abs(Fraction(written) - Fraction(2, 3)) <= tolerance < 1e-11


@pytest.mark.parametrize(
    ("solution", "box"),
    [
        ("\\boxed{1} then \\boxed{\\frac{a}{b}}", "\\frac{a}{b}"),
        ("is $\\boxed 2$.", "2"),
        ("is \\fbox{3} but \\boxed{}", "3"),
        ("no box", ""),
        ("cut \\boxed{1", ""),
    ],
)
def test_last_box_is_the_last_filled_one(solution, box):
    assert last_box(solution) == box


def test_classes_of_a_dataset_are_their_names_not_their_numbers(tmp_path):
    folder = tmp_path / "set"
    label = datasets.ClassLabel(names=["negative", "positive"])
    features = datasets.Features({"question": datasets.Value("string"), "answer": label})
    rows = {"question": ["Good?", "Bad?", "What?"], "answer": [1, 0, -1]}
    made = datasets.Dataset.from_dict(rows, features=features)
    (folder / "data").mkdir(parents=True)
    made.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    found = [fields["answer"] for _, fields in hub_rows("hub", str(folder), None, "train")]
    assert found == ["positive", "negative", -1]
