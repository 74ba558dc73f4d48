"""The numbers of metrics.jsonl, once more, where people look at them: TensorBoard, W&B, MLflow,
Trackio.

A tracker is told each step once, also over restarts; how far it was told is in `tracked.json`. One
that stops answering costs a warning and is told later. The packages of all but TensorBoard are the
user's to install. Knows no Ray and no torch.
"""

import importlib
import json
import logging
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.storage.folders import copy
from fastdistill_ray.storage.place import Place

logger = logging.getLogger(__name__)

Line = dict[str, float]  # of metrics.jsonl
Config = dict[str, Any]  # values by the names of fields
MLFLOW_BATCH, MLFLOW_MOST = 100, 6000  # parameters of one call, characters of one
TRACKED, TENSORBOARD = "tracked.json", "tensorboard"
WANDB = "wandb", ".wandb"  # the folder that it makes: hidden where nobody may write the first


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`section.field` -> value, of what is set."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif value not in (None, "", []):
            yield f"{prefix}{name}", value


class TrackingKnobs(Knobs):
    tensorboard: bool = Field(default=True, description="Event files beside each metrics.jsonl.")
    wandb_project: str = Field(
        default="", description="Project of Weights & Biases; empty: it is not used."
    )
    wandb_mode: Literal["online", "offline"] = Field(
        default="online",
        description="online needs WANDB_API_KEY; offline writes into the run folder.",
    )
    mlflow_experiment: str = Field(
        default="", description="Experiment of MLflow; empty: it is not used."
    )
    mlflow_uri: str = Field(
        default="", description="Tracking server of MLflow; empty: MLFLOW_TRACKING_URI."
    )
    trackio_project: str = Field(
        default="",
        description="Project of Trackio; empty: it is not used. Where it is kept, its own "
        "variables say: TRACKIO_DIR, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL.",
    )


def tracker_packages(knobs: TrackingKnobs) -> dict[str, str]:
    """Packages the knobs ask for -> the field that does."""
    needed = {}
    if knobs.tensorboard:
        needed["tensorboardX"] = "tracking.tensorboard"
    if knobs.wandb_project:
        needed["wandb"] = "tracking.wandb_project"
    if knobs.mlflow_experiment:
        needed["mlflow"] = "tracking.mlflow_experiment"
    if knobs.trackio_project:
        needed["trackio"] = "tracking.trackio_project"
    return needed


class Tracker(Protocol):
    @property
    def errors(self) -> tuple[type[Exception], ...]: ...

    def log(self, step: int, values: Line) -> None: ...

    def conclude(self, step: int, values: Line) -> None:
        """What the student came to, after the last step."""

    def close(self) -> None: ...


class TensorBoard:
    errors = (OSError,)

    def __init__(self, folder: Path, config: Config) -> None:
        # Readers take files by name, in which time is in seconds.
        self.writer = importlib.import_module("tensorboardX").SummaryWriter(
            str(folder), filename_suffix=f".{time.time_ns()}"
        )
        for name, value in config.items():
            self.writer.add_text(f"config/{name}", str(value))

    def log(self, step: int, values: Line) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def conclude(self, step: int, values: Line) -> None:
        self.log(step, values)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    def __init__(
        self, knobs: TrackingKnobs, run_id: str, name: str, folder: Path, config: Config
    ) -> None:
        wandb = importlib.import_module("wandb")
        self.errors = (OSError, wandb.Error)
        self.run = wandb.init(
            project=knobs.wandb_project,
            id=run_id,
            name=name,
            dir=str(folder),
            mode=knobs.wandb_mode,
            resume="allow",
            config=config,
        )

    def log(self, step: int, values: Line) -> None:
        self.run.log(values, step=step)

    def conclude(self, step: int, values: Line) -> None:
        self.run.summary.update(values)

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    def __init__(self, knobs: TrackingKnobs, run_id: str, name: str, config: Config) -> None:
        """The run whose tag says `run_id`, made where there is none."""
        mlflow = importlib.import_module("mlflow")
        self.errors = (OSError, mlflow.MlflowException)
        self.metric = mlflow.entities.Metric
        self.client = mlflow.MlflowClient(knobs.mlflow_uri or None)
        known = self.client.get_experiment_by_name(knobs.mlflow_experiment)
        experiment = (
            known.experiment_id if known else self.client.create_experiment(knobs.mlflow_experiment)
        )
        tagged = self.client.search_runs([experiment], f"tags.fastdistill = '{run_id}'")
        tags = {"fastdistill": run_id}
        run = tagged[0] if tagged else self.client.create_run(experiment, tags=tags, run_name=name)
        self.id = run.info.run_id
        told = {one: str(value)[:MLFLOW_MOST] for one, value in config.items()}
        params = [mlflow.entities.Param(*pair) for pair in told.items()]
        for start in range(0, len(params), MLFLOW_BATCH):
            self.client.log_batch(self.id, params=params[start : start + MLFLOW_BATCH])

    def log(self, step: int, values: Line) -> None:
        now = int(time.time() * 1000)
        metrics = [self.metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.id, metrics)

    def conclude(self, step: int, values: Line) -> None:
        self.log(step, values)

    def close(self) -> None:
        self.client.set_terminated(self.id)


