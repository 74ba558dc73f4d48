"""Recipes: every shipped one parses, wrong input is one line that names the key."""

from pathlib import Path

import pytest
import yaml

from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import SamplingKnobs
from fastdistill_ray.objectives import OBJECTIVES, AdvDistill
from fastdistill_ray.recipe.box import BoxRecipe
from fastdistill_ray.recipe.derived import students
from fastdistill_ray.recipe.fields import describe_fields
from fastdistill_ray.recipe.loading import (
    dump_recipe,
    load_any,
    load_changed,
    load_recipe,
    load_shape,
    parse_any,
    parse_recipe,
)
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.plan import describe

RECIPES = sorted(Path("jobs/recipes").rglob("*.yaml"))
DEMO = "jobs/recipes/demo_full.yaml"
SERVER = "{model: m, engine: {kind: endpoint, url: 'http://host/v1'}}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_shipped_parses_and_survives_a_round_trip(path):
    recipe = load_any(str(path), [])
    assert recipe.name == path.stem
    assert parse_any(yaml.safe_load(dump_recipe(recipe)), "dump") == recipe


def test_every_objective_has_a_recipe_that_begins_with_its_command():
    methods = {path.stem: path for path in RECIPES if path.parent.name == "methods"}
    assert methods.keys() >= OBJECTIVES.keys()
    paid = load_recipe(methods["advdistill"], [])
    for name, path in methods.items():
        recipe = load_recipe(path, [])
        kinds = {student.objective.kind for student in students(recipe)}
        assert name not in OBJECTIVES or name in kinds
        # In one folder a recipe whose teacher is asked something else would be refused.
        is_alike = (recipe.teacher, recipe.sampling) == (paid.teacher, paid.sampling)
        first = path.read_text().splitlines()[0]
        folder = "methods" if is_alike else name
        assert first == f"# fastdistill distill {path} --run-dir runs/{folder}"


def test_recipe_that_extends_another_changes_what_it_says_and_nothing_else(tmp_path):
    (tmp_path / "below").mkdir()
    file = tmp_path / "below" / "own.yaml"
    text = "name: own\nobjective: {kind: tvd}\ntraining: {epochs: 7}\ncompare: {epochs: []}\n"
    (tmp_path / "base.yaml").write_text(Path(DEMO).read_text())
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\nsampling: {n: 4}\n")
    file.write_text(f"extends: ../middle.yaml\n{text}")
    own, demo = load_recipe(file, ["--training.seed=3"]), load_recipe(DEMO, [])
    tree = demo.model_dump(by_alias=True)
    tree |= {"name": "own", "objective": {"kind": "tvd"}}
    tree["training"] |= {"epochs": 7, "seed": 3}
    tree["sampling"]["n"], tree["compare"]["epochs"] = 4, []
    assert own == parse_recipe(tree, "x")


def test_section_with_a_kind_keeps_what_it_does_not_say_unless_another_kind_is_meant(tmp_path):
    base, file = tmp_path / "base.yaml", tmp_path / "own.yaml"
    own = "optimizer: {kind: adamw8bit}\ntask: {kind: number}\n"
    own += "evaluation: {engine: {kind: vllm, max_num_seqs: 7}}\n"
    own += "objective: {kind: advdistill, tau: 1}\n"
    base.write_text(Path(DEMO).read_text())
    file.write_text(f"extends: base.yaml\n{own}")
    found, demo = load_recipe(file, []), load_recipe(DEMO, [])
    assert found.optimizer.kind == "adamw8bit"
    assert found.optimizer.learning_rate == demo.optimizer.learning_rate == 5e-5
    assert (found.task.name, found.task.kind) == ("word_problems", "number")
    assert found.evaluation.engine.max_num_seqs == 7
    assert found.evaluation.engine.max_model_len == demo.evaluation.engine.max_model_len == 1024
    assert found.objective == AdvDistill.model_validate({"tau": 1, "lambda": 0.03})
    file.write_text("extends: base.yaml\nteacher: {engine: {kind: scripted}}\n")
    engine = load_recipe(file, []).teacher.engine
    assert engine.kind == "scripted" and engine.max_model_len != 1024, "of another kind: anew"


def test_reward_function_of_another_file_is_read_anew(tmp_path):
    """A resolved recipe holds the text of the file that was."""
    for name in ("old", "new"):
        (tmp_path / f"{name}.py").write_text(f"def f(completion):\n    return len('{name}')\n")
    old, new = (f"{tmp_path}/{name}.py:f" for name in ("old", "new"))
    given = ["--reward.weights={mine: 1}"]
    first = load_recipe(DEMO, [f"--reward.functions.mine={old}", *given])
    resolved, own = tmp_path / "resolved.yaml", tmp_path / "own.yaml"
    resolved.write_text(dump_recipe(first))
    own.write_text(f"extends: resolved.yaml\nreward: {{functions: {{mine: {{path: '{new}'}}}}}}\n")
    (tmp_path / "old.py").unlink()
    assert load_recipe(resolved, []).reward == first.reward, "no file is needed"
    for changed in (
        load_recipe(resolved, [f"--reward.functions.mine.path={new}"]),
        load_recipe(own, []),
        load_changed(resolved, {"reward.functions.mine.path": new}),
    ):
        assert changed.reward.functions["mine"].path == new
        assert "len('new')" in changed.reward.functions["mine"].source


