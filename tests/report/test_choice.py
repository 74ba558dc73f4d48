"""What is said of how a student was chosen where held-out groups choose the step."""

import pytest
from support.run_folder import make_run

from fastdistill_ray.report.brief import brief_table
from fastdistill_ray.report.reading import Contents, read_run
from fastdistill_ray.report.tables import trial_blocks


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Contents:
    """Two rates with two seeds each; the best step of every training is of another epoch."""
    found = read_run(make_run(tmp_path_factory.mktemp("run")))
    first, *_ = (trial for trial in found.trials if trial["student"] == "advdistill")
    ends = ((2e-5, 0, 1), (2e-5, 3, 2), (5e-5, 0, 3), (5e-5, 3, 4))
    trials = [
        {**first, "learning_rate": rate, "seed": seed, "epoch": epoch, "mean_accuracy": 0.5}
        for rate, seed, epoch in ends
    ]
    held_out = {**found.recipe["training"]["held_out"], "share": 0.1, "best_metric": "loss"}
    training = {**found.recipe["training"], "held_out": held_out}
    return found._replace(trials=trials, recipe={**found.recipe, "training": training})


def said(run: Contents) -> tuple[str, str]:
    """(below the table of trials, of whether it can be trusted)"""
    (table,) = trial_blocks(run)
    brief = brief_table(run, "")
    assert brief
    return table.caption, str(brief.rows[-1])


def test_rates_alone_were_tried_where_held_out_groups_choose_the_step(run):
    caption, trust = said(run)
    assert "Learning rates of all students were chosen" in caption
    assert "The best of 2 trials on 24 problems" in caption
    assert "Tokens and seconds are of the whole training; held-out groups chose" in caption
    assert "The learning rate was chosen on validation problems; held-out groups chose" in trust


def test_step_is_a_choice_even_where_there_is_one_rate(run):
    trials = [{**trial, "validation_accuracy": None} for trial in run.trials[:2]]
    caption, trust = said(run._replace(trials=trials))
    assert caption.startswith("Tokens and seconds are of the whole training; held-out groups chose")
    assert "The learning rate is the recipe's; held-out groups chose the step" in trust
    assert "none were chosen" not in trust and "validation" not in trust


def test_epochs_are_tried_and_costs_end_with_them_where_no_step_is_chosen(run):
    training = {**run.recipe["training"], "held_out": {"best_metric": "none"}}
    caption, trust = said(run._replace(recipe={**run.recipe, "training": training}))
    assert "The best of 4 trials on 24 problems" in caption
    assert caption.endswith("Tokens and seconds count training up to that epoch.")
    assert "Learning rate and epochs were chosen on validation problems" in trust
