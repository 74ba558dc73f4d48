"""What an objective that learns from the teacher's distributions cannot be given, one line each."""

from pathlib import Path
from typing import Any

import pytest
from support.jobs import tiny_recipe
from support.models import make_tiny_model, make_tokenizer, make_twin_tokenizer
from support.objectives import BESIDE, knobs_of, objective_of
from tokenizers import Tokenizer, normalizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fastdistill_ray.errors import UserError
from fastdistill_ray.objectives import OBJECTIVES
from fastdistill_ray.recipe.derived import frozen_model, speaker_of, students, trained_models
from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.run.student_checks import check_frozen, check_students

NEEDS = {kind: objective_of(kind).needs for kind in OBJECTIVES}
COMPARING = [kind for kind, needs in NEEDS.items() if needs.frozen == "teacher" or needs.signal]


def recipe_of(model: str, teacher: str, /, **changes: Any) -> Any:
    beside = BESIDE.get(changes.get("objective", {}).get("kind"), {})
    sections = {"teacher": {"model": teacher}} | beside | changes
    return parse_recipe(tiny_recipe(model, **sections), "x.yaml")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(str(tmp_path_factory.mktemp("model")))


ACROSS = [kind for kind, needs in NEEDS.items() if needs.across]


@pytest.mark.parametrize("kind", COMPARING)
def test_distributions_of_an_endpoint_or_of_several_teachers_are_refused(model, kind):
    engine = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1"}
    remote = {"teacher": {"model": "m", "engine": engine}, "compare": {"baselines": ["base"]}}
    with pytest.raises(UserError, match=f"objective.kind: {kind} learns .* an endpoint does not"):
        recipe_of(model, model, objective=knobs_of(kind), **remote)
    others = {"teachers": [{"model": model, "engine": {"kind": "scripted"}}]}
    with pytest.raises(UserError, match=f"objective.kind: {kind} .* of one model; set scorer"):
        recipe_of(model, model, objective=knobs_of(kind), **others)
    scorer = {"scorer": {"model": model}}
    for one in (remote, others):
        recipe = recipe_of(model, model, objective=knobs_of(kind), **one, **scorer)
        assert speaker_of(recipe, students(recipe)[0]).field == "scorer.model"


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (
            {"kind": "topk_kl"},
            r"objective.kind: topk_kl .* a scripted engine .*; set scorer",
        ),
        ({"kind": "jsd", "states": "bf16"}, r"objective.kind: jsd .* scripted .*; set scorer"),
        ({"kind": "dpo", "reference": "stored"}, r"objective.kind: dpo .*; set reference: live"),
    ],
)
def test_what_a_scripted_engine_cannot_say_is_refused(model, objective, said):
    with pytest.raises(UserError, match=said):
        recipe_of(model, model, objective=objective)


def test_signals_of_groups_that_are_still_written_are_refused(model):
    changes = {"scorer": {"model": model}, "training": {"overlap": True}}
    compare = {"compare": {"students": [{"kind": "sampled_kl"}]}}
    with pytest.raises(UserError, match=r"training.overlap: .* sampled_kl of compare.students.0"):
        recipe_of(model, model, **changes, **compare)


def test_as_many_of_the_likeliest_tokens_as_there_are_are_refused(model):
    scorer = {"scorer": {"model": model}}
    size = len(AutoTokenizer.from_pretrained(model))
    recipe = recipe_of(model, model, objective={"kind": "topk_kl", "k": size}, **scorer)
    with pytest.raises(UserError, match=rf"objective.k: {size} of the {size} tokens"):
        check_frozen(recipe)


def test_prompts_that_are_trained_are_refused_naming_the_student(model):
    plain = {"training": {"mask_prompt": False, "shared_prompt": False}}
    compare = {"compare": {"students": [{"kind": "jsd"}]}}
    with pytest.raises(UserError, match=r"training.mask_prompt: .* jsd of compare.students.0"):
        recipe_of(model, model, **plain, **compare)