def test_server_of_another_address_is_not_given_the_key_of_the_first(tmp_path):
    base, file = tmp_path / "base.yaml", tmp_path / "own.yaml"
    text = Path(DEMO).read_text().partition("\nteacher:")[0]
    rest = "".join(Path(DEMO).read_text().partition("\nstudent:")[1:])
    engine = "{kind: endpoint, url: 'https://one/v1', api_key_env: K, max_concurrency: 7}"
    rest = rest.replace("*system", "be brief").replace("*engine", "{max_model_len: 1024}")
    base.write_text(f"{text}\nteacher: {{model: big, engine: {engine}}}{rest}")
    file.write_text("extends: base.yaml\nteacher: {engine: {url: 'https://two/v1'}}\n")
    first, second = (load_recipe(one, []).teacher.engine for one in (base, file))
    assert first.api_key_env == "K" and second.kind == "endpoint"
    assert (second.url, second.api_key_env) == ("https://two/v1", "")
    assert second.max_concurrency == 7


def test_quick_puts_its_section_over_the_recipe_and_overrides_over_both(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"extends: {Path(DEMO).resolve()}\nquick: {{task: {{num_train: 9}}}}\n")
    plain, quick = load_recipe(file, []), load_recipe(file, ["--quick"])
    assert (plain.task.num_train, quick.task.num_train) == (load_recipe(DEMO, []).task.num_train, 9)
    assert quick.task.num_test == plain.task.num_test
    assert load_recipe(file, ["--task.num_train=5", "--quick"]).task.num_train == 5
    for text, said in (("", "it has no such section"), ("quick: [1]\n", "expected sections in it")):
        file.write_text(f"extends: {Path(DEMO).resolve()}\n{text}")
        with pytest.raises(UserError, match=f"own.yaml: quick: {said}"):
            load_recipe(file, ["--quick"])


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("none.yaml", "recipe .*own.yaml: extends: none.yaml: no such file"),
        ("own.yaml", "recipe .*own.yaml: extends: own.yaml extends this one itself"),
        ("other.yaml", "recipe .*: extends: other.yaml: extends: ./own.yaml extends this one"),
        ("[a.yaml]", "recipe .*own.yaml: extends: expected the path of a recipe"),
        ("list.yaml", "recipe .*own.yaml: extends: list.yaml: expected sections"),
    ],
)
def test_recipe_that_extends_what_cannot_be_is_one_line(tmp_path, base, message):
    (tmp_path / "own.yaml").write_text(f"extends: {base}\n")
    (tmp_path / "other.yaml").write_text("extends: ./own.yaml\n")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "own.yaml", [])


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("job: box\n", Recipe, "recipe .*own.yaml: job: it is a recipe of `fastdistill box`"),
        ("job: bax\n", Recipe, "recipe .*own.yaml: job: there is no 'bax'; known: box"),
        ("extends: demo.yaml\n", BoxRecipe, "job: it is a recipe of `fastdistill distill`"),
        (
            "job: box\ntasks: [{nam: 1}]\n",
            BoxRecipe,
            r"tasks\.0\.nam: unknown key, did you mean name",
        ),
        ("job: box\ntau: 1\n", BoxRecipe, "tau: unknown key$"),
    ],
)
def test_recipe_of_another_job_is_told_by_what_it_says(tmp_path, text, shape, message):
    (tmp_path / "own.yaml").write_text(f"name: own\n{text}")
    (tmp_path / "demo.yaml").write_text(Path(DEMO).read_text())
    with pytest.raises(UserError, match=message):
        load_shape(tmp_path / "own.yaml", [], shape)


