"""Held-out groups against a naive reference in float64, one completion at a time."""

import math

import numpy as np
import pytest
import torch
from support.learner import losses, make_learner, make_row
from support.models import make_tiny_model
from support.objectives import objective_of
from transformers import AutoModelForCausalLM

from fastdistill_ray.objectives import AdvDistill, Sft
from fastdistill_ray.objectives.contract import Scored
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs, group_advantages
from fastdistill_ray.training.checkpoints import TrainProgress
from fastdistill_ray.training.held_out import hold_out, is_stopped, mark_best, validate
from fastdistill_ray.training.knobs import HeldOutKnobs
from fastdistill_ray.training.learner import Learner
from fastdistill_ray.training.step import train_step

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(str(tmp_path_factory.mktemp("model")))


def held_out_groups(folder: str) -> list[dict]:
    return [make_row(folder, 100 + k, num_groups=1)["groups"][0] for k in range(5)]


def values(learner: Learner, rows: list[dict]) -> dict[str, float]:
    results = validate(learner, hold_out(learner, rows))
    assert results.pop("time/held_out") > 0
    return results


def reference(folder: str, learner: Learner, rows: list[dict]) -> dict[str, float]:
    """The definitions, word by word, of the paper's loss and of the likelihoods."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    loss, weighted, plain = [], {True: [], False: []}, {True: [], False: []}
    for row in rows:
        advantages = group_advantages(
            np.array([one["reward"] for one in row["completions"]]), AdvantageKnobs()
        )
        weights = np.exp(advantages / 0.5) / np.exp(advantages / 0.5).sum()
        ce = penalty = 0.0
        for one, weight in zip(row["completions"], weights, strict=True):
            prompt = learner.text.encode_prompt(row)
            ids = [*one["token_ids"], learner.text.eos_id]
            with torch.no_grad():
                logits = model(torch.tensor([prompt + ids])).logits[0]
            rows_of = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            logprob = rows_of[range(len(ids)), ids]
            is_correct = one["verdict"] == "correct"
            ce -= weight * logprob.mean().item()
            if not is_correct:
                penalty -= math.log(1 - logprob.exp().mean().item()) / len(weights)
            likelihood = math.exp(logprob.mean().item())
            plain[is_correct].append(likelihood)
            weighted[is_correct].append((weight, likelihood))
        loss.append((ce, penalty))
    ce, penalty = np.mean(loss, axis=0)
    found = {"loss": ce + 0.5 * penalty, "loss/ce": ce, "loss/contrastive": penalty}
    for name, kind in (("correct", True), ("wrong", False)):
        found[f"likelihood_{name}"] = np.mean(plain[kind])
        share, value = np.array(weighted[kind]).T
        found[f"weighted_likelihood_{name}"] = (share * value).sum() / share.sum()
    found["likelihood_gap"] = found["likelihood_correct"] - found["likelihood_wrong"]
    return {f"held_out/{name}": float(value) for name, value in found.items()}


@pytest.mark.parametrize(
    "training",
    [{}, {"micro_batch_tokens": 1}, {"shared_prompt": False, "micro_batch_tokens": 100}],
    ids=["packed", "group by group", "padded"],
)
def test_validation_equals_the_float64_reference_in_any_packing(folder, training):
    learner = make_learner(folder, **training)
    rows = held_out_groups(folder)
    expected = reference(folder, learner, rows)
    assert values(learner, rows) == {
        name: pytest.approx(v, rel=2e-5, abs=1e-8) for name, v in expected.items()
    }


def test_validation_leaves_training_as_it_was(folder):
    learner = make_learner(folder, precision="bf16", lora={"rank": 4, "dropout": 0.3})
    held_out = hold_out(learner, held_out_groups(folder))
    found = []
    for step in range(3):
        found += losses(learner, folder, range(step, step + 1))
        assert validate(learner, held_out)["held_out/loss"] > 0
    quiet = make_learner(folder, precision="bf16", lora={"rank": 4, "dropout": 0.3})
    assert found == losses(quiet, folder, range(3))


def test_validation_of_sft_counts_its_own_tokens_and_every_completion(folder):
    learner = make_learner(folder)
    rows = held_out_groups(folder)
    for one in rows[0]["completions"]:
        one["verdict"] = "wrong"  # nothing for SFT, still wrong completions
    advdistill, sft = (
        values(learner._replace(objective=objective), rows) for objective in (AdvDistill(), Sft())
    )
    for name in ("likelihood_correct", "weighted_likelihood_wrong"):
        assert sft[f"held_out/{name}"] == advdistill[f"held_out/{name}"]
    best = make_learner(folder, micro_batch_tokens=100_000)._replace(objective=Sft())
    only_best = [
        {**row, "completions": [one for one in row["completions"] if one["verdict"] == "correct"]}
        for row in rows[1:]
    ]
    assert sft["held_out/loss/ce"] == pytest.approx(
        losses_of(best, {**make_row(folder, 0), "groups": only_best}), rel=1e-5
    )


def test_wrong_completions_that_tau_leaves_no_weight_have_no_weighted_mean(folder):
    learner = make_learner(folder)._replace(objective=AdvDistill(tau=0.001))
    rows = held_out_groups(folder)
    for row in rows:
        for one in row["completions"]:
            one["reward"] = float(one["verdict"] == "correct")
    found = values(learner, rows)
    assert "held_out/weighted_likelihood_wrong" not in found
    assert found["held_out/likelihood_wrong"] > 0
    assert found["held_out/weighted_likelihood_correct"] > 0


def test_weighted_likelihoods_count_completions_as_the_objective_says(folder):
    """Whatever knobs it has: a `tau` of another meaning is not taken for the softmax's."""

    class Uniform:
        needs = AdvDistill().needs
        tau = 4.0  # say, a temperature of logits
        min_completions = 2
        targets = AdvDistill().targets
        __call__ = staticmethod(AdvDistill())

        def group_weights(self, completions: list[Scored]) -> np.ndarray:
            return np.full(len(completions), 1 / len(completions))

    learner = make_learner(folder)
    found = values(learner._replace(objective=Uniform()), held_out_groups(folder))
    for kind in ("correct", "wrong"):
        plain = found[f"held_out/likelihood_{kind}"]
        assert found[f"held_out/weighted_likelihood_{kind}"] == pytest.approx(plain, rel=1e-5)


