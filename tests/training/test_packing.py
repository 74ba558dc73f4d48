"""Groups to arrays: what is a target, what a token may see, what leaves a group and why."""

import numpy as np
import pytest
from support.groups import make_completion
from support.groups import make_group as make_group_row
from support.packing import pack_groups

from fastdistill_ray.objectives import AdvDistill, Sft
from fastdistill_ray.rewards.advantages import AdvantageKnobs, group_advantages, softmax_weights
from fastdistill_ray.training.packing import (
    PADDING,
    PROMPT,
    TrainCompletion,
    TrainGroup,
    empty_batch,
    num_packed_tokens,
    num_padded_tokens,
    packed_batch,
    plain_batch,
)
from fastdistill_ray.training.reading import (
    StudentText,
    completion_ids,
    prepare_group,
)

EOS = 99
TEXT = StudentText(
    encode_prompt=lambda row: [1, 2, 3],
    encode_text=lambda text: [ord(letter) for letter in text],
    has_ids_of=lambda teacher: teacher == "same",
    eos_id=EOS,
    eos_ids=frozenset([EOS, 95]),
)


def completion(ids: list[int], reward: float, verdict: str, finish: str = "stop") -> dict:
    return make_completion("ab", ids, finish_reason=finish, verdict=verdict, reward=reward)


def row(*completions: dict, teacher: str = "same") -> dict:
    return make_group_row("p", completions, teacher=teacher)


def prepare(group: dict, objective: object = None, max_seq_len: int = 100) -> TrainGroup | None:
    found = prepare_group(
        group,
        TEXT,
        objective or AdvDistill(),
        advantage=AdvantageKnobs(),
        max_seq_len=max_seq_len,
    )
    return found[0] if found else None


def make_group(lengths: list[int], prompt: int = 4, name: str = "g") -> TrainGroup:
    random = np.random.default_rng(len(lengths) + prompt)
    completions = [TrainCompletion(random.integers(1, 90, n), 0.5, 0.1) for n in lengths]
    return TrainGroup(name, random.integers(1, 90, prompt), completions)


@pytest.mark.parametrize(
    ("ids", "finish", "expected"),
    [
        ([5, 6], "stop", [5, 6, EOS]),
        ([5, EOS], "stop", [5, EOS]),
        ([5, 95], "stop", [5, 95]),
        ([5, 6], "length", [5, 6]),
        ([], "stop", [97, 98, EOS]),  # cut at a stop text: only the text is right
    ],
)
def test_completion_ids_end_with_one_eos_only_after_a_stop(
    ids: list[int], finish: str, expected: list[int]
) -> None:
    group = prepare(row(completion(ids, 1.0, "correct", finish), completion([7], 0.0, "wrong")))
    assert group.completions[0].token_ids.tolist() == expected


def test_completion_ids_of_another_tokenizer_come_from_the_text() -> None:
    group = prepare(row(*[completion([5], r, "correct") for r in (0.0, 1.0)], teacher="other"))
    assert group.completions[0].token_ids.tolist() == [97, 98, EOS]


def test_completion_ids_of_an_endpoint_come_from_the_text_and_ask_for_no_tokenizer() -> None:
    text = TEXT._replace(has_ids_of=lambda teacher: pytest.fail(f"{teacher} has no folder"))
    assert completion_ids(completion([], 1.0, "correct"), "served", text) == [97, 98, EOS]


def test_prepare_group_overflow_leaves_and_weights_are_those_of_the_rest() -> None:
    rewards = [2.0, 1.0, 0.5]
    rest = [completion([5] * 4, reward, "correct", "length") for reward in rewards]
    long = completion([5] * 8, 9.0, "correct", "length")
    group = prepare(row(rest[0], long, *rest[1:]), max_seq_len=3 + 4)
    expected = softmax_weights(group_advantages(np.array(rewards), AdvantageKnobs()), 0.5)
    assert [one.weight for one in group.completions] == pytest.approx(expected.tolist(), abs=1e-15)


def test_prepare_group_too_small_or_without_its_correct_one_is_empty() -> None:
    right, wrong = completion([5] * 9, 1.0, "correct"), completion([5], 0.0, "wrong")
    assert prepare(row(right, wrong), max_seq_len=10) is None
    assert prepare(row(right, wrong, wrong), max_seq_len=10) is None
    assert prepare(row(right, wrong, wrong), max_seq_len=13) is not None
    assert prepare(row(wrong, wrong)) is not None
    assert prepare(row(right), Sft()) is not None
    assert prepare(row(wrong, wrong), Sft()) is None


def test_prepare_group_left_out_by_selection_takes_no_part() -> None:
    best = completion([5], 9.0, "correct") | {"is_selected": False}
    others = [completion([6], 1.0, "correct"), completion([7], 0.0, "wrong")]
    assert [one.token_ids[0] for one in prepare(row(best, *others)).completions] == [6, 7]