def test_recipe_may_extend_a_shipped_one_by_its_name_unless_a_file_has_it(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("extends: demo\nname: own\ntask: {num_train: 7}\n")
    recipe, demo = load_recipe(file, []), load_recipe("demo", [])
    assert (recipe.name, recipe.task.num_train) == ("own", 7)
    assert recipe.teacher == demo.teacher and recipe.training == demo.training
    (tmp_path / "demo").write_text(Path(DEMO).read_text().replace("n: 8", "n: 5"))
    assert load_recipe(file, []).sampling.n == 5


def test_unknown_key_is_looked_for_in_other_sections():
    with pytest.raises(UserError, match=r"tau: unknown key, did you mean objective\.tau\?"):
        load_recipe("demo", ["--tau=1"])
    with pytest.raises(UserError, match=r"flavour: unknown key$"):
        load_recipe("demo", ["--flavour=1"])


def test_description_of_every_field_reads_alone():
    for line in describe_fields().splitlines():
        field, _, text = line.partition("  ")
        name = field.split(" = ")[0]
        assert text or name.endswith(".kind"), f"{name} is not described"
        assert not text.startswith(("Of ", "As ", "AdamW's.")), line


def test_recipe_gsm8k_is_the_papers_run():
    recipe = load_recipe("jobs/recipes/gsm8k.yaml", [])
    sampling = SamplingKnobs(n=8, temperature=0.9, top_p=1.0, max_new_tokens=2048)
    assert recipe.sampling.model_copy(update={"seed": 0}) == sampling
    assert (recipe.teacher.model, recipe.student.model) == (
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen2.5-1.5B-Instruct",
    )
    assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay) == (5e-6, 0.01)
    assert (recipe.optimizer.max_grad_norm, recipe.optimizer.warmup_ratio) == (0.5, 0.05)
    assert (recipe.training.epochs, recipe.training.groups_per_step) == (4, 16)
    assert (recipe.objective.tau, recipe.objective.lambda_) == (0.5, 0.5)
    assert recipe.training.overlap
    assert recipe.reward.weights == {"cosine": 2.0, "format": 1.0}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--trainin.epochs=3", "trainin: unknown key, did you mean training?"),
        ("--sampling.temprature=1", "sampling.temprature: unknown key, did you mean temperature?"),
        ("--objective.taw=1", "objective.taw: unknown key"),
        ("--sampling.n=eight", "sampling.n: Input should be a valid integer"),
        ("--sampling.n=1", "sampling.n: advdistill compares completions, n must be 2 or more"),
        ("--sampling.temperature=0", "sampling.temperature: 0 makes the n completions"),
        ("--selection.min_correct=9", "selection.min_correct: 9 of 8 cannot be"),
        ("--selection.group_size=1", "n must be 2 or more, is 1"),
        ("--sampling.max_new_tokens=5000", "sampling.max_new_tokens: 5000 leaves no room"),
        ("--training.mask_prompt=false", "needs training.shared_prompt: false"),
        ("--compare.epochs=[7]", "compare.epochs: [7] not within training.epochs"),
        ("--task.num_validation=0", "task.num_validation: choosing by compare"),
        ("--reward.weights={cosine: 1, beauty: 2}", "no score is named ['beauty']"),
        ("--teacher.engine.tensor_parallel_size=4", "pools.teacher.gpus: 0 GPUs"),
        ("--teacher.engine.pipeline_parallel_size=2", "pipeline_parallel_size is 1 x 2"),
        ("--pools.teacher.gpus=2", "pools.teacher.gpus: 2 GPUs per actor"),
        ("--sampling.temperatures=[0, 0.5]", "sampling.temperatures: 0 makes the n"),
        ("--sampling.temperatures=[-1]", "sampling.temperatures.0: Input should be greater"),
        ("--sampling.max_n=4", "sampling.max_n: 4 is less than n = 8"),
        ("--sampling.enough=2", "sampling.enough: counts only with sampling.max_n"),
        ("--evaluation.loop_repeats=1", "evaluation.loop_repeats: once is no loop"),
        ("--sampling={max_n: 16, enough: 17}", "sampling.enough: 17 correct of 16"),
        ("--sampling={stop: ['x'], logprobs: 5}", "sampling.stop: it cuts inside a token"),
        ("--sampling.logprobs=21", "sampling.logprobs: Input should be less"),
        ("--sampling.n=2000", "sampling.n: Input should be less"),
        ("--teachers=[{model: m, share: 0}]", "teachers.0.share"),
        ("--teachers=[{model: m, tensor: 0}]", "teachers.0.tensor: unknown key"),
        ("--teachers=[{model: m, engine: {max_modellen: 1}}]", "did you mean max_model_len?"),
        ("--teachers=[{model: m, engine: {kind: endpoint, url: 'x'}}]", "teachers.0.engine.url"),
        ("--pools.teachers=[{}]", "pools.teachers: 1 pools for 0 further teachers"),
        ("--objective.p_max=1.5", "objective.p_max"),
        ("--objective.kind=magic", "objective"),
        ("--training.overlap=true", "compare.learning_rates"),
        ("--training.held_out.best_metric=loss", "set training.held_out.share"),
        ("--training.held_out.patience=2", "set training.held_out.best_metric"),
        ("--training.held_out.share=0.6", "training.held_out.share"),
        ("--training.compile=true", "set training.shared_prompt: false"),
        ("--training.replicas=2", "training.replicas: 1 pools.student.workers cannot be divided"),
        ("--training.cpu_offload=true", "set pools.student.gpus or false"),
        ("--training.activation_offload=true", "set pools.student.gpus or false"),
        ("--tracking.wandb_mode=later", "tracking.wandb_mode"),
        ("--name=a b", "name"),
        ("sampling", "expected --section.field=value"),
    ],
)
def test_recipe_wrong_override_is_one_line_naming_the_key(override, message):
    with pytest.raises(ValueError, match=r"recipe|override") as error:
        load_recipe(DEMO, [override])
    text = str(error.value)
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--sampling.logprobs=5"], "sampling.logprobs: teachers.0 is an endpoint"),
        (["--pools.teachers=[{workers: 2}]"], "pools.teachers.0.workers: one actor asks"),
        (["--pools.teachers=[{gpus: 1}]"], "pools.teachers.0.gpus: an endpoint's actor"),
    ],
)
def test_recipe_wrong_combination_with_an_endpoint_is_refused(overrides, message):
    with pytest.raises(ValueError, match="recipe") as error:
        load_recipe(DEMO, [f"--teachers=[{SERVER}]", *overrides])
    assert message in str(error.value)
    recipe = load_recipe(DEMO, [f"--teachers=[{SERVER}]"])
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe)), "dump") == recipe


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["--objective={kind: step_by_step}", "--training.held_out.share=0.1"],
            "training.held_out.share: the two texts that step_by_step of objective makes",
        ),
        (
            ["--training.activation_offload=true", "--pools.student.gpus=1"],
            "training.activation_offload: what it moves is what is kept by",
        ),
        (
            ["--training.replicas=2", "--pools.student.workers=[2, 4]"],
            "training.replicas: copies need one number of pools.student.workers",
        ),
        (
            ["--training.held_out={share: 0.1, best_metric: loss}"],
            "compare.epochs: held_out.best_metric already chooses",
        ),
        (
            [
                "--training.overlap=true",
                "--compare.learning_rates=[]",
                "--training.held_out.share=0.1",
            ],
            "training.held_out.share: held-out groups must be complete",
        ),
    ],
)
def test_recipe_settings_impossible_together_are_one_line(overrides, message):
    with pytest.raises(ValueError, match="recipe") as error:
        load_recipe(DEMO, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_recipe_unknown_keys_are_told_before_missing_ones():
    with pytest.raises(ValueError, match="techer: unknown key, did you mean teacher"):
        parse_recipe({"name": "x", "techer": {}}, "x.yaml")
    with pytest.raises(ValueError, match="task: required, not given"):
        parse_recipe({"name": "x"}, "x.yaml")


def test_recipe_file_missing_or_not_yaml_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_recipe(str(tmp_path / "none.yaml"), [])
    (tmp_path / "bad.yaml").write_text("a: [1\nb: }")
    with pytest.raises(ValueError, match="not YAML") as error:
        load_recipe(str(tmp_path / "bad.yaml"), [])
    assert "\n" not in str(error.value)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="expected sections"):
        load_recipe(str(tmp_path / "list.yaml"), [])


