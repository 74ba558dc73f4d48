"""`fastdistill` from outside: starts a head, submits a job, streams its log, stops the head."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from support.groups import commits_of
from support.jobs import stage_folder, tiny_recipe, wait_for, write_recipe
from support.marked import is_running, marked
from support.models import CHAT_TEMPLATE, make_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.long]


class Submitted(NamedTuple):
    """A submission whose head nobody else's is taken for: its folder of temporary files is new."""

    process: subprocess.Popen
    folder: Path
    temporary: str

    def wait(self) -> tuple[int, str]:
        """-> (exit code, what it said)."""
        code = self.process.wait()
        return code, (self.folder / "said.txt").read_text()


def write_files(folder: Path) -> Path:
    """A recipe that names all its files as they are called from the folder."""
    make_tiny_model(str(folder / "model"))
    (folder / "chat.jinja").write_text(CHAT_TEMPLATE)
    (folder / "mine.py").write_text("def brevity(one):\n    return 1 / (1 + one['num_tokens'])\n")
    texts = [f"Ann has {i} eggs and buys {2 * i}. How many has she?" for i in range(30)]
    rows = [{"question": text, "answer": 3 * i} for i, text in enumerate(texts)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tiny_recipe(
        "model",
        task={"name": "jsonl", "path": "problems.jsonl", "decontaminate": 0, "num_ood": None},
        reward={"functions": {"brevity": "mine.py:brevity"}},
        student={"prompt": {"template": "chat.jinja"}},
    )
    recipe["reward"]["weights"] = {"cosine": 2, "brevity": 1}
    return write_recipe(folder, recipe)


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Submitted]]:
    """Both at once: most of their time is waiting."""
    jobs = {}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for name, changes in {"fits": [], "too big": ["--pools.teacher.workers=999"]}.items():
        folder, temporary = tmp_path_factory.mktemp("job"), tempfile.mkdtemp()
        recipe = write_files(folder).name
        command = [str(Path(sys.executable).parent / "fastdistill"), "generate", recipe]
        with open(folder / "said.txt", "w") as said:
            process = subprocess.Popen(
                [*command, "--run-dir", "run", *changes],
                cwd=folder,
                stdout=said,
                stderr=said,
                env={**environment, "TMPDIR": temporary},
            )
        jobs[name] = Submitted(process, folder, temporary)
    yield jobs
    for job in jobs.values():
        job.process.terminate()
        job.process.wait()
        shutil.rmtree(job.temporary, ignore_errors=True)


def test_submitted_job_takes_names_from_where_the_user_stands_and_leaves_no_head_behind(submitted):
    job = submitted["fits"]
    wait_for(lambda: is_running("gcs_server", "TMPDIR", job.temporary), job.process)
    code, said = job.wait()
    assert code == 0, said
    assert re.search(r"generate groups .*24/24  kept \d+%  \d+ tokens/s", said), said
    groups = stage_folder(job.folder / "run", "groups")
    assert json.loads((groups / "manifest.json").read_text())["rows_in"] == 24
    (line,) = commits_of(groups)
    row = pq.read_table(groups / line["file"]).to_pylist()[0]
    assert {one["name"] for one in row["completions"][0]["scores"]} == {
        *("cosine", "format", "brevity")
    }
    assert len(line["parts"]) > 1, "committed as they came, compacted at the end"
    versions = json.loads((job.folder / "run" / "versions.json").read_text())
    recorded = (job.folder / "run" / "git.txt").read_text()
    assert versions["git"] == recorded.split("\n", 1)[0], "the state of git travels with the job"
    assert marked("TMPDIR", job.temporary) == [], "a process of the head or the job is still there"


def test_submitted_job_whose_pools_do_not_fit_ends_with_code_2_and_the_number_to_change(submitted):
    code, said = submitted["too big"].wait()
    assert code == 2, said
    assert "lower pools.teacher.workers" in said
    assert "Traceback" not in said
    log = said.splitlines()[-1].removeprefix("the job failed with exit code 2. Log: ")
    assert "lower pools.teacher.workers" in Path(log).read_text()
    run = submitted["too big"].folder / "run"
    assert not (run / "stages" / "groups").exists()
    assert not (run / "recipe.yaml").exists(), "a refused recipe does not claim the folder"