def test_teacher_with_another_tokenizer_is_refused(model, tmp_path):
    other = make_tiny_model(str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<|other|>"])
    tokenizer.save_pretrained(other)
    for objective, is_right in (({"kind": "tvd"}, False), ({"kind": "dpo"}, True)):
        recipe = recipe_of(model, other, objective=objective)
        if is_right:
            check_frozen(recipe)
            continue
        with pytest.raises(UserError, match=r"^objective.kind: tvd .* another tokenizer"):
            check_frozen(recipe)


@pytest.mark.parametrize("kind", COMPARING)
def test_twin_teacher_is_refused_but_by_what_aligns_texts(model, tmp_path, kind):
    """Of one width and of as many blocks; what is stored of its tokens is refused too."""
    twin = make_tiny_model(str(tmp_path), num_layers=3, tokenizer=make_twin_tokenizer())
    live = {"scorer": {"model": twin}, "objective": knobs_of(kind)}
    objectives = [knobs_of(kind)]
    if "states" in OBJECTIVES[kind].model_fields:
        objectives.append(knobs_of(kind) | {"states": "int8"})
    for objective in objectives:
        recipe = recipe_of(model, twin, **live | {"objective": objective})
        if kind in ACROSS:
            check_frozen(recipe)
            continue
        with pytest.raises(UserError, match=f"^objective.kind: {kind} .* another tokenizer"):
            check_frozen(recipe)


@pytest.mark.parametrize("kind", ACROSS)
def test_tokenizer_whose_bytes_are_not_known_is_refused_on_either_side(model, tmp_path, kind):
    lossy = Tokenizer.from_str(make_tokenizer().backend_tokenizer.to_str())
    lossy.normalizer = normalizers.Lowercase()
    tokenizer = make_tokenizer()
    tokenizer._tokenizer = lossy
    other = make_tiny_model(str(tmp_path), tokenizer=tokenizer)
    for student, teacher, field in (
        (model, other, "teacher.model"),
        (other, model, "student.model"),
        (other, other, "student.model"),
    ):
        recipe = recipe_of(student, teacher, objective=knobs_of(kind))
        said = rf"^objective.kind: {kind} aligns texts byte by byte; {field} .*: of .* tokenizer"
        with pytest.raises(UserError, match=said):
            check_frozen(recipe)


@pytest.mark.parametrize("kind", ACROSS)
def test_teacher_whose_template_begins_otherwise_cannot_be_aligned(model, kind):
    own = AutoTokenizer.from_pretrained(model).chat_template
    ends, begins = (
        own.replace("<|im_end|>", "<|endoftext|>"),
        own.replace("assistant\n' }}", "assistant\n<think>\n' }}"),
    )
    for template, is_right in ((ends, True), (begins, False)):
        teacher = {"model": model, "prompt": {"template": template}}
        recipe = recipe_of(model, model, teacher=teacher, objective=knobs_of(kind))
        if is_right:
            check_frozen(recipe)
            continue
        with pytest.raises(UserError, match=f"^objective.kind: {kind} .*begins an answer with"):
            check_frozen(recipe)


def test_teacher_whose_template_ends_or_begins_otherwise_is_refused(model):
    own = AutoTokenizer.from_pretrained(model).chat_template
    for template, said in (
        (own.replace("<|im_end|>", "<|endoftext|>"), "ends a turn with token"),
        (own.replace("assistant\n' }}", "assistant\n<think>\n' }}"), "begins an answer with"),
    ):
        teacher = {"model": model, "prompt": {"template": template}}
        recipe = recipe_of(model, model, teacher=teacher, objective={"kind": "reverse_kl"})
        with pytest.raises(UserError, match=f"^objective.kind: reverse_kl .*{said}"):
            check_frozen(recipe)


def test_template_that_opens_thoughts_leaves_no_answer_alone(model):
    own = AutoTokenizer.from_pretrained(model).chat_template
    thinking = own.replace("assistant\n' }}", "assistant\n<think>\n' }}")
    objective = {"kind": "step_by_step"}
    check_frozen(recipe_of(model, model, objective=objective))
    student = {"model": model, "prompt": {"template": thinking}}
    with pytest.raises(UserError, match=r"^objective.kind: step_by_step .* opens thoughts in"):
        check_frozen(recipe_of(model, model, objective=objective, student=student))


def test_plan_of_memory_counts_compared_relations(model, tmp_path):
    teacher = make_tiny_model(str(tmp_path), seed=3)
    recipe = recipe_of(model, teacher, objective=knobs_of("minilm"))
    (found,) = trained_models(recipe)
    assert found.needs.relations == recipe.objective.needs.relations is not None


def test_teacher_with_fewer_rows_in_its_head_is_refused(model, tmp_path):
    smaller = make_tiny_model(str(tmp_path))
    resized = AutoModelForCausalLM.from_pretrained(smaller)
    resized.resize_token_embeddings(300)
    resized.save_pretrained(smaller)
    recipe = recipe_of(model, smaller, objective={"kind": "skew_kl"})
    with pytest.raises(UserError, match=r"^objective.kind: skew_kl .* a head of 300 rows"):
        check_frozen(recipe)


def test_teacher_that_is_not_computed_exactly_is_refused_by_its_own_trial(model, tmp_path):
    """As every student is: packed groups of this family are not what transformers computes."""
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8, "vocab_size": 64}
    AutoConfig.for_model("gptj", **shape).save_pretrained(tmp_path)
    compare = {"students": [{"kind": "forward_kl"}]}
    check_students(recipe_of(model, str(tmp_path)))
    with pytest.raises(UserError, match=r"^teacher\.model: gptj .*shared_prompt: false$"):
        check_students(recipe_of(model, str(tmp_path), compare=compare))


