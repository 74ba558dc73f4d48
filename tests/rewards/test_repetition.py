"""The share of repeated word n-grams, by hand."""

import pytest

from fastdistill_ray.rewards.repetition import RepetitionKnobs, repetition_score

LOOPING = "so the answer is 4 " * 3  # 15 words


@pytest.mark.parametrize(
    ("ngram", "text", "share"),
    [
        (4, LOOPING, 7 / 12),
        (3, LOOPING, 8 / 13),
        (4, "one two three", 0.0),
        (1, "a a a a", 0.75),
        (4, "", 0.0),
        (2, "a b c d", 0.0),
    ],
)
def test_repetition_is_the_share_of_repeated_ngrams_times_the_penalty(
    ngram: int, text: str, share: float
) -> None:
    knobs = RepetitionKnobs(ngram=ngram)
    assert repetition_score(text, False, knobs) == pytest.approx(-share)
    assert repetition_score(text, True, knobs) == pytest.approx(-share)
    halved = RepetitionKnobs(ngram=ngram, max_penalty=-0.5, only_wrong=True)
    assert repetition_score(text, False, halved) == pytest.approx(-share / 2)
    assert repetition_score(text, True, halved) == 0.0
