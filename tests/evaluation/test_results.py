"""The choice among trials: by strict accuracy on validation problems, ties to the earlier."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastdistill_ray.evaluation.results import (
    Cost,
    Trial,
    choose,
    trials_in,
    write_choice,
    write_results,
)
from fastdistill_ray.run_files import ANSWERS
from fastdistill_ray.storage.place import Place


def write_answers(folder: Path, verdicts: str, num_each: int = 1) -> Path:
    """So many of each problem."""
    names = {"c": "correct", "w": "wrong", "u": "unparsable"}
    rows = [
        {"problem_id": str(i // num_each), "verdict": names[each]}
        for i, each in enumerate(verdicts)
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / ANSWERS)
    return folder


def test_choose_takes_the_best_of_each_student_and_the_earlier_of_equals(tmp_path):
    trials = [
        Trial("advdistill", 2e-5, None, 1, "a"),
        Trial("advdistill", 2e-5, None, 2, "b"),
        Trial("advdistill", 5e-5, None, 1, "c"),
        Trial("sft", 2e-5, None, 1, "d"),
        Trial("sft", 5e-5, None, 1, "e"),
    ]
    validated = {
        trial.name: write_answers(tmp_path / trial.name, verdicts)
        for trial, verdicts in zip(trials, ["cwwu", "ccww", "ccwu", "wwww", "cccw"], strict=True)
    }
    chosen = choose(trials, validated)
    write_choice(trials, validated, chosen, out=tmp_path / "choose.json")
    assert chosen == {"advdistill": trials[1], "sft": trials[4]}
    written = json.loads((tmp_path / "choose.json").read_text())["trials"]
    assert [line["validation_accuracy"] for line in written] == [0.25, 0.5, 0.5, 0.0, 0.75]
    assert [line["chosen"] for line in written] == [False, True, False, False, True]


def test_choice_on_several_answers_to_a_problem_counts_problems(tmp_path):
    trials = [Trial("sft", rate, None, 1, "a") for rate in (2e-5, 5e-5)]
    validated = {
        trial.name: write_answers(tmp_path / trial.name, verdicts, num_each=4)
        for trial, verdicts in zip(trials, ["cwwwcccc", "wwwwcccw"], strict=True)
    }
    write_choice(trials, validated, choose(trials, validated), out=tmp_path / "choose.json")
    written = json.loads((tmp_path / "choose.json").read_text())["trials"]
    assert [line["num_problems"] for line in written] == [2, 2]
    assert [line["validation_accuracy"] for line in written] == [5 / 8, 3 / 8]


def test_choose_without_validation_takes_the_only_trial_of_each():
    trials = [
        Trial(name, 5e-6, None, 4, weights) for name, weights in (("advdistill", "a"), ("sft", "b"))
    ]
    chosen = choose(trials, {})
    assert chosen == {"advdistill": trials[0], "sft": trials[1]}


def test_choose_among_seeds_takes_the_rate_and_epoch_that_is_best_on_average(tmp_path):
    """The best single trial is of another rate: its other seed is bad."""
    verdicts = {(2e-5, 1): "cccc", (2e-5, 7): "wwww", (5e-5, 1): "cccw", (5e-5, 7): "ccww"}
    trials, validated = [], {}
    for (rate, seed), end in verdicts.items():
        for epoch, answers in ((1, "wwww"), (2, end)):
            trial = Trial("sft", rate, seed, epoch, f"{rate}/{seed}/{epoch}")
            trials.append(trial)
            validated[trial.name] = write_answers(tmp_path / trial.name, answers)
    chosen = choose(trials, validated)
    write_choice(trials, validated, chosen, out=tmp_path / "choose.json")
    assert {name: trial.weights for name, trial in chosen.items()} == {
        "sft": "5e-05/1/2",
        "sft-seed_7": "5e-05/7/2",
    }
    written = json.loads((tmp_path / "choose.json").read_text())["trials"]
    assert {(line["learning_rate"], line["epoch"]) for line in written if line["chosen"]} == {
        (5e-5, 2)
    }
    assert [line["seed"] for line in written] == [1, 1, 7, 7, 1, 1, 7, 7]
    ends = [line["mean_accuracy"] for line in written if line["epoch"] == 2]
    assert ends == [0.5, 0.5, 0.625, 0.625]


def test_results_of_a_student_are_the_mean_of_its_seeds_and_its_interval_is_over_both(tmp_path):
    def answers(name: str, verdicts: str) -> Place:
        rows = [
            {
                "problem_id": f"p{i}",
                "split": "test",
                "k": 0,
                "reference": "1",
                "text": "one",
                "num_tokens": 3,
                "finish_reason": "stop",
                "verdict": {"c": "correct", "w": "wrong"}[letter],
                "lenient_verdict": {"c": "correct", "w": "wrong"}[letter],
                **{f"format_{part}": True for part in ("think", "answer", "box", "whole")},
            }
            for i, letter in enumerate(verdicts)
        ]
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name / ANSWERS)
        return Place(tmp_path / name)

    letters = {
        "base": "cwwwwwww" * 5,
        "sft": "ccccccww" * 5,
        "sft-seed_4": "ccwwwwww" * 5,
    }
    chosen = {
        "sft": Trial("sft", 1e-5, 2, 1, "a", (Cost("a", 10.0, 100, 40),)),
        "sft-seed_4": Trial("sft", 1e-5, 4, 1, "b", (Cost("b", 20.0, 300, 60, 14),)),
    }
    folders = {name: answers(name, verdicts) for name, verdicts in letters.items()}
    out = tmp_path / "results.json"
    write_results(folders, {}, "sft", chosen, [], {}, out=Place(out))
    tree = json.loads(out.read_text())
    rows = {row["model"]: row for row in tree["rows"] if row["metric"] == "accuracy"}
    assert set(rows) == {"base", "sft"}
    assert (rows["sft"]["value"], rows["sft"]["num_problems"]) == (0.5, 40)
    # Both seeds the first: 0.75, both the second: 0.25, each in a quarter of all draws.
    assert rows["sft"]["low"] < 0.25 and rows["sft"]["high"] > 0.75
    found = [(row["seed"], row["value"]) for row in tree["seeds"]]
    assert found == [(2, 0.75), (4, 0.25)]
    (gap,) = [row for row in tree["differences"] if row["metric"] == "accuracy"]
    assert gap["value"] == pytest.approx(0.5 - 0.125)
    assert gap["p"] == gap["p_holm"]
    cost = {"model": "sft", "trained_tokens": 200, "scored_tokens": 50}
    cost |= {"signal_bytes": 7, "written_tokens": 0, "seconds": 15.0}
    assert tree["costs"] == [cost]


def test_ensembles_cost_counts_once_what_its_voters_have_in_common(tmp_path):
    """Of three: the second began as the first had ended, one epoch after the one that votes; the
    second and third read one store of signals and one writer's texts."""
    signals = Cost("signals", scored_tokens=500, signal_bytes=2000)
    texts = Cost("texts", written_tokens=70)
    ended = Trial("sft", 1e-5, None, 2, "sft/epoch_2", (Cost("sft", 20.0, 200),))
    chosen = {
        "sft": Trial("sft", 1e-5, None, 1, "sft/epoch_1", (Cost("sft", 10.0, 100),)),
        "opd": Trial(
            "opd", 1e-5, None, 1, "opd/epoch_1", (Cost("opd", 5.0, 40, 9), signals, texts)
        ).after(ended),
        "kl": Trial("kl", 1e-5, None, 1, "kl/epoch_1", (Cost("kl", 7.0, 60), signals, texts)),
    }
    voting = {"both": ["sft", "opd"], "all": ["sft", "opd", "kl"], "others": ["sft", "kl"]}
    out = tmp_path / "results.json"
    write_results({}, {}, "sft", chosen, [], voting, out=Place(out))
    costs = json.loads(out.read_text())["costs"]
    assert {one.pop("model"): tuple(one.values()) for one in costs} == {
        "sft": (10.0, 100, 0, 0, 0),
        "opd": (25.0, 240, 509, 2000, 70),
        "kl": (7.0, 60, 500, 2000, 70),
        "both": (25.0, 240, 509, 2000, 70),
        "all": (32.0, 300, 509, 2000, 70),
        "others": (17.0, 160, 500, 2000, 70),
    }


def test_training_costs_what_it_was_given_and_what_is_its_own_apart(tmp_path):
    out = Place(tmp_path / "train")
    (tmp_path / "train/epoch_1").mkdir(parents=True)
    facts = {"signal_tokens": 500, "signal_bytes": 2000, "written_tokens": 70}
    (out / "manifest.json").put(json.dumps({"facts": facts}))
    line = {"step": 1, "epoch": 0, "time/step": 2.0, "train/trained_tokens": 30}
    (out / "metrics.jsonl").put(json.dumps(line | {"train/frozen_tokens": 9}) + "\n")
    signals = Cost("signals", scored_tokens=500, signal_bytes=2000)
    texts = Cost("texts", written_tokens=70)
    (given,) = trials_in(out, "kl", 1e-5, None, [signals, texts])
    assert given.costs == (Cost(str(out), 2.0, 30, 9), signals, texts)
    (alone,) = trials_in(out, "kl", 1e-5, None)
    assert alone.costs == (Cost(str(out), 2.0, 30, 509, 2000, 70),)