def test_prepare_group_without_prompt_tokens_names_the_problem() -> None:
    text = TEXT._replace(encode_prompt=lambda row: [])
    with pytest.raises(ValueError, match="problem p"):
        prepare_group(row(), text, AdvDistill(), advantage=AdvantageKnobs(), max_seq_len=9)


def test_packed_batch_sources_predict_labels_and_first_tokens_come_from_the_prompt() -> None:
    groups = [make_group([3, 1, 2]), make_group([2, 5], prompt=2)]
    batch = packed_batch(groups, multiple_of=16)
    inputs = batch.inputs
    assert inputs.input_ids.shape == (1, 32)
    assert batch.counts == {
        "groups": 2,
        "explained": 0,
        "completions": 5,
        "tokens": 13,
        "spans": 0,
        "unique_tokens": 19,
        "row_tokens": 29,
        "computed_tokens": 32,
        "frozen_tokens": 19,
    }
    k, start = 0, 0
    for number, group in enumerate(groups):
        place = start + len(group.prompt_ids)
        last_prompt = place - 1
        for one in group.completions:
            for t, label in enumerate(one.token_ids):
                assert inputs.sources[k] == (place + t - 1 if t else last_prompt)
                assert inputs.labels[k] == label
                assert inputs.input_ids[0, place + t] == label
                assert inputs.position_ids[0, place + t] == len(group.prompt_ids) + t
                k += 1
            place += len(one.token_ids)
        assert (inputs.group[0, start:place] == number).all()
        assert (inputs.completion[0, start : last_prompt + 1] == PROMPT).all()
        start = place
    assert (inputs.group[0, start:] == PADDING).all()
    assert k == len(inputs.labels)


def test_plain_batch_has_the_same_targets_and_prompt_targets_when_unmasked() -> None:
    group = make_group([3, 1, 2])
    packed = packed_batch([group], 1)
    plain = plain_batch([group], mask_prompt=True)
    assert plain.inputs.labels.tolist() == packed.inputs.labels.tolist()
    assert plain.loss.completion.tolist() == packed.loss.completion.tolist()
    unmasked = plain_batch([group], mask_prompt=False)
    assert unmasked.loss.lengths.tolist() == [6.0, 4.0, 5.0]
    own, lengths = unmasked.loss.is_own, [3, 1, 2]
    assert own is not None and own.sum() == sum(lengths)
    assert unmasked.inputs.labels[own == 1].tolist() == plain.inputs.labels.tolist()
    assert plain.loss.is_own is None
    tokens = unmasked.inputs.input_ids.reshape(-1)
    assert tokens[unmasked.inputs.sources + 1].tolist() == unmasked.inputs.labels.tolist()


@pytest.mark.parametrize("shared_prompt", [True, False])
@pytest.mark.parametrize("budget", [1, 20, 60, 1000])
def test_pack_groups_splits_only_groups_that_are_larger_than_the_budget(
    shared_prompt: bool, budget: int
) -> None:
    random = np.random.default_rng(budget)
    groups = [make_group(random.integers(1, 9, 4).tolist(), name=str(i)) for i in range(9)]
    batches = pack_groups(
        groups, micro_batch_tokens=budget, shared_prompt=shared_prompt, mask_prompt=True
    )
    assert sum(batch.counts["groups"] for batch in batches) == 9
    assert sum(batch.counts["tokens"] for batch in batches) == sum(
        len(one.token_ids) for group in groups for one in group.completions
    )
    for batch in batches:
        assert batch.inputs.input_ids.size <= budget or batch.counts["completions"] == 1
    size = num_packed_tokens if shared_prompt else num_padded_tokens
    for group in groups:
        found: dict[int, list[int]] = {}
        parts = 0
        for batch in batches:
            labels = np.split(batch.inputs.labels, np.cumsum(batch.loss.lengths)[:-1].astype(int))
            for part in batch.parts:
                mine, labels = labels[: part.size], labels[part.size :]
                if part.group_id == group.group_id:
                    found |= {part.first + i: ids.tolist() for i, ids in enumerate(mine)}
                    parts += 1
        assert found == {i: one.token_ids.tolist() for i, one in enumerate(group.completions)}
        assert parts == 1 or size([group]) > budget


@pytest.mark.parametrize("shared_prompt", [True, False])
def test_empty_batch_has_a_target_and_counts_nothing(shared_prompt: bool) -> None:
    batch = empty_batch(shared_prompt)
    assert len(batch.inputs.labels) == 1
    assert set(batch.counts.values()) == {0}
    assert batch.loss.weight.tolist() == batch.loss.penalty.tolist() == [0.0]
