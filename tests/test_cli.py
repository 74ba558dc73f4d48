"""The command line: exit code 2 and one line for user errors, fast, without torch or Ray."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import ray
from ray.exceptions import (
    ActorDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
)

from fastdistill_ray import cli
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.run.driver import Job, main
from fastdistill_ray.run.placement import check_pools

RECIPES = Path("jobs/recipes")


def fastdistill(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "fastdistill_ray.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


USER_ERRORS = [
    ("distill", "jobs/recipes/none.yaml"),
    ("distill", "jobs/recipes/demo_full.yaml", "--objective.taw=1"),
    ("distill", "jobs/recipes/demo_full.yaml", "--run-dir", "ftp://bucket/x"),
    ("train", "jobs/recipes/demo_full.yaml", "--sampling.n=1"),
    ("report", "nowhere"),
    ("compare", "tests"),
    ("compare", "nowhere", "tests"),
    ("score", "nowhere.jsonl", "--output", "out.jsonl"),
    ("score", "tests", "--output", "new_run"),
    ("score", "nowhere.jsonl", "--output", "out.jsonl", "--reward.length_unit=characters"),
    ("audit", "nowhere"),
    ("audit", "tests", "--seed=1", "--selection.seed=1"),
]
# Tells of each command line its exit code, what it wrote to stderr and which of these are loaded.
TELL = """
import contextlib, io, json, sys
from fastdistill_ray.cli import main
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(arguments)
    loaded = [name for name in ("torch", "ray", "vllm", "transformers") if name in sys.modules]
    print(json.dumps([code, said.getvalue(), loaded]))
