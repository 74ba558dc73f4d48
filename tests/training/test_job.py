"""Training on a real local Ray: ranks, restarts and re-runs give the numbers of one quiet rank."""

import gc
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
import torch.distributed as dist
from ray.data.block import BlockStats
from ray.train import TrainingFailedError
from support.groups import make_completion, make_group, write_store
from support.learner import ADVDISTILL
from support.models import make_tiny_model, make_twin_tokenizer
from transformers import AutoModelForCausalLM

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.cluster.queues import bound_queues
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.completions import (
    completions,
    start_dispenser,
    to_write,
)
from fastdistill_ray.generation.knobs import EngineKnobs, EngineSpec, SamplingKnobs
from fastdistill_ray.generation.requests import ProblemRequests, build_requests
from fastdistill_ray.groups.log import LOG
from fastdistill_ray.groups.steps import StepPlan, num_steps, steps
from fastdistill_ray.groups.store import Store
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.objectives import AdvDistill, ByteKl, Dpo, Jsd, Objective
from fastdistill_ray.objectives.contract import LossBatch, Outputs, Scored, Target, Term
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.records import Problem
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.run_files import MANIFEST, StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems
from fastdistill_ray.training.feed import rank_dataset
from fastdistill_ray.training.job import StoppedEarlyError, TrainJob, is_out_of_memory, train
from fastdistill_ray.training.journal import is_as_planned
from fastdistill_ray.training.knobs import HeldOutKnobs, OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.worker import step_rows
from fastdistill_ray.verifiers import VerifierKnobs

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.usefixtures("cluster")]
NUM_GROUPS = 13  # in steps of 3: the last of an epoch has one group, so one of two ranks has none
EPOCHS = 3
ASCII_IDS = 97
MEASURED = (
    "time/step",
    "time/held_out",
    "time/frozen",
    "train/tokens_per_second",
    "memory/peak_gib",
)
# Two groups held out; the best step is neither the last nor one of a periodic checkpoint.
RISING = 5e-3  # a learning rate at which they get worse after some steps
WATCHED = HeldOutKnobs(share=0.15, every=2, best_metric="loss", patience=2)
KNOWN_CHECKPOINTS = "checkpoint_manager_snapshot.json"  # Ray Train's own file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(str(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    return make_store(tmp_path_factory.mktemp("groups"), model, 250)


def make_store(folder: Path, model: str, num_ids: int) -> Path:
    """Of texts of the first ids; those below ASCII_IDS are characters."""
    draw, tokenizer = np.random.default_rng(0), load_tokenizer(model)
    groups = []
    for index in range(NUM_GROUPS):
        completions = []
        for k in range(4):
            ids = draw.integers(3, num_ids, draw.integers(1, 30)).tolist()
            completions.append(
                make_completion(
                    tokenizer.decode(ids),
                    ids,
                    verdict="correct" if k % 2 else "wrong",
                    reward=float(draw.normal()),
                )
            )
        groups.append(make_group(f"p{index}", completions, question=f"{index} + 2?", teacher=model))
    return write_store(folder, groups, is_complete=True).folder


def test_bounded_queue_stops_a_producer_whose_rows_nobody_takes(tmp_path):
    made = tmp_path / "made"

    def produce(batch: dict) -> Iterator[dict]:
        for number in range(1000):
            with open(made, "a") as file:
                file.write("x")
            yield {"number": [number]}

    dataset = ray.data.from_items([{"x": 0}]).map_batches(produce, num_cpus=0.1)
    bound_queues(dataset.context, max_blocks=8)
    rows = iter(dataset.iter_rows())
    first = next(rows)["number"]
    size = 0
    while made.stat().st_size > size:  # until it has stopped
        size = made.stat().st_size
        time.sleep(2.0)
    share = 1.0
    while share > 1 / 3:  # a loop that spins would take a core for ever, what else starts does not
        begin, used = time.monotonic(), time.process_time()
        time.sleep(3.0)
        share = (time.process_time() - used) / (time.monotonic() - begin)
    assert size <= 100
    assert [first, *(next(rows)["number"] for _ in range(900))] == list(range(901))
    kept = sum(isinstance(one, BlockStats) for one in gc.get_objects())
    assert kept < 200, "the driver keeps nothing of the blocks that are consumed"
    assert [row["number"] for row in rows] == list(range(901, 1000))


