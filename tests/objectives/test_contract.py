"""Every objective of the union says on its class what it is called; nothing else needs to know."""

import re

import pytest
from support.objectives import knobs_of

from fastdistill_ray.objectives import OBJECTIVES
from fastdistill_ray.objectives.contract import ObjectiveKnobs
from fastdistill_ray.report import plots
from fastdistill_ray.report.colours import OWN
from fastdistill_ray.report.conclusion import model_label, short_name


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_objective_names_itself_for_reports_errors_and_plots(kind):
    objective = OBJECTIVES[kind]
    assert issubclass(objective, ObjectiveKnobs)
    assert objective.label and objective.described and objective.min_completions >= 1
    assert re.fullmatch("#[0-9a-f]{6}", objective.colour)
    assert OWN[kind] == objective.colour
    assert {f"loss/{name}" for name in objective.terms} <= plots.TRAINING_PANELS.keys()
    assert short_name(kind) == objective.label
    recipe = {
        "objective": knobs_of(kind),
        "compare": {"students": [], "baselines": []},
        "teacher": {"prompt": {"shots": []}},
    }
    assert model_label(kind, recipe) == objective.described


def test_kinds_and_colours_are_told_apart():
    colours = [objective.colour for objective in OBJECTIVES.values()]
    assert len(set(colours)) == len(colours)