"""


@pytest.fixture(scope="module")
def told() -> dict[tuple[str, ...], list]:
    """Of all of them in one process."""
    command = [sys.executable, "-c", TELL, json.dumps(USER_ERRORS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(USER_ERRORS, lines, strict=True))


@pytest.mark.parametrize("arguments", USER_ERRORS, ids=" ".join)
def test_cli_user_error_ends_with_code_2_and_one_line_and_loads_nothing_heavy(told, arguments):
    code, said, loaded = told[arguments]
    assert (code, loaded) == (2, [])
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_cli_process_ends_with_the_code_of_the_error():
    done = fastdistill(*USER_ERRORS[0])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


def test_cli_help_and_fields_name_every_knob_of_the_method():
    assert "distill" in fastdistill("--help").stdout
    fields = fastdistill("fields").stdout
    for name in (
        *("objective.tau = 0.5", "objective.lambda = 0.5", "reward.cosine.wrong_rL"),
        *("task.ood.name = required", "compare.students.kind = required"),
    ):
        assert name in fields


def test_cli_show_prints_a_recipe_that_reads_back_as_the_same(tmp_path, capsys):
    assert cli.main(["show", "lora", "--objective.tau=0.25"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "shown.yaml").write_text(text)
    assert cli.main(["show", str(tmp_path / "shown.yaml")]) == 0
    assert capsys.readouterr().out == text
    assert "tau: 0.25" in text and "extends" not in text


def test_cli_version_is_the_packages():
    assert fastdistill("--version").stdout.split() == ["fastdistill", version("fastdistill_ray")]


PLANNED = [
    *("demo", "gsm8k", "open_s1", "mmlu_pro"),
    *("one_gpu_24gb", "one_gpu_80gb", "lora", "api_teacher"),
]


@pytest.mark.parametrize("recipe", PLANNED)
def test_cli_dry_run_prints_the_plan_and_makes_no_folder(recipe, tmp_path, capsys):
    run_dir = tmp_path / "run"
    arguments = ["distill", str(RECIPES / f"{recipe}.yaml"), "--dry-run", "--run-dir", str(run_dir)]
    assert cli.main(arguments) == 0
    plan = capsys.readouterr().out
    for word in ("generate", "train      advdistill", "train      sft", "evaluate", "steps"):
        assert word in plan
    assert "\nreward     2 cosine + 1 format\n" in plan
    assert not run_dir.exists()


def test_cli_dry_run_of_own_problems_reads_their_file(tmp_path, capsys):
    rows = [{"question": f"What is {i} + {i * i}?", "answer": i + i * i} for i in range(260)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = f"--task.path={tmp_path / 'mine.jsonl'}"
    assert cli.main(["distill", "own_problems", "--dry-run", path]) == 0
    assert "problems   208 train, 0 validation, 52 test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answers", "changes", "line"),
    [
        (range(40), ["--task.num_test=0"], "it has no test problems"),
        (["D"] * 40, ["--task.kind=choice"], "train problems can be judged"),
    ],
)
def test_cli_dry_run_refuses_problems_that_a_run_would_refuse(
    answers, changes, line, tmp_path, capsys
):
    rows = [
        {"question": f"What is it, {i}?", "answer": one, "options": ["a", "b"]}
        for i, one in enumerate(answers)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["own_problems", "--dry-run", f"--task.path={tmp_path / 'mine.jsonl'}"]
    given = [*arguments, "--task.num_test=10", "--task.decontaminate=0", *changes]
    assert cli.main(["distill", *given]) == 2
    said = capsys.readouterr()
    assert line in said.err and said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize("recipe", ["gsm8k", "open_s1", "mmlu_pro", "one_gpu_24gb"])
def test_recipes_for_gpus_are_refused_where_there_are_none(recipe):
    with pytest.raises(UserError, match=r"the cluster has 0; lower pools"):
        check_pools(load_recipe(recipe, []), {"CPU": 640.0})


@pytest.mark.parametrize(
    ("given", "line"), [("NOT_SET", "--env NOT_SET: it is not set here"), ("", "--env")]
)
def test_cli_env_names_variables_that_are_set(given, line, capsys):
    assert cli.main(["distill", "demo", "--dry-run", "--env", given]) == 2
    assert line in capsys.readouterr().err


def test_cli_score_loads_neither_torch_nor_ray(tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    line = {"id": "1", "kind": "number", "response": "<answer>\\boxed{42}</answer>", "gold": "42"}
    source.write_text(json.dumps(line) + "\n")
    code = (
        "import sys; from fastdistill_ray.cli import main; "
        f"code = main(['score', {str(source)!r}, '--output', {str(target)!r}, '--recipe', "
        "'jobs/recipes/demo_full.yaml']); "
        "print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[] 0")
    assert json.loads(target.read_text())["verdict"] == "correct"


def test_cli_score_with_an_own_function_then_audit(tmp_path):
    (tmp_path / "mine.py").write_text("def f(one):\n    return 10 / one['num_tokens']\n")
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    right = "<think>6*7</think><answer>\\boxed{42}</answer>"
    responses = [{"text": right, "num_tokens": n} for n in (10, 20, 0)]
    line = {"id": "1", "kind": "number", "gold": "42", "responses": responses}
    source.write_text(json.dumps(line) + "\n")
    done = fastdistill(
        *("score", str(source), "--output", str(target), "--recipe", "jobs/recipes/demo_full.yaml"),
        f"--reward.functions.mine={tmp_path / 'mine.py'}:f",
        "--reward.weights={mine: 3, cosine: 0, format: 0}",
    )
    assert done.stdout.strip() == "1 lines, 3 responses: correct 2, error 1", done.stderr
    scored = json.loads(target.read_text())["responses"]
    assert [one["reward"] for one in scored] == [3.0, 1.5, None]
    assert [one["weight"] is None for one in scored] == [False, False, True]
    assert sum(one["weight"] for one in scored[:2]) == pytest.approx(1.0)
    assert scored[2]["reason"] == "score mine: ZeroDivisionError: division by zero"
    done = fastdistill("audit", str(target), "--output", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    assert "66.7 %" in done.stdout and "33.3 %" in done.stdout
    assert "ZeroDivisionError" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("error", "said", "line"),
    [
        (ActorDiedError(), "actor died", "error: a worker cannot be kept alive, see above; "),
        (KeyError("ours"), "KeyError: 'ours'", "error: KeyError, see above; finished work is kept"),
        (ObjectStoreFullError("it is"), "", "error: ObjectStoreFullError of Ray: it is"),
        (OutOfDiskError("it is"), "", "error: OutOfDiskError of Ray: it is"),
        (OutOfMemoryError("a node"), "", "error: OutOfMemoryError of Ray: a node"),
    ],
)
def test_job_whose_worker_or_code_fails_ends_with_a_line(
    tmp_path, monkeypatch, capsys, error, said, line
):
    def job(_job: Job) -> None:
        raise error

    monkeypatch.setattr(ray, "init", lambda **_: None)  # the job asks for no cluster
    recipe = str(RECIPES / "demo.yaml")
    monkeypatch.setattr(sys, "argv", ["job", recipe, "--run-dir", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main(job)
    assert ended.value.code == 1
    *above, last = capsys.readouterr().err.splitlines()
    assert last.startswith(line)
    assert any(said in one for one in above) or not said


def test_error_that_is_not_the_users_keeps_its_traceback(monkeypatch):
    def broken(*arguments: object) -> None:
        dict(zip([1, 2], [1], strict=True))

    monkeypatch.setattr("fastdistill_ray.recipe.loading.load_shape", broken)
    with pytest.raises(ValueError, match="zip"):
        cli.main(["distill", str(RECIPES / "demo.yaml"), "--dry-run"])


def test_job_error_that_is_not_the_users_keeps_its_traceback(tmp_path, monkeypatch, capsys):
    def broken(*arguments: object) -> None:
        int("x")

    monkeypatch.setattr("fastdistill_ray.run.driver.load_shape", broken)
    monkeypatch.setattr(sys, "argv", ["job", "recipe.yaml", "--run-dir", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main(lambda job: None)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert (
        "Traceback" in said and "invalid literal" in said and said.count("error: ValueError") == 1
    )


def test_plan_says_which_key_is_not_set(monkeypatch, capsys):
    engine = "{kind: endpoint, url: http://h/v1, api_key_env: SOME_KEY}"
    arguments = ["distill", "demo", "--dry-run", "--compare.baselines=[base]"]
    arguments += [f"--teacher.engine={engine}", "--sampling.loop_repeats=0"]
    said = "teacher.engine.api_key_env: SOME_KEY is not set here; the job needs it"
    for key, is_said in (("", True), ("k", False)):
        monkeypatch.setenv("SOME_KEY", key)
        assert cli.main(arguments) == 0
        assert (said in capsys.readouterr().out) == is_said
