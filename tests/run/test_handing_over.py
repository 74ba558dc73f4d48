"""A run's student served and uploaded: the command, what reaches the hub, what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from support.buckets import free_port
from support.hub import Hub, serving_hub
from support.jobs import ROOT
from support.models import make_tiny_model
from support.run_folder import make_run

from fastdistill_ray import cli
from fastdistill_ray.errors import UserError
from fastdistill_ray.report.sections import write_report
from fastdistill_ray.run.handing_over import serving, student_folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """With two students, their cards written."""
    made = Path(make_run(str(tmp_path / "run")))
    for name in ("advdistill", "sft"):
        (made / "students" / name / "adapter").mkdir(parents=True)
        (made / "students" / name / "config.json").write_text("{}")
        (made / "students" / name / "README.md").write_text("the source's own card")
        (made / "students" / name / "model.safetensors").write_bytes(name.encode() * 100)
        adapter = made / "students" / name / "adapter" / "adapter_config.json"
        adapter.write_text('{"base_model_name_or_path": "org/base"}')
    write_report(str(made))
    return made


def push(hub: Hub, run: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """In a process of its own: the hub's address is read when its package is imported."""
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": "0"}
    own["HF_HUB_DISABLE_XET"] = "1"  # its servers are others than the hub's
    return subprocess.run(
        [sys.executable, "-m", "fastdistill_ray.cli", "push", str(run), "me/mine", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **own, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_push_brings_every_file_of_the_student_to_the_hub_and_weights_once(run):
    folder = run / "students" / "advdistill"
    with serving_hub() as hub:
        done = push(hub, run, "--private")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{hub.url}/me/mine"
        files = {str(one.relative_to(folder)): one for one in folder.rglob("*") if one.is_file()}
        assert hub.files == {name: file.read_bytes() for name, file in files.items()}
        assert hub.created[0]["visibility"] == "private" and hub.commits == ["advdistill of run"]
        assert push(hub, run, "--private").returncode == 0
        assert hub.puts == 1, "weights that are there are not sent again"
    assert b"model-index" in hub.files["README.md"]


def test_push_of_an_adapter_brings_it_and_the_card_alone(run):
    with serving_hub() as hub:
        done = push(hub, run, "--adapter", "--student", "sft")
        assert done.returncode == 0, done.stderr
    config = (run / "students" / "sft" / "adapter" / "adapter_config.json").read_bytes()
    assert hub.files.keys() == {"adapter_config.json", "README.md"}
    assert hub.files["adapter_config.json"] == config
    card = hub.files["README.md"].decode()
    assert "vllm serve ." not in card and "LoRA adapter, on top of `org/base`" in card
    assert hub.commits == ["sft of run"]


def test_push_says_in_one_line_what_is_wrong(run):
    with serving_hub() as hub:
        for environment, line in (
            ({"HF_TOKEN": "hf_wrong"}, "push me/mine: "),
            ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ):
            done = push(hub, run, **environment)
            assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
            assert line in done.stderr and "hf_wrong" not in done.stderr
    assert not hub.files


def test_push_of_a_student_without_its_card_is_refused(run):
    (run / "students" / "sft" / "README.md").write_text("the source's own card")
    with serving_hub() as hub:
        assert "fastdistill report" in push(hub, run, "--student", "sft").stderr
    assert not hub.created


def test_push_with_the_card_of_another_runs_student_is_refused(run):
    """The export copied it from the folder of a model that is a student of that run itself."""
    card = run / "students" / "sft" / "README.md"
    own = card.read_text()
    card.write_text(own.replace("name: synthetic\n", "name: earlier\n"))
    assert card.read_text() != own and "fastdistill_ray" in card.read_text()
    with serving_hub() as hub:
        assert "fastdistill report" in push(hub, run, "--student", "sft").stderr
        card.write_text(own)
        assert hub.created == [] and push(hub, run, "--student", "sft").returncode == 0


def test_serve_prints_the_command_with_the_context_of_the_evaluation(run, capsys):
    assert cli.main(["serve", str(run), "--print", "--port=8001"]) == 0
    words = capsys.readouterr().out.split()
    assert str(run / "students" / "advdistill") in words
    assert words[-1] == "--port=8001"
    length = words[words.index("--max-model-len") + 1]
    recipe = (run / "recipe.yaml").read_text()
    assert f"max_model_len: {length}" in recipe


@pytest.mark.ray
@pytest.mark.long
def test_a_served_student_answers_as_transformers_has_it(run):
    """The command that `serve` becomes, with the vLLM of this environment."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, port = make_tiny_model(str(run / "students" / "sft"), seed=3), free_port()
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["evaluation"]["engine"] |= {"max_model_len": 512, "dtype": "float32"}
    recipe["evaluation"]["engine"] |= {"enforce_eager": True, "cpu_kv_cache_gib": 1}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    messages = [{"role": "user", "content": "What is 3 + 4?"}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    whole = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    command = [*(sys.executable, "-m", "fastdistill_ray.cli", "serve", str(run)), "--student=sft"]
    with subprocess.Popen(
        [*command, "--host=127.0.0.1", f"--port={port}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as server:
        try:
            assert server.stdout
            for line in server.stdout:
                if "Application startup complete" in line:
                    break
            asked = {"messages": messages, "max_tokens": 8, "temperature": 0, "seed": 1}
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/chat/completions",
                json={**asked, "model": f"{recipe['name']}-sft"},
                timeout=None,
            ).json()
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.stdout.read()
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == tokenizer.decode(whole, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("name", "line"), [("other", "--student other: the run has advdistill, sft"), ("sft", "")]
)
def test_student_is_one_of_the_run(run, name, line):
    if not line:
        assert student_folder(str(run), name).name == name
        return
    with pytest.raises(UserError) as error:
        serving(str(run), name)
    assert line in str(error.value)


def test_what_is_no_run_or_has_no_student_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no run folder, it holds no recipe\.yaml"):
        student_folder(str(tmp_path))
    run = make_run(str(tmp_path / "run"))
    with pytest.raises(UserError, match="no student is there yet"):
        student_folder(run)


def test_results_of_the_run_are_in_its_metadata(run):
    rows = json.loads((run / "results.json").read_text())["rows"]
    card = (run / "students" / "sft" / "README.md").read_text()
    (row,) = [
        one
        for one in rows
        if (one["model"], one["split"], one["metric"]) == ("sft", "test", "accuracy")
    ]
    assert f"value: {row['value']}" in card
