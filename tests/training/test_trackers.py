"""Each step reaches each tracker once, read back with the tracker's own reader."""

import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.monitor import MetricsFile, follow_metrics, step_facts
from fastdistill_ray.training.trackers import Trackers, TrackingKnobs

CONFIG = {"objective": {"kind": "advdistill", "tau": 0.5}, "tracking": {"wandb_project": ""}}
RESULTS = {"results/test/accuracy": 0.75, "results/test/accuracy_low": 0.5}


def conclude(folder: Path, knobs: TrackingKnobs) -> None:
    """As at the end of an evaluation, and at that of the same run started again."""
    for _ in range(2):
        Trackers(knobs, Place(folder), "demo/advdistill", {}).tell_results(RESULTS)


def line(step: int) -> dict[str, float]:
    values = {"train/loss": 1 / step, "train/grad_norm": 2.0, "loss/ce": 0.5 / step}
    values |= {"train/unique_tokens": 10, "held_out/loss": 7.0} if step == 2 else {}
    return {"step": step, "epoch": 0, "train/unique_tokens": 10, **values}


def write(folder: Path, steps: range) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(line(step)) + "\n" for step in steps))
    return file


def follow(folder: Path, steps: range, knobs: TrackingKnobs) -> None:
    """A driver that sees a training up to the last of the steps."""
    trackers = Trackers(knobs, Place(folder), "demo/advdistill", CONFIG)
    trackers.open()
    with follow_metrics(Place(folder / "metrics.jsonl"), "train", 9, trackers):
        write(folder, steps)


def test_training_whose_first_step_takes_long_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    clock = iter([0.0, 10.0, 40.0, 50.0, 80.0])
    trackers = Trackers(TrackingKnobs(), Place(tmp_path), "", {})
    file = Place(tmp_path / "metrics.jsonl")
    following = MetricsFile(file, "train sft", 9, trackers, lambda: next(clock))
    for _ in range(3):
        following.look()
    write(tmp_path, range(1, 2))
    following.look()
    assert caplog.messages == [
        "train sft: no step is done for 0:40: its ranks start, load the model, or wait for groups"
    ]


def accumulator(folder: Path) -> Any:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder))
    found.Reload()
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = accumulator(folder)
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def test_tensorboard_has_every_step_once_over_kills_and_restarts(tmp_path):
    knobs = TrackingKnobs()
    follow(tmp_path, range(1, 4), knobs)
    follow(tmp_path, range(1, 3), knobs)  # a restart has cut the file to its last checkpoint
    follow(tmp_path, range(1, 6), knobs)
    found = scalars(tmp_path / "tensorboard")
    assert found["train/loss"] == [(step, pytest.approx(1 / step)) for step in range(1, 6)]
    assert found["held_out/loss"] == [(2, 7.0)]
    assert "step" not in found


def test_tensorboard_has_the_recipe_once_and_the_results_after_the_last_step(tmp_path):
    knobs = TrackingKnobs()
    follow(tmp_path, range(1, 3), knobs)
    follow(tmp_path, range(1, 4), knobs)
    conclude(tmp_path, knobs)
    assert scalars(tmp_path / "tensorboard")["results/test/accuracy"] == [(3, 0.75)]
    events = accumulator(tmp_path / "tensorboard")
    texts = {name: events.Tensors(name) for name in events.Tags()["tensors"]}
    (kind,) = texts["config/objective.kind/text_summary"]
    assert kind.tensor_proto.string_val == [b"advdistill"]
    assert set(texts) == {f"config/objective.{name}/text_summary" for name in ("kind", "tau")}


def test_training_complete_before_opens_no_tracker(tmp_path):
    write(tmp_path, range(1, 4))
    with follow_metrics(
        Place(tmp_path / "metrics.jsonl"),
        "train",
        3,
        Trackers(TrackingKnobs(), Place(tmp_path), "demo", {}),
    ):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_mlflow_run_goes_on_where_it_was(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    knobs = TrackingKnobs(tensorboard=False, mlflow_experiment="distil", mlflow_uri=uri)
    follow(tmp_path / "run", range(1, 3), knobs)
    follow(tmp_path / "run", range(1, 5), knobs)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("distil").experiment_id])
    assert run.info.run_name == "demo/advdistill"
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in history] == [(k, 1 / k) for k in range(1, 5)]
    conclude(tmp_path / "run", knobs)
    (run,) = client.search_runs([run.info.experiment_id])
    assert run.data.params == {"objective.kind": "advdistill", "objective.tau": "0.5"}
    assert run.data.metrics["results/test/accuracy"] == 0.75


def test_trackio_run_goes_on_where_it_was(tmp_path, monkeypatch):
    """It fixes its folder when it is imported, so a process of its own tells it."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    told = """
from pathlib import Path
import sys
from test_trackers import TrackingKnobs, conclude, follow