def test_model_beside_the_student_is_the_teacher_or_the_student_as_it_begins(model, tmp_path):
    other = make_tiny_model(str(tmp_path / "other"), seed=3)
    compare = {"students": [{"kind": "dpo", "model": other}, {"kind": "jsd"}, {"kind": "sft"}]}
    recipe = recipe_of(model, str(tmp_path / "teacher"), compare=compare)
    found = [frozen_model(recipe, student) for student in students(recipe)]
    assert [one and (Path(one.model).name, one.prompt) for one in found] == [
        None,
        ("other", recipe.student.prompt),
        ("teacher", recipe.teacher.prompt),
        None,
    ]
    assert [(one.model, one.frozen) for one in trained_models(recipe)] == [
        (model, ""),
        (other, other),
        (model, str(tmp_path / "teacher")),
    ]


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"kind": "pkd", "layers": [[0, 2]]}, r"objective.layers.0: block 2 of the teacher, .* 1;"),
        ({"kind": "pkd", "layers": [[0, 0], [1, 1]]}, r"objective.layers.1: block 1 of the stud"),
    ],
)
def test_hidden_states_of_blocks_that_are_not_there_are_refused(model, tmp_path, objective, said):
    teacher = make_tiny_model(str(tmp_path), num_layers=3)
    with pytest.raises(UserError, match=f"^{said}"):
        check_frozen(recipe_of(model, teacher, objective=objective))
    check_frozen(recipe_of(model, teacher, objective={"kind": "pkd", "layers": [[0, 1]]}))


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"kind": "fitnets", "layers": [[0, 3]]}, "layers.0: block 3 of the teacher, .* block 2$"),
        ({"kind": "tinybert", "layers": [[0, 0], [2, 1]]}, "layers.1: block 2 of the student"),
        ({"kind": "minilmv2", "layers": [[2, 0]]}, "layers.0: block 2 of the student, .* block 1$"),
        (
            {"kind": "minilmv2", "layers": [[0, 0]], "relation_heads": 3},
            "relation_heads: 3 heads do not divide the 64 numbers that q_proj of student.model",
        ),
        (
            {"kind": "minilmv2", "layers": [[0, 0]], "relation_heads": 64},
            "relation_heads: 64 heads do not divide the 32 numbers that k_proj of student.model",
        ),
        (
            {"kind": "minilmv2", "layers": [[0, 0]], "relation_heads": 32},
            "",
        ),
    ],
)
def test_blocks_and_heads_of_a_teacher_of_another_width_are_there(model, tmp_path, objective, said):
    teacher = make_tiny_model(str(tmp_path), num_layers=3, num_heads=3)
    recipe = recipe_of(model, teacher, objective=objective)
    if not said:
        check_frozen(recipe)
        return
    with pytest.raises(UserError, match=f"^objective.{said}"):
        check_frozen(recipe)


