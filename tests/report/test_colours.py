"""Colours of the report: told apart by every eye, by day and by night, on paper and on screens."""

import itertools
import math

import pytest

from fastdistill_ray.objectives import OBJECTIVES
from fastdistill_ray.records import VERDICTS
from fastdistill_ray.report.colours import (
    BASELINES,
    CLOSEST,
    ROLES,
    SPARE,
    contrast,
    distance,
    model_colours,
    on_paper,
    on_verdict,
    themed,
    variables,
)

CLASSES = {"correct": "correct", "wrong": "wrong"}  # all others are neither
NIGHTS = {role.day: role.night for role in ROLES.values()}


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # its own example
    assert contrast("#ffffff", "#ffffff") == 1


def test_distance_is_that_of_oklab() -> None:
    assert distance("#000000", "#ffffff") == pytest.approx(1, abs=1e-4)
    red = (0.62796, 0.22486, 0.12585)  # as its author tells
    assert distance("#000000", "#ff0000") == pytest.approx(math.hypot(*red), abs=1e-3)


@pytest.mark.parametrize("place", [0, 1], ids=["day", "night"])
def test_verdicts_right_wrong_and_neither_differ_by_lightness(place: int) -> None:
    for one, other in itertools.combinations(VERDICTS, 2):
        if CLASSES.get(one) != CLASSES.get(other):
            pair = ROLES[one][place], ROLES[other][place]
            assert contrast(*pair) >= 3, (one, other)
        else:
            assert distance(ROLES[one][place], ROLES[other][place]) > 0.04, (one, other)


@pytest.mark.parametrize("place", [0, 1], ids=["day", "night"])
def test_text_is_read_on_what_it_stands_on(place: int) -> None:
    for name in ("ink", "soft", "link"):
        for ground in ("page", "tint"):
            assert contrast(ROLES[name][place], ROLES[ground][place]) >= 4.5, (name, ground)
    for verdict in VERDICTS:
        name = verdict if verdict in CLASSES else "neither"
        assert ROLES[f"on-{name}"].day == on_verdict(verdict)
        assert contrast(ROLES[f"on-{name}"][place], ROLES[verdict][place]) >= 4.5, verdict
    for name in ("correct", "wrong", "edge"):  # of what is neither, its edge
        assert contrast(ROLES[name][place], ROLES["page"][place]) >= 3, name


def test_every_role_has_a_colour_of_its_own_by_day() -> None:
    assert len(NIGHTS) == len(ROLES)
    assert not set(NIGHTS) & {*SPARE, *BASELINES.values(), *(o.colour for o in OBJECTIVES.values())}


@pytest.mark.parametrize("colour", [*SPARE, *BASELINES.values()])
def test_models_are_seen_on_both_pages(colour: str) -> None:
    assert min(contrast(colour, page) for page in ROLES["page"]) >= 3


@pytest.mark.parametrize(
    "students",
    [
        ["sft", "advdistill"],
        [*OBJECTIVES],
        [f"student_{number}" for number in range(20)],
        ["sft", "sft_2", "sft_3", "forward_kl", "step_by_step", "pkd", "byte_kl", "tinybert"],
    ],
    ids=["two", "all kinds", "twenty", "alike"],
)
def test_no_two_models_of_a_page_are_alike(students: list[str]) -> None:
    found = model_colours((*BASELINES, *students))
    assert list(found) == [*BASELINES, *students]
    for one, other in itertools.combinations(found, 2):
        assert distance(found[one], found[other]) >= CLOSEST, (one, other)


def test_spare_colours_are_far_from_those_of_methods_that_come_later() -> None:
    found = model_colours(("base", "teacher", "sampled", "full", "sft"))
    for one, other in itertools.combinations(found, 2):
        assert distance(found[one], found[other]) > 0.12, (one, other)


def test_known_methods_keep_their_colours() -> None:
    found = model_colours((*BASELINES, "sft", "advdistill"))
    assert found == BASELINES | {name: OBJECTIVES[name].colour for name in ("sft", "advdistill")}


def test_a_figure_changes_with_the_page_and_stays_as_it_is_outside_of_one() -> None:
    ink = ROLES["ink"].day
    svg = f'<svg><path style="fill: {ink}; stroke: #0f8a6c"/></svg>'
    on_page = themed(svg)
    assert on_page == f'<svg><path style="fill: var(--ink, {ink}); stroke: #0f8a6c"/></svg>'
    assert on_paper(on_page).startswith('<svg><rect width="100%" height="100%" fill="#ffffff"/>')
    assert f"fill: {ink}; stroke: #0f8a6c" in on_paper(on_page)
    assert f"--ink: {ink};" in variables() and f"--ink: {ROLES['ink'].night};" in variables()
