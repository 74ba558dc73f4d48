"""Checks before anything expensive: each refusal is one line that names the field to change."""

import dataclasses
import importlib.util
import json
import re

import pytest
from support.jobs import tiny_recipe
from support.models import CHAT_TEMPLATE, make_tiny_model
from transformers import AutoConfig

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import model_size, tokenizer_of
from fastdistill_ray.recipe.checks import combination_errors
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.run import doctor, placement, student_checks
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.pipeline import prepare_problems
from fastdistill_ray.run.room import EXPORT_BYTES, TOKEN_BYTES, room_needed
from fastdistill_ray.run.validation import faults_of_functions
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks import load_problems

SMALL_GPTJ = {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 16}


def recipe_with(model: str, **changes: dict) -> Recipe:
    return Recipe.model_validate(tiny_recipe(model, **changes))


def test_pools_that_fit_in_turn_but_not_at_once_are_refused_only_with_overlap():
    pools = {"teacher": {"gpus": 1}, "student": {"gpus": 1}}
    available = {"CPU": 8.0, "GPU": 1.0}
    placement.check_pools(recipe_with("m", pools=pools), available)
    overlapped = recipe_with("m", pools=pools, training={"overlap": True})
    with pytest.raises(ValueError, match=r"want 2 GPUs .*has 1; .*training\.overlap: false"):
        placement.check_pools(overlapped, available)
    autoscaled = recipe_with("m", pools={**pools, "autoscaling": True}, training={"overlap": True})
    placement.check_pools(autoscaled, available)


def test_pool_of_a_student_that_writes_for_another_is_checked_too():
    available = {"CPU": 8.0, "memory": 16.0 * 2**30}
    pools = {"writer": {"workers": 2, "cpus": 4.5}}
    placement.check_pools(recipe_with("m", pools=pools), available)
    compare = {"students": [{"kind": "sft", "writer": "advdistill"}]}
    with pytest.raises(ValueError, match=r"pools\.writer: .*want 9\.5 CPUs"):
        placement.check_pools(recipe_with("m", pools=pools, compare=compare), available)


def test_pools_of_further_teachers_count_and_are_named():
    available = {"CPU": 8.0, "GPU": 2.0, "memory": 16.0 * 2**30}
    small = {"kind": "scripted", "max_model_len": 512, "tensor_parallel_size": 2}
    teachers = [{"model": "m"}, {"model": "m", "engine": small}]
    pools = {"teachers": [{"workers": 2, "cpus": 0.5}, {"workers": 1, "cpus": 0.5, "gpus": 2}]}
    recipe = recipe_with("m", teachers=teachers, pools=pools)
    assert [recipe.pools.of_teacher(i).workers for i in range(3)] == [1, 2, 1]
    placement.check_pools(recipe, available)
    with pytest.raises(ValueError, match=r"pools\.teachers\.1: .*want 2 GPUs .*has 1; lower pools"):
        placement.check_pools(recipe, available | {"GPU": 1.0})
    alike = recipe_with("m", teachers=[{"model": "n"}], pools={"teacher": {"cpus": 5.0}})
    with pytest.raises(ValueError, match=r"want 10\.5 CPUs"):
        placement.check_pools(alike, available)


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        ({"teacher": {"workers": 4, "cpus": 3.0}}, r"pools\.teacher: .*want 12\.5 CPUs"),
        ({"student": {"workers": 9, "cpus": 1.0}}, r"lower pools\.student\.workers"),
        ({"evaluation": {"workers": 2, "gpus": 1}}, r"pools\.evaluation: .*want 2 GPUs"),
        ({"student": {"memory_gib": 64.0}}, r"GiB of memory"),
    ],
)
def test_pools_too_big_for_the_cluster_are_refused_naming_the_number(pools, message):
    available = {"CPU": 8.0, "GPU": 0.0, "memory": 16.0 * 2**30}
    with pytest.raises(ValueError, match=message):
        placement.check_pools(recipe_with("m", pools=pools), available)


def test_pools_with_custom_resources_and_labels_are_held_against_the_cluster():
    pools = {"teacher": {"workers": 2, "resources": {"fast": 1.5}}, "judges": {}}
    placement.check_pools(recipe_with("m", pools=pools), {"CPU": 8.0, "fast": 3.0})
    with pytest.raises(ValueError, match=r"want 3 fast .*lower .*pools\.teacher\.resources\.fast"):
        placement.check_pools(recipe_with("m", pools=pools), {"CPU": 8.0, "fast": 2.0})