def losses_of(learner: Learner, row: dict) -> float:
    from fastdistill_ray.training.step import train_step

    return train_step(learner, row, 10)["train/loss"]


def test_held_out_groups_that_cannot_give_the_watched_value_are_refused(folder):
    knobs = {"share": 0.1, "best_metric": "likelihood_gap"}
    learner = make_learner(folder, held_out=knobs)
    rows = held_out_groups(folder)
    for row in rows:
        row["completions"] = [one | {"verdict": "correct"} for one in row["completions"]]
    with pytest.raises(ValueError, match=r"held_out.share: 0.1 .* no wrong completion"):
        hold_out(learner, rows)
    with pytest.raises(ValueError, match="no correct completion"):
        hold_out(learner, [])


def test_best_step_and_patience_follow_the_metric():
    knobs = HeldOutKnobs(share=0.1, best_metric="loss", patience=2)
    progress, stops = TrainProgress(0, 100), []
    for step, loss in ((10, 3.0), (20, 2.0), (30, 2.0), (40, 1.5), (50, 1.6), (60, 1.7)):
        progress = mark_best(progress._replace(step=step), {"held_out/loss": loss}, knobs)
        stops.append(is_stopped(progress, knobs))
    assert (progress.best_step, progress.best_score, progress.num_worse) == (40, -1.5, 2)
    assert stops == [False] * 5 + [True]
    term = HeldOutKnobs(share=0.1, best_metric="ce")
    results = {"held_out/loss": 9.0, "held_out/loss/ce": 2.0}
    assert mark_best(TrainProgress(5, 100), results, term).best_score == -2.0
    rising = HeldOutKnobs(share=0.1, best_metric="likelihood_correct")
    for step, value in ((10, 0.2), (20, 0.4), (30, 0.3)):
        progress = TrainProgress(0, 100) if step == 10 else progress
        results = {"held_out/likelihood_correct": value}
        progress = mark_best(progress._replace(step=step), results, rising)
    assert (progress.best_step, is_stopped(progress, rising)) == (20, False)


@pytest.mark.parametrize("on", ["best", "correct", "all"])
def test_confidence_of_held_out_groups_is_that_of_trained_ones_with_its_whole_weight(folder, on):
    learner = make_learner(folder, objective=Sft(on=on, confidence=0.25))
    row = make_row(folder, 0)
    found = values(learner, row["groups"])
    trained = train_step(learner, row, 10)
    for name in ("ce", "confidence"):
        assert found[f"held_out/loss/{name}"] == pytest.approx(trained[f"loss/{name}"], rel=1e-5)
    whole = 0.75 * trained["loss/ce"] + 0.25 * trained["loss/confidence"]
    assert found["held_out/loss"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("kind", ["pkd", "fitnets", "tinybert", "minilm", "minilmv2", "lit"])
def test_what_stands_inside_of_blocks_is_held_out_as_it_is_trained(folder, tmp_path, kind):
    teacher = Prompted(make_tiny_model(str(tmp_path), seed=5, num_layers=3), PromptKnobs(system=""))
    learner = make_learner(folder, objective=objective_of(kind), frozen=teacher)
    row = make_row(folder, 0)
    found = values(learner, row["groups"])
    trained = train_step(learner, row, 10)
    for name in learner.objective.terms:
        assert found[f"held_out/loss/{name}"] == pytest.approx(trained[f"loss/{name}"], rel=1e-5)
        assert trained[f"loss/{name}"] > 1e-7