def test_plan_names_every_teacher_and_what_its_share_may_cost():
    server = SERVER.replace("/v1'", "/v1', price_completion: 10").replace("model: m", "model: api")
    overrides = [f"--teachers=[{server}]", "--sampling.max_n=16", "--task.num_train=100"]
    text = describe(load_recipe(DEMO, [*overrides, "--teacher.share=3"]))
    assert "smollm2-135m-instruct + api -> " in text
    # A quarter of 100 groups of up to 16 completions of 96 tokens at 10 per million.
    assert "groups of 8 to 16 completions, at most 153,600 tokens (at most 0.38 to pay" in text


def test_override_of_a_section_that_an_anchor_shares_changes_that_section_alone():
    recipe = load_recipe("jobs/recipes/demo_full.yaml", ["--teacher.engine.max_num_seqs=7"])
    assert recipe.teacher.engine.max_num_seqs == 7
    assert recipe.evaluation.engine.max_num_seqs == 256


def test_the_field_on_needs_no_quotes_in_a_file_nor_in_an_override(tmp_path):
    text = "extends: demo\nobjective: {kind: sft, on: all}\ntraining: {overlap: on}\n"
    (tmp_path / "mine.yaml").write_text(text)
    students = "--compare.students=[{kind: sft, name: other, on: best}]"
    recipe = load_recipe(str(tmp_path / "mine.yaml"), [students])
    assert recipe.objective.model_dump()["on"] == "all"
    assert recipe.compare.students[0].objective.model_dump()["on"] == "best"
    assert recipe.training.overlap is True, "as a value it is what YAML says"