def test_relations_of_a_family_whose_projections_are_one_are_refused(model, tmp_path):
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 400}
    AutoConfig.for_model("gpt2", **shape).save_pretrained(tmp_path)
    objective = {"kind": "minilmv2", "layers": [[0, 1]]}
    recipe = recipe_of(model, str(tmp_path), objective=objective)
    said = r"objective.kind: teacher.model .*: a block of gpt2 has 0 layers q_proj, expected one"
    with pytest.raises(UserError, match=f"^{said}"):
        check_frozen(recipe)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"lora": {"rank": 4}}}, r"training.lora.rank: lit of objective trains whole"),
        ({"teacher": {"prompt": {"system": "Else."}}}, r"teacher.prompt: lit of objective gives"),
        (
            {"objective": {"kind": "lit", "layers": [[1, 0], [0, 1]]}},
            r"objective.layers: .*\[1, 0\] are no parts one after the other",
        ),
    ],
)
def test_parts_of_a_student_that_cannot_stand_in_are_refused(model, changes, said):
    asked = {"objective": knobs_of("lit")} | changes
    asked["teacher"] = {"model": model} | asked.get("teacher", {})
    with pytest.raises(UserError, match=said):
        parse_recipe(tiny_recipe(model, **asked), "x.yaml")


def attending(folder: Path, family: str, **shape: object) -> str:
    """A model of that family by its config alone, with two heads."""
    shape |= {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    shape |= {"num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 400}
    AutoConfig.for_model(family, **shape).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("family", "shape", "said"),
    [
        ("llama", {}, ""),
        ("qwen3", {"head_dim": 32}, ""),
        (
            "mistral",
            {"head_dim": 32, "sliding_window": 100},
            "block 1 attends to 100 tokens, .* 30",
        ),
        ("mistral", {"head_dim": 32, "sliding_window": 4096}, ""),
        ("gemma2", {"head_dim": 32, "sliding_window": 4096}, "the attention of gemma2 is"),
        ("gpt_oss", {"head_dim": 32}, "the attention of gpt_oss is"),
    ],
)
def test_attention_that_is_no_softmax_of_all_products_is_refused(
    model, tmp_path, family, shape, said
):
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path)
    teacher = attending(tmp_path, family, **shape)
    training = {"max_seq_len": 300}
    objective = {"kind": "minilm", "layers": [[1, 1]]}
    recipe = recipe_of(model, teacher, objective=objective, training=training)
    if not said:
        check_frozen(recipe)
        return
    with pytest.raises(UserError, match=f"^objective.kind: minilm: teacher.model .*: {said}"):
        check_frozen(recipe)


def test_attention_of_other_heads_is_refused(model, tmp_path):
    wide = make_tiny_model(str(tmp_path), num_heads=3)
    recipe = recipe_of(model, wide, objective={"kind": "minilm", "layers": [[0, 0]]})
    with pytest.raises(UserError, match=r"^objective.kind: minilm compares .* has 3 .* 2; take mi"):
        check_frozen(recipe)


def test_relations_inside_of_compiled_blocks_are_refused(model):
    plain = {"training": {"compile": True, "shared_prompt": False}}
    compare = {"compare": {"students": [knobs_of("minilmv2")]}}
    said = r"training.compile: .* minilmv2 of compare.students.0 compares; set it to false"
    with pytest.raises(UserError, match=said):
        recipe_of(model, model, **plain, **compare)


@pytest.mark.parametrize("kind", ["pkd", "distilbert", "lit"])
def test_hidden_states_of_another_width_are_refused(model, tmp_path, kind):
    wide = make_tiny_model(str(tmp_path))
    shape = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    shape |= {"num_hidden_layers": 3, "vocab_size": len(AutoTokenizer.from_pretrained(wide))}
    config = AutoConfig.for_model("llama", **shape)
    config.save_pretrained(wide)
    with pytest.raises(UserError, match=rf"^objective.kind: {kind} compares .* 32 wide and .* 64"):
        check_frozen(recipe_of(model, wide, objective=knobs_of(kind)))


def test_pairs_of_layers_are_named_and_each_once(model):
    for layers in ([], [[0]], [[0, -1]], [[0, 0], [0, 1]]):
        with pytest.raises(UserError, match=r"objective.layers"):
            recipe_of(model, model, objective={"kind": "pkd", "layers": layers})
