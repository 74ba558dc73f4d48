"""The scripts of jobs/, and verbs that go on from work of others: one line, and what they need."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.head import local_head
from support.jobs import ROOT, start_job, tail_of, tiny_recipe, wait_for, write_recipe
from support.models import make_tiny_model

from fastdistill_ray import cli
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.pipeline import prepare_problems

NOBODY = "127.0.0.1:9"  # listens there
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", NOBODY)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://{NOBODY}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return str(write_recipe(tmp_path, tiny_recipe("m")))


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(job: str, *arguments: str) -> str:
        """The script in this process, refused with code 2; -> its only line."""
        script = str(ROOT / "jobs" / f"{job}.py")
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        out, said = capsys.readouterr()
        assert (ended.value.code, out) == (2, ""), said
        assert said.startswith("error: ") and said.count("\n") == 1, said
        return said

    return run


@pytest.mark.parametrize("job", ["distill", "generate", "train", "evaluate"])
def test_job_on_a_folder_that_cannot_be_written_says_so(job, recipe, refused):
    line = refused(job, recipe, "--run-dir", "/proc/run")
    assert "--run-dir /proc/run" in line and "nothing can be made in /proc" in line


def test_report_of_no_run_says_so(refused):
    assert "/proc: no recipe.yaml in it" in refused("report", "/proc")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (NOBODY, ":9: no Ray head answers"),
        (f"http://{NOBODY}", "HOST:PORT"),
        ("nowhere", "RAY_ADDRESS nowhere"),
    ],
)
def test_job_whose_head_is_not_there_says_so(
    address, words, recipe, tmp_path, refused, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert words in refused("generate", recipe, "--run-dir", str(tmp_path / "run"))
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.parametrize(
    ("verb", "words"), [("train", "no groups of this recipe"), ("evaluate", "no student")]
)
def test_verb_on_a_folder_without_what_it_needs_asks_no_cluster(
    verb, words, recipe, tmp_path, capsys
):
    assert cli.main([verb, recipe, "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert words in said and "first" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_verb_names_what_its_run_has_instead(recipe, tmp_path, capsys):
    run = RunFolder(tmp_path / "run", load_recipe(recipe, []))
    problems = prepare_problems(run)["train"]
    groups = run.enter(run.stages.groups(problems))
    (groups / "manifest.json").put("{}")
    arguments = [recipe, "--run-dir", str(run.path)]
    assert cli.main(["train", *arguments, "--sampling.n=8"]) == 2
    assert "sampling.n was 4, now 8); run generate first" in capsys.readouterr().err
    assert cli.main(["evaluate", *arguments]) == 2
    assert "train/advdistill-lr_0.001 is not complete; run train first" in capsys.readouterr().err
    assert cli.main(["train", *arguments]) == 2
    assert "no Ray cluster takes jobs there" in capsys.readouterr().err, "it has all it needs"


@pytest.mark.ray
@pytest.mark.long
def test_job_whose_head_is_lost_ends_with_a_line(tmp_path, monkeypatch):
    """Long before it is done: its teacher answers once in a minute."""
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "25")
    model = make_tiny_model(str(tmp_path / "model"))
    engine = {"kind": "scripted", "max_model_len": 1024, "max_num_seqs": 1}
    engine["extra"] = {"seconds_per_request": 60}
    recipe = write_recipe(tmp_path, tiny_recipe(model, teacher={"engine": engine}))
    run = tmp_path / "run"
    with local_head() as address:
        job = start_job("generate", recipe, run, address)
        wait_for(lambda: (run / "recipe.yaml").exists(), job)
        children = psutil.Process().children(recursive=True)
        servers = [one for one in children if "gcs_server" in one.name()]
        max(servers, key=lambda one: one.create_time()).kill()
        assert job.wait() == 1
    lines = tail_of(run).splitlines()
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert f"the Ray head at {address} is lost" in line
    assert "the same command goes on from there" in line
    assert line == lines[-1]
