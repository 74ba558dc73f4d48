"""Rows of a store beside a teacher with fewer merges: what both sides read, and what is trained."""

import numpy as np
import pytest
from support.groups import make_completion, make_group
from support.learner import make_learner
from support.models import SENTENCES, make_tiny_model, make_tokenizer, make_twin_tokenizer
from support.objectives import objective_of

from fastdistill_ray.errors import UserError
from fastdistill_ray.objectives import OBJECTIVES
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.training.held_out import hold_out, validate
from fastdistill_ray.training.learner import Learner
from fastdistill_ray.training.step import make_batches, train_step

pytestmark = pytest.mark.usefixtures("world_of_one")
OWN, TWIN = make_tokenizer(), make_twin_tokenizer()
ACROSS = [kind for kind in OBJECTIVES if objective_of(kind).needs.across]
BYTES = make_tokenizer(vocab_size=259)  # merges nothing


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("models")
    return {
        "student": make_tiny_model(str(path / "student"), seed=3),
        "twin": make_tiny_model(str(path / "twin"), seed=4, num_layers=3, tokenizer=TWIN),
    }


def encode(tokenizer: object, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def learner_of(
    folders: dict[str, str], kind: str, alpha: float = 0.5, **training: object
) -> Learner:
    frozen = Prompted(folders["twin"], PromptKnobs(system="Think."))
    objective = OBJECTIVES[kind](alpha=alpha)
    return make_learner(folders["student"], objective=objective, frozen=frozen, **training)


def row_of(groups: list[dict], step: int = 0) -> dict:
    return {"step": step, "epoch": 0, "num_groups": len(groups), "groups": groups}


def written(folder: str, tokenizer: object, text: str, **fields: object) -> dict:
    ids = [*encode(tokenizer, text), tokenizer.eos_token_id]
    return make_completion(text, ids, **{"verdict": "correct", **fields})


def test_each_side_has_its_own_ids_and_those_that_were_drawn_stay(folders: dict[str, str]) -> None:
    """The teacher's text is read by the student, and the student's, who wrote it byte by byte, by
    the teacher."""
    text = SENTENCES[2]
    spelled = [OWN.convert_tokens_to_ids(one) for one in BYTES.tokenize(text)]
    own = make_completion(text, [*spelled, OWN.eos_token_id], verdict="correct")
    by_teacher = make_group("a", [written(folders["twin"], TWIN, text)], teacher=folders["twin"])
    by_student = make_group("b", [own], teacher=folders["student"])
    for group, ids in (
        (by_teacher, (encode(OWN, text), encode(TWIN, text))),
        (by_student, (spelled, encode(TWIN, text))),
    ):
        (batch,) = make_batches(learner_of(folders, "uld"), [group])
        assert batch.inputs.labels.tolist() == [*ids[0], OWN.eos_token_id]
        assert batch.frozen.labels.tolist() == [*ids[1], TWIN.eos_token_id]
        assert not np.array_equal(batch.frozen.labels, batch.inputs.labels)
        assert batch.spans.own[-1] == len(ids[0]) and batch.spans.other[-1] == len(ids[1])
        assert batch.counts["spans"] == len(batch.spans.own) == batch.loss.spans.sum()
        for own_place, other_place in zip(batch.spans.own, batch.spans.other, strict=True):
            assert OWN.decode(ids[0][:own_place]) == TWIN.decode(ids[1][:other_place])


def test_text_that_was_cut_has_no_end_of_turn(folders: dict[str, str]) -> None:
    ids = encode(TWIN, SENTENCES[0])
    cut = make_completion(SENTENCES[0], ids, finish_reason="length", verdict="correct")
    group = make_group("a", [cut], teacher=folders["twin"])
    (batch,) = make_batches(learner_of(folders, "uld"), [group])
    assert batch.frozen.labels.tolist() == ids
    assert batch.spans.other[-1] < len(ids) - 1 or batch.spans.own[-1] < len(batch.inputs.labels)


def test_texts_that_are_not_their_tokens_leave_and_are_counted(folders: dict[str, str]) -> None:
    right = written(folders["twin"], TWIN, "4 + 3 = 7")
    wrong = right | {"text": "4 + 3 = 8"}
    control = right | {
        "token_ids": [TWIN.convert_tokens_to_ids("<|im_start|>"), *right["token_ids"]]
    }
    teacher = {"teacher": folders["twin"]}
    learner = learner_of(folders, "byte_kl")
    both = [
        make_group("a", [right, wrong, control], **teacher),
        make_group("b", [wrong], **teacher),
    ]
    metrics = train_step(learner, row_of(both), 10)
    assert metrics["train/unaligned_bytes"] == 2 and metrics["train/unaligned_control"] == 1
    assert (metrics["train/num_completions"], metrics["train/empty_groups"]) == (1, 1)
    metrics = train_step(learner, row_of([make_group("c", [right], **teacher)], 1), 10)
    assert metrics["train/unaligned_bytes"] == 0
    with pytest.raises(
        UserError, match=r"byte_kl can align no text of a step .*: of 1, the tokens"
    ):
        train_step(learner, row_of(both[1:], 2), 10)


@pytest.mark.parametrize("kind", ACROSS)
def test_student_comes_nearer_to_a_teacher_of_another_tokenizer(
    folders: dict[str, str], kind: str
) -> None:
    """Whatever the layout, which changes no loss; the texts themselves hardly count, of which the
    teacher, which is random, knows nothing."""
    groups = [
        make_group(
            str(place),
            [written(folders["twin"], TWIN, text, reward=float(n)) for n, text in enumerate(texts)],
            teacher=folders["twin"],
        )
        for place, texts in enumerate([SENTENCES[:2], SENTENCES[2:]])
    ]
    courses = []
    for layout in ({}, {"shared_prompt": False, "micro_batch_tokens": 100}):
        learner = learner_of(folders, kind, alpha=0.01, **layout)
        course = [train_step(learner, row_of(groups, step), 10) for step in range(4)]
        names = [f"loss/{name}" for name in OBJECTIVES[kind].terms]
        courses.append([[line[name] for name in names] for line in course])
    np.testing.assert_allclose(*courses, rtol=2e-4)
    assert courses[0][-1][1] < courses[0][0][1] / 2, courses[0]


@pytest.mark.parametrize("kind", ACROSS)
def test_held_out_groups_in_bf16_have_the_loss_of_training(
    folders: dict[str, str], kind: str
) -> None:
    """Before it; a completion that is not trained does not count, nor does one that cannot be
    aligned."""
    teacher = {"teacher": folders["twin"]}
    one, two, three = (written(folders["twin"], TWIN, text) for text in SENTENCES[:3])
    groups = [
        make_group("a", [one, two | {"verdict": "wrong"}], **teacher),
        make_group("b", [three, one | {"text": "else"}], **teacher),
    ]
    expected = None
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.05)):
        learner = learner_of(folders, kind, precision=precision)
        objective = learner.objective.model_copy(update={"on": "correct"})
        learner = learner._replace(objective=objective)
        found = validate(learner, hold_out(learner, groups))
        trained = train_step(learner, row_of(groups), 10)
        expected = expected or trained["train/loss"]
        for loss in (found["held_out/loss"], trained["train/loss"]):
            assert loss == pytest.approx(expected, rel=tolerance)
        assert trained["train/num_completions"] == 2