@pytest.mark.parametrize(
    ("labels", "is_there"),
    [
        ({"part": "a"}, True),
        ({"part": "in(x, b)"}, True),
        ({"part": "!a", "zone": "1"}, True),
        ({"part": "c"}, False),
        ({"part": "a", "zone": "1"}, False),
        ({"part": "!in(a,b)"}, False),
    ],
)
def test_pool_labels_that_no_node_has_are_refused(labels, is_there):
    recipe = recipe_with("m", pools={"student": {"labels": labels}})
    labelled = [{"part": "a"}, {"part": "b", "zone": "1"}]
    nodes = [{"Labels": one, "Resources": {"CPU": 8.0}} for one in labelled]
    if is_there:
        placement.check_labels(recipe, nodes)
    else:
        with pytest.raises(ValueError, match=r"pools\.student\.labels: no node"):
            placement.check_labels(recipe, nodes)


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        ({"student": {"gpus": 2, "workers": 4}}, ""),
        ({"student": {"gpus": 8}}, r"pools\.student: 1 workers .* hold 0 of 1 CPU, 8 GPU; lower"),
        ({"student": {"gpus": 1, "workers": 8, "labels": {"part": "b"}}}, r"with .*b.* hold 4 of"),
        ({"student": {"memory_gib": 64}}, r"hold 0 of 1 CPU, 64 GiB of memory"),
        ({"teachers": [{"labels": {"part": "c"}}]}, r"pools\.teachers\.0\.labels: no node"),
        ({"student": {"gpus": 1, "workers": 9, "min_workers": 8}}, ""),
    ],
)
def test_every_worker_has_a_node_that_holds_it_whole(pools, message):
    """Eight GPUs in all, of which no node has more than four."""
    small = {"Labels": {"part": "a"}, "Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 2.0**35}}
    large = {"Labels": {"part": "b"}, "Resources": {"CPU": 8.0, "GPU": 4.0, "memory": 2.0**35}}
    teachers = [{"model": "m"}] if "teachers" in pools else []
    recipe = recipe_with("m", pools=pools, teachers=teachers)
    if message:
        with pytest.raises(ValueError, match=message):
            placement.check_labels(recipe, [small, small, large])
    else:
        placement.check_labels(recipe, [small, small, large])


def test_pools_of_what_is_done_are_not_asked_for():
    pools = {"teacher": {"gpus": 8}, "student": {"gpus": 4}, "evaluation": {"gpus": 1}}
    engine = {"kind": "scripted", "max_model_len": 512, "tensor_parallel_size": 8}
    overlap = {"overlap": True}
    recipe = recipe_with(
        "m", pools=pools, teacher={"model": "m", "engine": engine}, training=overlap
    )

    def gpus(done: placement.Done) -> list[float]:
        groups = placement.pools_at_once(recipe, done)
        return [sum(pool.gpus * pool.least for pool in group.values()) for group in groups]

    assert gpus(placement.NOTHING) == [12, 1]
    assert gpus(placement.Done(is_taught=True)) == [4, 1]
    assert gpus(placement.Done(is_taught=True, is_trained=True)) == [1]


def test_models_without_template_or_with_a_short_context_are_refused(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    doctor.check_models(recipe_with(model))
    long = {"kind": "scripted", "max_model_len": 4096}
    with pytest.raises(ValueError, match=r"evaluation\.engine\.max_model_len: 4096 is more"):
        doctor.check_models(recipe_with(model, evaluation={"engine": long}))
    with pytest.raises(ValueError, match="no such file"):
        doctor.check_models(recipe_with(str(tmp_path / "none")))
    doctor.check_templates(recipe_with(model))
    (tmp_path / "model" / "chat_template.jinja").unlink()
    tokenizer_of.cache_clear()
    with pytest.raises(ValueError, match=r"^teacher\.prompt: .*no chat template; set prompt\.t"):
        doctor.check_templates(recipe_with(model))
    plain, recipe = {"prompt": {"template": "plain"}}, tiny_recipe(model)
    both = {name: {**recipe[name], **plain} for name in ("teacher", "student")}
    doctor.check_templates(recipe_with(model, **both))


def test_student_whose_template_closes_thoughts_that_its_teacher_writes_is_refused(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    template = (
        CHAT_TEMPLATE + "{% if add_generation_prompt %}<think>{{ '' if on else '</think>' }}"
        "{% endif %}"
    )
    closed = {"prompt": {"template": template, "template_args": {"on": False}}}
    tiny = tiny_recipe(model)
    recipe = recipe_with(model, student={**tiny["student"], **closed})
    with pytest.raises(
        ValueError, match=r"student\.prompt: .*empty <think> block itself, that of "
    ):
        doctor.check_templates(recipe)
    both = {name: {**tiny[name], **closed} for name in ("teacher", "student")}
    doctor.check_templates(recipe_with(model, **both))
    opened = {"prompt": {"template": template, "template_args": {"on": True}}}
    doctor.check_templates(recipe_with(model, student={**tiny["student"], **opened}))


def test_two_teachers_of_one_model_open_answers_alike_or_are_refused(tmp_path):
    """What is stored of a text says its model alone, by which its ids are known to follow."""
    model = make_tiny_model(str(tmp_path / "model"))
    opened = CHAT_TEMPLATE + "{% if add_generation_prompt %}<think>{{ '\n' }}{% endif %}"
    system = [{"model": model, "prompt": {"system": "Be brief."}}]
    doctor.check_templates(recipe_with(model, teachers=system))
    other = [{"model": model, "prompt": {"template": opened}}]
    with pytest.raises(ValueError, match=r"^teachers\.0\.prompt: .* the model of teacher\.prompt"):
        doctor.check_templates(recipe_with(model, teachers=other))


def test_template_of_an_endpoint_is_refused(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    engine = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1"}
    teacher = {"model": "m", "engine": engine, "prompt": {"template": "plain"}}
    with pytest.raises(ValueError, match=r"^teacher\.prompt\.template: the endpoint renders"):
        doctor.check_templates(recipe_with(model, teacher=teacher))


def test_student_that_cannot_be_trained_is_refused_before_anything_is_paid(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    student_checks.check_students(recipe_with(model))
    AutoConfig.for_model("gptj", **SMALL_GPTJ).save_pretrained(tmp_path / "gptj")
    student = {"model": str(tmp_path / "gptj")}
    recipe = recipe_with(model, student=student)
    with pytest.raises(UserError, match=r"^student\.model: gptj .*training\.shared_prompt: false$"):
        student_checks.check_students(recipe)
    plain = {"shared_prompt": False}
    student_checks.check_students(recipe_with(model, student=student, training=plain))


def test_prompts_longer_than_the_context_are_refused_naming_the_problem(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    short = {"kind": "scripted", "max_model_len": 140}
    recipe = recipe_with(model, teacher={"model": model, "engine": short})
    with pytest.raises(ValueError, match=r"teacher\.engine\.max_model_len: 140 .*word_problems/"):
        doctor.check_prompts(recipe, load_problems(recipe.task))


def test_compared_models_and_students_are_checked_like_the_others(tmp_path):
    model, none = make_tiny_model(str(tmp_path / "model")), str(tmp_path / "none")
    for compare in (
        {"students": [{"kind": "sft", "model": none}]},
        {"baselines": [{"name": "few_shot", "model": none}]},
    ):
        with pytest.raises(ValueError, match="no such file"):
            doctor.check_models(recipe_with(model, compare=compare))
    shots = [{"question": "long " * 500, "answer": "a"}]
    few_shot = {"name": "few_shot", "model": model, "prompt": {"shots": shots}}
    recipe = recipe_with(model, compare={"baselines": [few_shot]})
    with pytest.raises(ValueError, match=r"evaluation\.engine\.max_model_len: 1024 does not hold"):
        doctor.check_prompts(recipe, load_problems(recipe.task))


def test_packages_a_recipe_names_must_be_installed(monkeypatch):
    doctor.check_packages(recipe_with("m"))
    asked = recipe_with(
        "m",
        optimizer={"kind": "adamw8bit"},
        tracking={"wandb_project": "p", "mlflow_experiment": "e"},
    )
    found = importlib.util.find_spec
    for package, field in (
        ("wandb", "tracking.wandb_project"),
        ("mlflow", "tracking.mlflow_experiment"),
        ("torchao", "optimizer.kind"),
    ):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, missing=package: None if name == missing else found("json"),
        )
        with pytest.raises(ValueError, match=rf"{field}: .*pip install {package}"):
            doctor.check_packages(asked)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"teacher": {"prompt": {"shots": "both"}}}, "teacher"),
        ({"student": {"prompt": {"shots": "both"}}}, "student"),
        ({"teachers": [{"model": "n", "prompt": {"shots": "both"}}]}, "teachers.0"),
        (
            {
                "compare": {
                    "baselines": [
                        "base",
                        {"name": "few", "model": "m", "prompt": {"shots": "both"}},
                    ]
                }
            },
            "compare.baselines.1",
        ),
    ],
)
def test_worked_examples_that_are_tested_on_are_refused_naming_both(tmp_path, changes, name):
    tested = "Ann has many pens and gives nine of them to each of her four best friends."
    lines = [{"question": "A?", "answer": 1}, {"question": tested, "answer": 1, "split": "test"}]
    file = tmp_path / "a.jsonl"
    file.write_text(
        "".join(json.dumps(line | {"id": line["question"][:3]}) + "\n" for line in lines)
    )
    shots = [{"question": "1 + 1?", "answer": "2"}, {"question": f"{tested} Why?", "answer": "3"}]
    changes = json.loads(json.dumps(changes).replace('"both"', json.dumps(shots)))
    task = {"name": "jsonl", "path": str(file), "num_train": 1, "num_test": 1, "num_ood": 0}
    recipe = recipe_with("m", **changes, task=task)
    problems = load_problems(recipe.task)
    message = (
        f"{name}.prompt.shots.1: its question overlaps that of Ann, which models are tested on"
    )
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        doctor.check_shots(recipe, problems)
    assert "\n" not in str(error.value)
    doctor.check_shots(recipe_with("m", **changes, task=task | {"decontaminate": 0}), problems)


def test_room_of_two_seeds_is_that_of_two_trainings(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    needed = []
    for seeds in ([], [7], [7, 8]):
        recipe = recipe_with(model, compare={"seeds": seeds})
        run = RunFolder(Place(tmp_path / "run"), recipe)
        needed.append(room_needed(run, prepare_problems(run)))
    none, one, two = needed
    assert one == none
    assert two.weights - one.weights == EXPORT_BYTES * model_size(model)
    answers = 12 * recipe.evaluation.max_new_tokens  # of one more student to 12 problems
    assert two.texts - one.texts == TOKEN_BYTES * answers


def test_more_ranks_than_completions_are_refused_and_than_groups_are_said(tmp_path, caplog):
    model = make_tiny_model(str(tmp_path / "model"))

    def recipe_of(ranks: int, **changes: object) -> Recipe:
        training = {"groups_per_step": 4}
        return recipe_with(
            model, training=training, pools={"student": {"workers": ranks}}, **changes
        )

    student_checks.check_students(recipe_of(4))
    assert not caplog.text
    student_checks.check_students(recipe_of(5))
    assert "pools.student.workers: 5 ranks share the 4 groups of a step" in caplog.text
    assert recipe_of(4).sampling.most == 4
    assert not combination_errors(recipe_of(16))
    for ranks, kind in ((17, "advdistill"), (5, "sft")):
        (error,) = combination_errors(recipe_of(ranks, objective={"kind": kind}))
        assert error.startswith(f"pools.student.workers: {ranks} ranks, and a step of {kind} has")


@pytest.mark.parametrize("reference", ["42", ""])
def test_reward_that_raises_on_a_right_answer_is_told(tmp_path, reference):
    """Also of a problem whose answer nobody knows, which votes decide."""
    (tmp_path / "mine.py").write_text(
        "def f(one): return len(one['text'].partition('<think>')[2])\n"
        "def g(one): return one['logprob']\n"
    )
    problem = load_problems(recipe_with("m").task)["train"][0]
    problem = dataclasses.replace(problem, reference=reference)

    def faults(function: str) -> list[str]:
        path = f"{tmp_path / 'mine.py'}:{function}"
        reward = RewardKnobs.model_validate({"functions": {"mine": path}, "weights": {"mine": 1.0}})
        return faults_of_functions(reward, problem)

    assert faults("f") == []
    (line,) = faults("g")
    assert re.match(r"reward\.functions\.mine: of '<think>.* KeyError", line)
