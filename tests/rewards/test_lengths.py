"""Cosine and length scores against the numbers of the method's reference sheet."""

import pytest

from fastdistill_ray.rewards.lengths import CosineKnobs, LengthKnobs, cosine_score, length_score


@pytest.mark.parametrize(
    ("length", "correct", "wrong"),
    [
        (0, 1.0, 0.0),
        (256, 0.9809698831, -0.0190301169),
        (512, 0.9267766953, -0.0732233047),
        (1024, 0.75, -0.25),
        (1536, 0.5732233047, -0.4267766953),
        (2048, 0.5, -0.5),
        (3000, 0.5, -0.5),
    ],
)
def test_cosine_open_rs_has_reference_values(length: int, correct: float, wrong: float) -> None:
    assert cosine_score(length, True, CosineKnobs()) == pytest.approx(correct, abs=1e-9)
    assert cosine_score(length, False, CosineKnobs()) == pytest.approx(wrong, abs=1e-9)


def test_cosine_yeo_has_reference_values_and_exceed_value() -> None:
    knobs = CosineKnobs(preset="yeo")
    assert cosine_score(512, True, knobs) == pytest.approx(1.8535533906, abs=1e-9)
    assert cosine_score(512, False, knobs) == pytest.approx(-8.5355339059, abs=1e-9)
    assert cosine_score(1024, True, knobs) == pytest.approx(1.5)
    assert cosine_score(1024, False, knobs) == pytest.approx(-5.0)
    assert cosine_score(2048, True, knobs) == cosine_score(9999, False, knobs) == -10.0


@pytest.mark.parametrize(
    ("preset", "correct", "wrong"),
    [
        ("open_rs", (1.0, 0.75, 0.5), (0.0, -0.25, -0.5)),
        ("open_r1_fn", (1.0, 0.75, 0.5), (-1.0, -0.75, -0.5)),
        ("yeo", (2.0, 1.5, -10.0), (-10.0, -5.0, -10.0)),
    ],
)
def test_cosine_presets_at_the_start_the_middle_and_the_cap(
    preset: str, correct: tuple[float, ...], wrong: tuple[float, ...]
) -> None:
    knobs = CosineKnobs(preset=preset)
    lengths = (0, 1024, 2048)
    assert [cosine_score(n, True, knobs) for n in lengths] == pytest.approx(correct)
    assert [cosine_score(n, False, knobs) for n in lengths] == pytest.approx(wrong)


def test_cosine_linear_is_halfway_at_half_length() -> None:
    knobs = CosineKnobs(shape="linear", preset="open_r1_fn")
    assert cosine_score(512, True, knobs) == 0.875
    assert cosine_score(512, False, knobs) == -0.875


def test_a_preset_changed_in_a_written_recipe_brings_its_own_values() -> None:
    written = CosineKnobs(wrong_r0=-0.1).model_dump()
    assert CosineKnobs(**written) == CosineKnobs(wrong_r0=-0.1)
    changed = CosineKnobs(**written | {"preset": "yeo"})
    assert changed == CosineKnobs(preset="yeo", wrong_r0=-0.1)
    assert (changed.correct_r0, changed.exceed_value) == (2.0, -10.0)


@pytest.mark.parametrize(
    ("length", "expected"), [(0, 0), (16384, 0), (18432, -0.5), (20480, -1), (99999, -1)]
)
def test_length_falls_inside_the_margin(length: int, expected: float) -> None:
    knobs = LengthKnobs(max_length=20480, margin=4096)
    assert length_score(length, knobs) == expected
    assert length_score(1024, LengthKnobs()) == -0.5