class Trackio:
    def __init__(self, knobs: TrackingKnobs, run_id: str, name: str, config: Config) -> None:
        """Runs are told apart by their names there, so that the id is a part of it."""
        trackio = importlib.import_module("trackio")
        self.errors = (OSError, ValueError, sqlite3.Error)
        self.run = trackio.init(
            project=knobs.trackio_project,
            name=f"{name}-{run_id}",
            config=config or None,
            resume="allow",
            auto_log_gpu=False,
            auto_log_cpu=False,
            embed=False,
        )

    def log(self, step: int, values: Line) -> None:
        self.run.log(dict(values), step=step)

    def conclude(self, step: int, values: Line) -> None:
        self.log(step, values)

    def close(self) -> None:
        self.run.finish()


class Trackers:
    """Those of one training; until they are opened nothing is told. `config`: what it is made of,
    by the fields' names, told when the first of them is opened."""

    def __init__(
        self, knobs: TrackingKnobs, folder: Place, name: str, config: Mapping[str, Any]
    ) -> None:
        self.knobs, self.folder, self.name = knobs, folder, name
        self.config = dict(flat(config))
        # Event files are written on this machine, in a bucket's place in a folder of their own.
        self.local = folder.local if folder.is_local else Path(tempfile.mkdtemp())
        self.opened: dict[str, Tracker] = {}
        self.waiting: list[Line] = []  # not yet told to all of them
        file = folder / TRACKED
        self.state = (
            json.loads(file.read_text())
            if file.is_file()
            else {"id": uuid.uuid4().hex[:12], "config": self.config, "steps": {}, "results": {}}
        )

    def open(self) -> None:
        knobs, run_id = self.knobs, self.state["id"]
        config = {} if self.state["steps"] else self.config
        self.local.mkdir(parents=True, exist_ok=True)
        if knobs.tensorboard:
            self.opened["tensorboard"] = TensorBoard(self.local / TENSORBOARD, config)
        if knobs.wandb_project:
            self.opened["wandb"] = Wandb(knobs, run_id, self.name, self.local, config)
        if knobs.mlflow_experiment:
            self.opened["mlflow"] = Mlflow(knobs, run_id, self.name, config)
        if knobs.trackio_project:
            told = self.state.get("config", {})  # each time: it forgets what it is not told again
            self.opened["trackio"] = Trackio(knobs, run_id, self.name, told)

    def log(self, lines: list[Line]) -> None:
        """Steps that were told before are not told again: a resumed training repeats some."""
        if not self.opened:
            return
        last = max((line["step"] for line in self.waiting), default=0)
        self.waiting += [line for line in lines if line["step"] > last]
        for name, tracker in self.opened.items():
            self._tell(name, tracker)
        done = min(self.state["steps"].values(), default=0)
        self.waiting = [line for line in self.waiting if line["step"] > done]
        (self.folder / TRACKED).put(json.dumps(self.state))

    def tell_results(self, values: Line) -> None:
        """Of the student that the training made; what was told before is not told again. A tracker
        that cannot be reached costs a warning: the run has all its results by now."""
        if values == self.state.get("results"):
            return
        step = max(self.state["steps"].values(), default=0)
        try:
            self.open()
            for tracker in self.opened.values():
                tracker.conclude(step, values)
        except Exception as error:  # noqa: BLE001  whose errors these are is known once it is open
            logger.warning("tracking was not told the results, the next run tells them: %s", error)
        else:
            self.state["results"] = values
            (self.folder / TRACKED).put(json.dumps(self.state))
        self.close()

    def close(self) -> None:
        for name, tracker in self.opened.items():
            try:
                tracker.close()
            except tracker.errors as error:
                logger.warning("tracking by %s was not closed: %s", name, error)
        if not self.folder.is_local and self.opened:
            copy(Place(self.local), self.folder)
            shutil.rmtree(self.local)

    def _tell(self, name: str, tracker: Tracker) -> None:
        steps = self.state["steps"]
        for line in self.waiting:
            if line["step"] <= steps.setdefault(name, 0):
                continue
            values = {key: value for key, value in line.items() if "/" in key}
            try:
                tracker.log(int(line["step"]), values | {"train/epoch": line["epoch"]})
            except tracker.errors as error:
                logger.warning("tracking by %s, told again later: %s", name, error)
                return
            steps[name] = int(line["step"])