def unrendered(problems: list[Problem], folder: Path) -> ProblemRequests:
    """Requests whose messages the engine is given as they are."""
    write_problems(problems, folder / "problems.parquet")
    file = ProblemFile(folder / "problems.parquet")
    return ProblemRequests(file, np.arange(len(file)), "", PromptKnobs(), 0, None)


@pytest.mark.parametrize("gpus", [0, 2])
def test_requests_are_pulled_one_by_one_and_come_back_in_bundles(model, tmp_path, gpus):
    problems = [Problem(f"p{i}", "sums", "train", f"{i}?", f"{i}", "number") for i in range(80)]
    requests = build_requests(problems, PromptKnobs(), None, 0)
    engine = EngineKnobs(kind="scripted", max_num_seqs=8)
    spec = EngineSpec(model, engine, SamplingKnobs(n=1, max_new_tokens=8), VerifierKnobs())
    asked = to_write(
        unrendered(problems, tmp_path), spec, PoolKnobs(workers=1, cpus=0.5, gpus=gpus)
    )
    dispenser = start_dispenser(asked, 0)
    rows = [row for one in completions(asked, dispenser).iter_rows() for row in one["rows"]]
    assert {row["problem_id"]: row["seed"] for row in rows} == {
        row["problem_id"]: row["seed"] for row in requests
    }
    assert len(rows) == 80
    assert all(len(row["completions"]) == 1 for row in rows)
    status = ray.get(dispenser.status.remote())
    assert (status.num_done, status.num_out, status.num_waiting) == (80, 0, 0)


def test_step_is_handed_out_before_groups_of_later_steps_are_written(store, tmp_path):
    growing = tmp_path / "groups"
    shutil.copytree(store, growing, ignore=shutil.ignore_patterns(MANIFEST, LOG))
    commits = list(Store(store).commits())
    Store(growing).rewrite_log(commits[:4])
    rows = step_rows(rank_dataset(StepPlan(str(growing), 3, 1, None, 0, True), 0, 1, 0).iterator())
    seen: list[list[str]] = []
    reader = threading.Thread(target=lambda: seen.extend(row["group_ids"] for row in rows))
    reader.start()
    try:
        while not seen:
            assert reader.is_alive()
            time.sleep(0.02)
        first = list(seen)
    finally:
        Store(growing).rewrite_log(commits)
        (growing / MANIFEST).write_text("{}")
        reader.join()
    assert first == [["p0", "p1", "p2"]]
    assert [len(step) for step in seen] == [3, 3, 3, 3, 1]


def run(
    model: str,
    store: Path,
    out: Path,
    *,
    workers: int,
    max_failures: int = 0,
    held_out: HeldOutKnobs | None = None,
    learning_rate: float = 3e-3,
    micro_batch_tokens: int = 80,
    objective: Objective = ADVDISTILL,
    frozen: Prompted | None = None,
    max_steps: int | None = None,
) -> StageResult:
    out.mkdir(exist_ok=True)
    held_out = held_out or HeldOutKnobs()
    plan = StepPlan(str(store), 3, EPOCHS, max_steps, 0, False, held_out.share)
    job = TrainJob(
        model=model,
        start=model,
        prompt=PromptKnobs(system=""),
        teacher_prompts={},
        objective=objective,
        frozen=frozen,
        advantage=AdvantageKnobs(),
        optimizer=OptimizerKnobs(learning_rate=learning_rate),
        training=TrainingKnobs(
            epochs=EPOCHS,
            precision="fp32",
            checkpoint_every=4,
            micro_batch_tokens=micro_batch_tokens,
            max_failures=max_failures,
            held_out=held_out,
        ),
        plan=plan,
        total_steps=num_steps(plan, NUM_GROUPS),
        export_epochs=[1, 3] if held_out.best_metric == "none" else [],
    )
    return train(job, PoolKnobs(workers=workers, cpus=1.0), out=Place(out))