knobs, folder = TrackingKnobs(tensorboard=False, trackio_project="distil"), Path(sys.argv[1])
follow(folder, range(1, 3), knobs)
follow(folder, range(1, 5), knobs)
conclude(folder, knobs)
"""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    subprocess.run([sys.executable, "-c", told, str(tmp_path / "run")], check=True)
    (file,) = (tmp_path / "store").glob("distil*.db")
    with contextlib.closing(sqlite3.connect(file)) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
        ((config,),) = database.execute("SELECT config FROM configs").fetchall()
    (name,) = {name for name, _, _ in rows}
    assert name.startswith("demo/advdistill-")
    values = [(step, json.loads(metrics)) for _, step, metrics in rows]
    losses = [(step, one["train/loss"]) for step, one in values if "train/loss" in one]
    assert losses == [(step, 1 / step) for step in range(1, 5)]
    results = [(step, one) for step, one in values if "results/test/accuracy" in one]
    assert results == [(4, RESULTS)]
    assert json.loads(config)["objective.kind"] == "advdistill"


class Unreachable(ValueError):
    pass


class Flaky:
    """A tracker whose server is away for one call."""

    errors = (Unreachable,)

    def __init__(self) -> None:
        self.told: list[int] = []
        self.is_away = True

    def log(self, step: int, values: dict[str, float]) -> None:
        if self.is_away and step == 2:
            self.is_away = False
            raise Unreachable("no route")
        self.told.append(step)

    def close(self) -> None:
        raise Unreachable("no route")


def test_tracker_that_stops_answering_is_told_later_and_nothing_else_stops(tmp_path, caplog):
    trackers = Trackers(TrackingKnobs(), Place(tmp_path), "demo", {})
    trackers.open()
    flaky = Flaky()
    trackers.opened["flaky"] = flaky
    for step in range(1, 4):
        trackers.log([line(step)])
    trackers.close()
    assert flaky.told == [1, 2, 3]
    assert len(scalars(tmp_path / "tensorboard")["train/loss"]) == 3
    assert "flaky" in caplog.text


class Away(Flaky):
    def conclude(self, step: int, values: dict[str, float]) -> None:
        raise Unreachable("no route")


def test_results_that_a_tracker_does_not_take_are_told_by_the_next_run(
    tmp_path, caplog, monkeypatch
):
    follow(tmp_path, range(1, 3), TrackingKnobs())
    trackers = Trackers(TrackingKnobs(), Place(tmp_path), "demo", {})
    with monkeypatch.context() as patch:
        patch.setattr(trackers, "open", lambda: trackers.opened.update(away=Away()))
        trackers.tell_results(RESULTS)
    assert "no route" in caplog.text
    conclude(tmp_path, TrackingKnobs())
    assert scalars(tmp_path / "tensorboard")["results/test/accuracy"] == [(2, 0.75)]


def wandb_records(file: Path) -> Iterator[Any]:
    """Those of a file of LevelDB's log format that ends within its first block."""
    from wandb.proto import wandb_internal_pb2

    data, position = file.read_bytes(), 7
    assert len(data) < 2**15
    while position + 7 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 6], "little")
        position += 7 + size
        if position <= len(data):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data[position - size : position])
            yield record


def records_of(file: Path) -> list[Any]:
    records: list[Any] = []
    while not any(record.HasField("exit") for record in records):
        time.sleep(0.05)  # finish() returns before the last records are on disk
        records = list(wandb_records(file))
    return records


def test_wandb_offline_run_holds_recipe_steps_and_results(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    knobs = TrackingKnobs(tensorboard=False, wandb_project="distil", wandb_mode="offline")
    follow(tmp_path / "run", range(1, 4), knobs)
    (file,) = tmp_path.glob("run/wandb/offline-run-*/*.wandb")
    records = records_of(file)
    losses = {}
    for record in records:
        items = {".".join(one.nested_key) or one.key: one.value_json for one in record.history.item}
        if "train/loss" in items:
            losses[record.history.step.num] = float(items["train/loss"])
    assert losses == {step: pytest.approx(1 / step) for step in range(1, 4)}
    told = {one.key: one.value_json for record in records for one in record.run.config.update}
    assert told["objective.kind"] == '"advdistill"'
    conclude(tmp_path / "run", knobs)
    (later,) = set(tmp_path.glob("run/wandb/offline-run-*/*.wandb")) - {file}
    summary = {
        one.key or ".".join(one.nested_key): one.value_json
        for record in records_of(later)
        for one in record.summary.update
    }
    assert json.loads(summary["results/test/accuracy"]) == 0.75


def test_step_facts_is_one_line_a_person_reads():
    facts = step_facts(line(2) | {"time/mfu": 0.453})
    assert facts == "epoch 1  loss 0.5000 (ce 0.2500)  held out 7.0000  mfu 45%"