@pytest.fixture(scope="module")
def quiet(model: str, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training of two ranks."""
    out = tmp_path_factory.mktemp("quiet")
    result = run(model, store, out, workers=2)
    assert (result.rows_in, result.rows_out) == (NUM_GROUPS * EPOCHS,) * 2
    return out


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def without_measured(file: Path) -> list[dict]:
    return [
        {name: value for name, value in line.items() if name not in (*MEASURED, "time")}
        for line in lines(file)
    ]


def without_work(line: dict) -> dict:
    """Ranks that share a group compute its prompt more than once."""
    work = ("train/unique_tokens", "train/computed_tokens")
    return {name: value for name, value in line.items() if name not in work}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


def dying_after(
    out: Path, num_steps: int, *, checkpoint: bool = False, objective: Objective = ADVDISTILL
) -> tuple[Objective, Path]:
    """That objective, whose first rank is killed -9 in the step after that many are recorded, once,
    and, where asked for, as soon as Ray's controller knows of a checkpoint, some time after its
    step; and the file that then says what the process had loaded."""
    metrics, killed = out / "metrics.jsonl", out.with_suffix(".killed")
    known = out / "checkpoints" / KNOWN_CHECKPOINTS

    class Dying:  # in a function, so that it travels whole: workers do not have this file
        needs, min_completions = objective.needs, objective.min_completions
        targets = staticmethod(objective.targets)
        group_weights = staticmethod(objective.group_weights)

        def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
            is_due = metrics.exists() and metrics.read_bytes().count(b"\n") >= num_steps
            if is_due and dist.get_rank() == 0 and not killed.exists():
                while checkpoint and not (known.exists() and known.stat().st_size):
                    time.sleep(0.01)
                killed.write_bytes(Path("/proc/self/maps").read_bytes())
                os.kill(os.getpid(), signal.SIGKILL)
            return objective(outputs, batch)

    return Dying(), killed


def test_two_ranks_train_every_group_once_per_epoch_and_export_the_asked_epochs(
    quiet: Path,
) -> None:
    steps = lines(quiet / "steps.jsonl")
    assert [step["step"] for step in steps] == list(range(15))
    for epoch in range(EPOCHS):
        ids = [key for step in steps if step["epoch"] == epoch for key in step["group_ids"]]
        assert sorted(ids) == sorted(f"p{index}" for index in range(NUM_GROUPS))
    metrics = lines(quiet / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, 16))
    assert metrics[-1]["train/loss"] < metrics[0]["train/loss"]
    assert sorted(one.name for one in quiet.iterdir()) == [
        "checkpoints",  # until the stage is complete
        "epoch_1",
        "epoch_3",
        "metrics.jsonl",
        "steps.jsonl",
    ]


@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_two_ranks_equal_any_other_number_in_loss_and_updated_weights(
    quiet: Path, model: str, store: Path, tmp_path: Path, workers: int
) -> None:
    """Loss and norm of all 15 steps within 1e-4; weights within bf16's rounding."""
    run(model, store, tmp_path / "one", workers=workers)
    one, two = (without_measured(out / "metrics.jsonl") for out in (tmp_path / "one", quiet))
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for name, value in without_work(first).items():
            assert second[name] == pytest.approx(value, rel=1e-4), (first["step"], name)
    for epoch in ("epoch_1", "epoch_3"):
        expected = weights(tmp_path / "one" / epoch)
        for name, tensor in weights(quiet / epoch).items():
            torch.testing.assert_close(tensor, expected[name], rtol=2**-7, atol=1e-4)


@pytest.mark.slow
def test_killed_worker_restarts_and_metrics_equal_the_quiet_run(
    quiet: Path, model: str, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    dying, killed = dying_after(out, 6)
    run(model, store, out, workers=2, max_failures=1, objective=dying)
    assert killed.exists()
    for name in ("metrics.jsonl", "steps.jsonl"):
        assert without_measured(out / name) == without_measured(quiet / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [Jsd(weighting="advantage"), Dpo(), ByteKl()], ids=["jsd", "dpo", "byte_kl"]
)
def test_killed_worker_beside_a_frozen_model_changes_no_digit(
    model: str, store: Path, tmp_path: Path, objective: Objective
) -> None:
    twin = make_twin_tokenizer() if objective.needs.across else None
    teacher = make_tiny_model(str(tmp_path / "teacher"), seed=5, num_layers=3, tokenizer=twin)
    frozen = Prompted(teacher, PromptKnobs(system="Think."))
    if objective.needs.across:
        store = make_store(tmp_path / "groups", model, ASCII_IDS)
    quiet, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(model, store, quiet, workers=2, objective=objective, frozen=frozen)
    dying, marker = dying_after(killed, 6, objective=objective)
    run(model, store, killed, workers=2, max_failures=1, objective=dying, frozen=frozen)
    assert marker.exists()
    for name in ("metrics.jsonl", "steps.jsonl"):
        assert without_measured(killed / name) == without_measured(quiet / name)
    first = lines(quiet / "metrics.jsonl")[0]
    assert first["train/frozen_tokens"] > 0 and not first.get("train/unaligned_bytes")


@pytest.mark.slow
def test_training_called_again_after_a_failure_continues_from_its_checkpoint(
    quiet: Path, model: str, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    dying, killed = dying_after(out, 6, checkpoint=True)
    with pytest.raises(TrainingFailedError):
        run(model, store, out, workers=2, objective=dying)
    assert "libjemalloc.so" in killed.read_text()
    first_time = lines(out / "steps.jsonl")[0]["time"]
    run(model, store, out, workers=2)
    assert without_measured(out / "metrics.jsonl") == without_measured(quiet / "metrics.jsonl")
    assert lines(out / "steps.jsonl")[0]["time"] == first_time, "the first steps were not repeated"
    for name, tensor in weights(out / "epoch_3").items():
        assert torch.equal(tensor, weights(quiet / "epoch_3")[name])


@pytest.mark.slow
def test_epoch_that_max_steps_cuts_short_is_exported_though_that_failed_at_first(
    quiet: Path, model: str, store: Path, tmp_path: Path
) -> None:
    """A checkpoint is due at the last step: once it is there nothing is left to train."""
    out = tmp_path / "cut"
    out.mkdir()
    (out / "epoch_1").write_text("")  # where a folder is to be
    with pytest.raises(TrainingFailedError):
        run(model, store, out, workers=1, max_steps=4)
    (out / "epoch_1").unlink()
    run(model, store, out, workers=1, max_steps=4)
    assert weights(out / "epoch_1")
    first = without_measured(quiet / "metrics.jsonl")[:3]
    assert [line["train/loss"] for line in without_measured(out / "metrics.jsonl")][:3] == [
        pytest.approx(line["train/loss"], rel=1e-4) for line in first
    ]


def at_step(out: Path, num_steps: int, act: Callable[[], None]) -> Objective:
    """An objective whose first rank acts, once, in the step after that many are recorded."""
    metrics, acted = out / "metrics.jsonl", out.with_suffix(".acted")

    class Acting:
        needs, min_completions = ADVDISTILL.needs, ADVDISTILL.min_completions
        targets = staticmethod(ADVDISTILL.targets)
        group_weights = staticmethod(ADVDISTILL.group_weights)

        def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
            is_due = metrics.exists() and metrics.read_bytes().count(b"\n") >= num_steps
            if is_due and dist.get_rank() == 0 and not acted.exists():
                acted.touch()
                act()
            return ADVDISTILL(outputs, batch)

    return Acting()


def stopping_at(out: Path, num_steps: int) -> Objective:
    stop = out / "stop"

    def ask() -> None:
        stop.touch()
        time.sleep(3.0)  # it is looked for every second; a late look only ends a later step

    return at_step(out, num_steps, ask)


def test_training_told_to_stop_goes_on_from_its_last_step_with_another_number_of_ranks(
    quiet: Path, model: str, store: Path, tmp_path: Path
) -> None:
    """Between two steps, with a checkpoint that was not due; then one rank where there were two."""
    out = tmp_path / "stopped"
    with pytest.raises(StoppedEarlyError):
        run(model, store, out, workers=2, objective=stopping_at(out, 5))
    done = (out / "steps.jsonl").read_text()
    num_done = done.count("\n")
    assert 6 <= num_done < 15
    assert (out / f"checkpoints/step_{num_done}").is_dir()
    run(model, store, out, workers=1)
    assert (out / "steps.jsonl").read_text().startswith(done), "no step was done twice"
    after, before = (without_measured(one / "metrics.jsonl") for one in (out, quiet))
    assert after[:num_done] == before[:num_done]
    for first, second in zip(after, before, strict=True):
        expected = {name: pytest.approx(one, rel=1e-4) for name, one in second.items()}
        assert without_work(first) == without_work(expected)
    for name, tensor in weights(out / "epoch_3").items():
        torch.testing.assert_close(tensor, weights(quiet / "epoch_3")[name], rtol=2**-7, atol=1e-4)


@pytest.mark.slow
def test_training_whose_groups_now_come_in_another_order_starts_anew(
    quiet: Path, model: str, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    with pytest.raises(StoppedEarlyError):
        run(model, store, out, workers=2, objective=stopping_at(out, 5))
    first, *others = lines(out / "steps.jsonl")
    first["group_ids"] = first["group_ids"][::-1]
    text = "".join(json.dumps(line) + "\n" for line in (first, *others))
    (out / "steps.jsonl").write_text(text)
    (out / "best_step_2").mkdir()  # of the training that was
    run(model, store, out, workers=2)
    assert not (out / "best_step_2").exists() and (out / "checkpoints").is_dir()
    assert lines(out / "steps.jsonl")[0]["time"] > others[-1]["time"]
    assert without_measured(out / "metrics.jsonl") == without_measured(quiet / "metrics.jsonl")


@pytest.mark.slow
def test_killed_controller_is_started_again_and_no_digit_differs(
    quiet: Path, model: str, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"

    def kill_controller() -> None:
        (controller,) = [
            process
            for process in psutil.Process().parent().children()
            if process.cmdline()[0].startswith("ray::TrainController")
        ]
        controller.kill()
        time.sleep(60.0)  # until this process is ended for it

    objective = at_step(out, 6, kill_controller)
    run(model, store, out, workers=2, max_failures=1, objective=objective)
    assert out.with_suffix(".acted").exists()
    assert without_measured(out / "metrics.jsonl") == without_measured(quiet / "metrics.jsonl")


def completions_in(store: Path) -> list[dict]:
    rows = [row for table in Store(store).tables() for row in table.to_pylist()]
    return [one for row in rows for one in row["completions"]]


def hungry(limit: int) -> Objective:
    """An objective for which the memory is not enough where a micro-batch has more target tokens
    than that."""

    class Hungry:
        needs, min_completions = ADVDISTILL.needs, ADVDISTILL.min_completions
        targets = staticmethod(ADVDISTILL.targets)
        group_weights = staticmethod(ADVDISTILL.group_weights)

        def __call__(self, outputs: Outputs, batch: LossBatch) -> list[Term]:
            if len(batch.completion) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return ADVDISTILL(outputs, batch)

    return Hungry()


@pytest.mark.slow
def test_rank_without_memory_for_its_step_goes_on_with_smaller_micro_batches(
    quiet: Path, model: str, store: Path, tmp_path: Path
) -> None:
    """Of three groups at once it can hold one; the losses are those of the quiet run."""
    out = tmp_path / "hungry"
    most = max(len(one["token_ids"]) * 4 for one in completions_in(store))
    result = run(model, store, out, workers=2, objective=hungry(most), micro_batch_tokens=640)
    assert result.facts["micro_batch_tokens"] in (320, 160, 80)
    metrics = [without_measured(one / "metrics.jsonl") for one in (out, quiet)]
    for first, second in zip(*metrics, strict=True):
        assert first["train/loss"] == pytest.approx(second["train/loss"], rel=1e-4)


@pytest.mark.slow
def test_rank_that_never_has_enough_memory_ends_the_training_with_a_line(
    model: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"with 640 and even with 80 .*CUDA out of memory.*lora"):
        run(model, store, tmp_path / "out", workers=1, objective=hungry(0), micro_batch_tokens=640)


@pytest.mark.parametrize(
    ("error", "is_short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (ray.exceptions.OutOfMemoryError("Task was killed due to the node running low"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_memory_is_short_is_told_from_other_errors_however_wrapped(error, is_short):
    outer = RuntimeError("worker failed")
    outer.__cause__ = error
    assert is_out_of_memory(error) == is_out_of_memory(outer) == is_short


def test_steps_that_were_of_other_groups_are_not_those_of_the_plan(
    store: Path, tmp_path: Path
) -> None:
    plan = StepPlan(str(store), 3, EPOCHS, None, 0, False)
    done = [[one.key for one in step.locations] for step in islice(steps(plan), 4)]

    def is_same(recorded: list[list[str]], num_steps: int) -> bool:
        text = "".join(json.dumps({"group_ids": keys}) + "\n" for keys in recorded)
        (tmp_path / "steps.jsonl").write_text(text)
        return is_as_planned(Place(tmp_path), plan, num_steps)

    assert is_same(done, 4) and is_same(done, 3) and is_same([], 0)
    assert not is_same([done[1], *done[1:]], 4)
    assert is_same([*done[:3], done[0]], 3), "only what the checkpoint counts as done"
    assert not is_same(done[:3], 4), "a record was lost"


def test_user_error_of_one_rank_reaches_the_driver_as_itself_without_another_try(
    model: str, store: Path, tmp_path: Path
) -> None:
    """While the other rank waits for it; Ray would restart both after any other exception."""
    tried = tmp_path / "tried"

    class Refusing:
        needs, min_completions = ADVDISTILL.needs, ADVDISTILL.min_completions

        def targets(self, completions: list[Scored]) -> list[Target]:
            if torch.distributed.get_rank() == 1:
                with open(tried, "a", encoding="utf-8") as file:
                    file.write("x")
                raise UserError("objective: it refuses")
            return AdvDistill().targets(completions)

    environment = dict(os.environ)
    with pytest.raises(UserError, match=r"^objective: it refuses$"):
        run(model, store, tmp_path / "out", workers=2, max_failures=3, objective=Refusing())
    assert tried.read_text() == "x"
    assert dict(os.environ) == environment, "what Ray Train is told by variables is taken back"


@pytest.fixture(scope="module")
def watched(model: str, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training of two ranks that validates and stops early."""
    out = tmp_path_factory.mktemp("watched")
    run(model, store, out, workers=2, held_out=WATCHED, learning_rate=RISING)
    return out


def validations(out: Path) -> dict[int, float]:
    return {
        line["step"]: line["held_out/loss"]
        for line in lines(out / "metrics.jsonl")
        if "held_out/loss" in line
    }


def test_training_stops_when_held_out_groups_get_no_better_and_exports_the_best_step(
    watched: Path, store: Path
) -> None:
    losses = validations(watched)
    best = min(losses, key=lambda step: losses[step])
    assert best % 4, "no periodic checkpoint"
    assert list(losses) == list(range(2, best + 5, 2)), losses
    steps = lines(watched / "steps.jsonl")
    assert len(steps) == best + 4 < num_steps(StepPlan(str(store), 3, EPOCHS, None, 0, False), 11)
    trained = {key for step in steps for key in step["group_ids"]}
    assert len(trained) == NUM_GROUPS - 2, "held-out groups are never trained"
    assert sorted(one.name for one in watched.iterdir()) == [
        f"best_step_{best}",
        "checkpoints",
        "metrics.jsonl",
        "steps.jsonl",
    ]


@pytest.mark.slow
def test_validation_and_the_best_step_are_those_of_one_rank(
    watched: Path, model: str, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "one"
    run(model, store, out, workers=1, held_out=WATCHED, learning_rate=RISING)
    one, two = (without_measured(folder / "metrics.jsonl") for folder in (out, watched))
    for first, second in zip(one, two, strict=True):
        assert second == {name: pytest.approx(value, rel=1e-3) for name, value in first.items()}
    (best,) = out.glob("best_step_*")
    expected = weights(best)
    for name, tensor in weights(watched / best.name).items():
        torch.testing.assert_close(tensor, expected[name], rtol=2**-6, atol=1e-3)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_worker_killed_at_a_random_step_changes_no_digit(
    watched: Path, model: str, store: Path, tmp_path: Path, seed: int
) -> None:
    """With checkpoints still being written, validations, early stopping: the same lines."""
    out = tmp_path / "killed"
    step = random.Random(seed).randrange(1, len(lines(watched / "steps.jsonl")))
    dying, killed = dying_after(out, step)
    run(
        model,
        store,
        out,
        workers=2,
        max_failures=1,
        held_out=WATCHED,
        learning_rate=RISING,
        objective=dying,
    )
    assert killed.exists()
    for name in ("metrics.jsonl", "steps.jsonl"):
        assert without_measured(out / name) == without_measured(watched / name), f"killed at {step}"
    (best,) = out.glob("best_step_*")
    for name, tensor in weights(best).items():
        assert torch.equal(tensor, weights(watched / best.name)[name])
