"""Which work serves which recipe: a stage depends on its sections and inputs, on nothing else."""

import json
from pathlib import Path

import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.reweighting import num_missing
from fastdistill_ray.recipe.derived import baselines, students
from fastdistill_ray.recipe.loading import dump_recipe, load_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.records import SPLITS, Problem
from fastdistill_ray.run.cleaning import clean
from fastdistill_ray.run.forecast import check_run, describe_plan, describe_stages
from fastdistill_ray.run.graph import Stage, changes, find, nearest, new_folder
from fastdistill_ray.run.paid import ask_set_aside_again, sources_of
from fastdistill_ray.run.stages import Stages
from fastdistill_ray.run_files import METRICS, STAGE
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems

DEMO = "jobs/recipes/demo_full.yaml"
TRAININGS = ["train/advdistill-lr_5e-05", "train/advdistill-lr_0.0001"]
SFT = ["train/sft-lr_5e-05", "train/sft-lr_0.0001"]
BASES = ["answers/base_plain", "answers/base", "answers/teacher"]


def recipe_with(*overrides: str) -> Recipe:
    return load_recipe(DEMO, list(overrides))


def problem(place: int, reference: str = "3") -> Problem:
    return Problem(f"p{place}", "t", "train", f"{place}?", reference, "number")


@pytest.fixture
def run(tmp_path: Path) -> Place:
    """A run of the demo whose stages are all complete, as far as their folders tell."""
    recipe = recipe_with()
    run = Place(tmp_path)
    stages = Stages(recipe, run)
    folder = complete(run, stages.problems())
    for split in SPLITS:
        write_problems([problem(i) for i in range(4)], folder / f"{split}.parquet")
    files = {split: ProblemFile(folder / f"{split}.parquet") for split in SPLITS}
    groups = complete(run, stages.groups(files["train"]))
    rows = [
        make_group(f"p{i}", [make_completion(num_tokens=7)], question=f"{i}?", reference="3")
        for i in range(4)
    ]
    write_store(groups, rows)
    for student in students(recipe):
        for training in student.trainings:
            out = complete(run, stages.training(training, files["train"]))
            line = {"step": 1, "epoch": 0, "time/step": 1.0, "train/trained_tokens": 5}
            (out / METRICS).put(json.dumps(line) + "\n")
    for model in baselines(recipe):
        complete(run, stages.answers(model, [files["test"], files["ood"]]))
    return run


def complete(run: Place, stage: Stage) -> Place:
    folder = new_folder(run, stage)
    spent = {"seconds": 60.0, "cpu_hours": 0.5, "gpu_hours": 0.0}
    done = {"rows_in": 4, "facts": {"planned_steps": 2} if stage.kind == "train" else {}}
    (folder / "manifest.json").put(json.dumps(spent | done))
    return folder


MINUTE = "about 1:00 (0.50 CPU-hours)"  # so long took its like


def states(run: Place, *overrides: str) -> dict[str, str]:
    lines = describe_stages(recipe_with(*overrides), run).splitlines()
    return {line.split()[0]: line.split(None, 1)[1] for line in lines}


def made_anew(run: Place, *overrides: str) -> set[str]:
    """Names of stages that are not reused, but for answers of students, which follow them."""
    found = states(run, *overrides)
    follow = [f"answers/{one}{end}" for one in ("advdistill", "sft") for end in ("", "_trials")]
    own = {name for name in found if name not in (*follow, "all")}
    return {name for name in own if not found[name].startswith("reused")}


def test_clean_leaves_what_the_last_recipe_reuses_though_it_has_not_come_to_it(run):
    """As where another recipe's run ended before it came to the trainings that both have."""
    there = {str(place) for kind in (run / "stages").list() for place in kind.list()}
    (run / "recipe.yaml").put(dump_recipe(recipe_with()))
    (run / "graph.json").put("{}")
    given = {"with_paid": True, "with_earlier": True, "is_deleting": False}
    assert not {str(place) for place in clean(str(run), **given)} & there


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("--name=another", []),
        ("--pools.teacher.workers=3", []),
        ("--teacher.engine.max_num_seqs=7", []),
        ("--training.max_failures=9", []),
        ("--reward.max_failed_share=0.5", []),
        ("--objective.tau=1.0", TRAININGS),
        ("--optimizer.warmup_ratio=0.1", [*TRAININGS, *SFT]),
        ("--compare.students.0.normalize=sequence", SFT),
        ("--evaluation.max_new_tokens=100", BASES),
        ("--student.prompt.system=Think.", [*TRAININGS, *SFT, "answers/base"]),
        ("--reward.weights={cosine: 0, format: 1.0}", ["groups", *TRAININGS, *SFT]),
        ("--selection.min_correct=2", ["groups", *TRAININGS, *SFT]),
        ("--sampling.temperature=0.7", ["groups", *TRAININGS, *SFT]),
    ],
)
def test_change_of_a_field_makes_anew_what_depends_on_it(run, override, expected):
    overrides = [override]
    if override.startswith("--compare.students.0"):
        overrides = ["--compare.students=[{kind: sft, normalize: sequence}]"]
    assert made_anew(run, *overrides) == set(expected)


def test_another_learning_rate_keeps_the_trainings_that_were(run):
    found = made_anew(run, "--compare.learning_rates=[5.0e-5, 2.0e-4]")
    assert found == {"train/advdistill-lr_0.0002", "train/sft-lr_0.0002"}


def test_more_seeds_keep_the_trainings_of_the_seed_that_was(run):
    found = states(run, "--compare.seeds=[0, 3]")
    for student in ("advdistill", "sft"):
        for rate in ("5e-05", "0.0001"):
            assert found[f"train/{student}-lr_{rate}-seed_0"].startswith("reused")
            new = found[f"train/{student}-lr_{rate}-seed_3"]
            assert new == f"new: training.seed was 0, now 3; at most 2 steps; {MINUTE}"
        for name in (student, f"{student}-seed_3"):
            assert found[f"answers/{name}"].startswith("new, with its training")
    assert made_anew(run, "--compare.seeds=[0]") == set(), "one seed changes no name"


def test_another_student_asks_no_teacher_and_repeats_no_training(run):
    override = "--compare.students=[{kind: sft}, {kind: advdistill, name: hot, tau: 2.0}]"
    assert made_anew(run, override) == {
        *("train/hot-lr_5e-05", "train/hot-lr_0.0001", "answers/hot_trials", "answers/hot")
    }


def test_plan_names_what_a_user_named_and_shows_where_long_values_differ(run, tmp_path):
    found = states(run, "--reward.weights.cosine=5")
    assert found["groups"].startswith("new, judged again") or "reward.weights" in found["groups"]
    assert "reward.weights.cosine was 2.0, now 5.0" in found["groups"]
    found = states(run, "--reward.weights.length=1")
    assert "reward.weights.length was None, now 1.0" in found["groups"]
    system = str(recipe_with().student.prompt.system)
    found = states(run, f"--student.prompt.system={system}s")
    assert r"was ...ue inside \\boxed{}.', now ...ue inside \\boxed{}.s'" in found[TRAININGS[0]]


def test_plan_names_the_field_that_changed_and_the_cost(run):
    found = states(run, "--objective.tau=1.0")
    assert found["train/advdistill-lr_5e-05"] == (
        "new: objective.tau was 0.5, now 1.0; at most 2 steps; about 1:00 (0.50 CPU-hours)"
    )
    found = states(run, "--compare.students=[{kind: sft, normalize: sequence}]")
    assert "compare.students.0.normalize was 'token', now 'sequence'" in found[SFT[0]]
    found = states(run, "--sampling.temperature=0.7")
    assert found["groups"] == (
        "new: sampling.temperature was 0.9, now 0.7; 4 problems x 8 completions, at most 3,072 "
        "tokens; about 1:00 (0.50 CPU-hours)"
    )
    other = states(run, "--reward.weights={cosine: 0, format: 1}")
    assert "judged again from stages/groups/" in other["groups"]
    assert "selected again" in states(run, "--selection.min_correct=2")["groups"]


def test_plan_sums_what_all_that_is_new_would_take(run):
    four = "--compare.seeds=[0, 1, 2]", "--compare.students=[]", "--pools.cpu_hour_price=2"
    found = states(run, *four)
    # Two rates by two further seeds are trained, a minute each; the two epochs of all six answer
    # four problems, and three students eight, where four took a minute.
    assert found["all"].split("  ")[-1].strip() == "about 22:00 (11.00 CPU-hours, 22.00 to pay)"


def test_plan_of_a_verb_has_the_stages_and_lines_of_that_verb(run):
    recipe = recipe_with()
    generate, train = (describe_plan(recipe, run, verb) for verb in ("generate", "train"))
    for plan, words, others in (
        (generate, {"generate", "reward", "groups"}, {"train", "evaluate", "answers/base"}),
        (train, {"train", "groups", SFT[0]}, {"generate", "evaluate", "answers/base"}),
    ):
        begun = {line.split()[0] for line in plan.splitlines() if line}
        assert words <= begun and not others & begun


def test_paid_tokens_are_not_asked_for_again_until_the_user_says_so(run):
    recipe = recipe_with("--sampling.temperature=0.7")
    with pytest.raises(UserError) as error:
        check_run(recipe, run, [], is_here=True)
    message = str(error.value)
    assert message.startswith("sampling.temperature was 0.9, now 0.7: the teacher would be asked")
    assert "28 tokens in stages/groups/" in message and "--again groups" in message
    check_run(recipe, run, ["groups"], is_here=True)
    check_run(recipe_with("--reward.weights={cosine: 0, format: 1}"), run, [], is_here=True)
    check_run(recipe_with(), run, [], is_here=True)


def test_answers_of_a_server_are_not_paid_for_twice_unless_that_is_meant(run):
    server = {"kind": "endpoint", "url": "http://x/v1", "price_completion": 100.0}
    teacher = f"--teacher={json.dumps({'model': 'big', 'engine': server})}"
    recipe = recipe_with(teacher)
    found = find(run, Stages(recipe, run).problems())
    assert found
    tests = [ProblemFile(found.folder / f"{split}.parquet") for split in ("test", "ood")]
    (model,) = [one for one in baselines(recipe) if one.name == "teacher"]
    folder = complete(run, Stages(recipe, run).answers(model, tests))
    more = recipe_with(teacher, "--evaluation.max_new_tokens=300")
    check_run(more, run, ["groups"], is_here=True)  # nothing was paid for yet
    write_store(folder, [make_group("p0", [make_completion(num_tokens=7)])])
    with pytest.raises(UserError) as error:
        check_run(more, run, ["groups"], is_here=True)
    message = str(error.value)
    assert message.startswith(
        "evaluation.max_new_tokens was 384, now 300: big would be asked all 8"
    )
    assert "at most 0.24 to pay" in message and "; 7 tokens in stages/answers/teacher-" in message
    for kept in (["groups", "answers"], ["groups"]):
        verb = "distill" if "answers" in kept else "train"
        check_run(more, run, kept, is_here=True, verb=verb)
    check_run(recipe, run, ["groups"], is_here=True)


def test_new_problems_are_not_paid_for_twice_unless_that_is_meant(run):
    asked = ["--new_problems={n: 2}", "--reward.reference=vote"]
    recipe = recipe_with(*asked)
    stages = Stages(recipe, run)
    problems = find(run, stages.problems())
    assert problems
    train = ProblemFile(problems.folder / "train.parquet")
    folder = complete(run, stages.new_problems(train))
    write_problems([problem(i) for i in range(4)], folder / "train.parquet")
    write_store(folder / "written", [make_group("p0", [make_completion(num_tokens=9)])])
    free = recipe_with(*asked, "--sampling.max_set_aside=0.5")
    assert find(run, Stages(free, run).new_problems(train)), "what changes no text"
    hotter = recipe_with("--new_problems={n: 2, temperature: 0.5}", asked[1])
    with pytest.raises(UserError, match=r"^new_problems.temperature was 1.0, now 0.5: .* 9 tokens"):
        check_run(hotter, run, [], is_here=True)
    check_run(hotter, run, ["groups"], is_here=True)


def test_plan_says_what_is_refused_until_it_is_allowed(run):
    recipe = recipe_with("--sampling.temperature=0.7")
    *_, last = describe_plan(recipe, run).splitlines()
    assert last.startswith("refused  ") and "--again groups" in last
    assert "\nrefused  " not in describe_plan(recipe, run, again=["groups"])


def test_more_problems_take_along_the_groups_that_are_paid_for(run):
    write_problems([problem(i) for i in range(9)], run / "more.parquet")
    stage = Stages(recipe_with(), run).groups(ProblemFile(run / "more.parquet"))
    assert find(run, stage) is None
    (source,) = sources_of(run, stage)
    assert source.renew == "nothing"
    assert num_missing([source], ProblemFile(run / "more.parquet")) == 5


def test_problems_in_another_order_or_with_another_reference_are_others(tmp_path):
    files = []
    for name, problems in {
        "as_is": [problem(0), problem(1)],
        "again": [problem(0), problem(1)],
        "turned": [problem(1), problem(0)],
        "mended": [problem(0), problem(1, "4")],
    }.items():
        write_problems(problems, tmp_path / f"{name}.parquet")
        files.append(ProblemFile(tmp_path / f"{name}.parquet").digest)
    assert files[0] == files[1]
    assert len(set(files)) == 3


def test_knob_that_an_older_recipe_did_not_know_counts_as_its_default(run):
    (groups,) = (run / "stages/groups").list()
    tree = json.loads((groups / STAGE).read_text())
    del tree["sections"]["sampling"]["top_k"]
    del tree["sections"]["teacher"]["engine"]["dtype"]
    (groups / STAGE).put(json.dumps(tree))
    assert states(run)["groups"].startswith("reused")
    assert "sampling.top_k was None, now 5" in states(run, "--sampling.top_k=5")["groups"]


def test_weight_that_returns_with_the_default_is_a_difference(run):
    """A name in a free table is not a knob that an older recipe did not know."""
    stages = Stages(recipe_with("--reward.weights={repetition: 1.0}"), run)
    problems = ProblemFile(next((run / "stages/problems").local.glob("*/train.parquet")))
    complete(run, stages.groups(problems))
    default = Stages(recipe_with("--sampling.seed=1"), run).groups(problems)
    assert find(run, default) is None
    alone = Stages(recipe_with("--reward.weights={repetition: 1.0}"), run).groups(problems)
    found = find(run, alone)
    assert found is not None
    assert changes(Stages(recipe_with(), run).groups(problems), found.dependencies)


def test_knob_that_is_no_longer_known_is_a_difference(run):
    (groups,) = (run / "stages/groups").list()
    tree = json.loads((groups / STAGE).read_text())
    tree["sections"]["sampling"]["beams"] = 4
    (groups / STAGE).put(json.dumps(tree))
    assert "sampling.beams was 4, now None" in states(run)["groups"]


def test_model_is_known_by_its_content_not_by_its_path(tmp_path):
    folders = [tmp_path / name for name in ("here", "there", "other")]
    for folder, weights in zip(folders, (b"w", b"w", b"v"), strict=True):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
    first, second, third = (
        Stages(recipe_with(f"--teacher.model={folder}"), tmp_path)._teachers for folder in folders
    )
    assert first == second != third
    (folders[0] / "model.safetensors").write_bytes(b"u")
    assert Stages(recipe_with(f"--teacher.model={folders[0]}"), tmp_path)._teachers != first


def test_revision_that_is_not_known_here_may_be_any(tmp_path):
    old = {"sections": {}, "inputs": {"model": "hub:org/name@abc"}}
    assert not changes(Stage("k", "", {}, {"model": "hub:org/name@?"}), old)
    assert changes(Stage("k", "", {}, {"model": "hub:org/other@?"}), old)
    assert changes(Stage("k", "", {}, {"model": "hub:org/name@def"}), old)


def test_work_under_another_label_serves_and_the_nearest_is_of_the_same(tmp_path):
    run = Place(tmp_path)
    made = new_folder(run, Stage("train", "old", {}, {"groups": "1"}))
    found = find(run, Stage("train", "new", {}, {"groups": "1"}))
    assert found is not None and found.folder == made
    assert nearest(run, Stage("train", "new", {}, {"groups": "2"})) is None
    near = nearest(run, Stage("train", "old", {}, {"groups": "2"}))
    assert near is not None and list(map(str, near[1])) == ["groups was '1', now '2'"]


@pytest.mark.parametrize("user", ["", "train/sft-lr_1", "selected_groups/of_2"])
def test_what_was_set_aside_is_asked_again_unless_something_was_made_without_it(tmp_path, user):
    run, groups = Place(tmp_path), Stage("groups", "", {}, {"problems": "1"})
    folder = complete(run, groups)
    ask_set_aside_again(run, groups)
    assert (folder / "manifest.json").is_file(), "nothing was set aside"
    (folder / "set_aside.jsonl").put(json.dumps({"key": "p1", "reason": "it kills"}) + "\n")
    if user:
        kind, _, label = user.partition("/")
        complete(run, Stage(kind, label, {}, {"groups": folder.name}))
        with pytest.raises(UserError, match=rf"set_aside: stages/{user}-\S+ was made"):
            ask_set_aside_again(run, groups)
    else:
        ask_set_aside_again(run, groups)
    assert (folder / "manifest.json").is_file() == bool(user)


@pytest.mark.parametrize(
    ("more", "fewer"),
    [
        ("{kind: jsd, name: a, rounds: {count: 2, mix: 0.5}}", "{kind: jsd, name: b}"),
        ("{kind: jsd, name: a, start: advdistill}", "{kind: jsd, name: b}"),
        ("{kind: opd, name: a, start: sft, rounds: {count: 2}}", "{kind: opd, rounds: {count: 2}}"),
    ],
)
def test_training_that_depends_on_more_is_not_the_one_that_depends_on_less(run, more, fewer):
    recipe = recipe_with(f"--compare.students=[{{kind: sft}}, {more}, {fewer}]")
    stages = Stages(recipe, run)
    problems = find(run, stages.problems())
    assert problems
    train = ProblemFile(problems.folder / "train.parquet")
    *_, own, other = students(recipe)
    made_first = complete(run, stages.training(own.trainings[0], train))
    assert find(run, stages.training(other.trainings[0], train)) is None
    second = complete(run, stages.training(other.trainings[0], train))
    for student, folder in ((own, made_first), (other, second)):
        found = find(run, stages.training(student.trainings[0], train))
        assert found and found.folder == folder


def test_a_students_place_among_those_compared_changes_nothing_of_its_training(run):
    chained = "{kind: jsd, start: sft}"
    one = recipe_with(f"--compare.students=[{{kind: sft}}, {chained}]")
    other = recipe_with(f"--compare.students=[{{kind: dpo}}, {{kind: sft}}, {chained}]")
    problems = find(run, Stages(one, run).problems())
    assert problems
    train = ProblemFile(problems.folder / "train.parquet")
    made_first = complete(run, Stages(one, run).training(students(one)[-1].trainings[0], train))
    found = find(run, Stages(other, run).training(students(other)[-1].trainings[0], train))
    assert found and found.folder == made_first


def test_plan_says_what_a_training_depends_on_no_more(run):
    rounds = "--compare.students=[{kind: sft, name: s, start: advdistill}]"
    recipe = recipe_with(rounds)
    problems = find(run, Stages(recipe, run).problems())
    assert problems
    train = ProblemFile(problems.folder / "train.parquet")
    complete(run, Stages(recipe, run).training(students(recipe)[-1].trainings[0], train))
    found = states(run, "--compare.students=[{kind: sft, name: s, on: best, normalize: token}]")
    assert found["train/s-lr_5e-05"].startswith("reused"), "that of sft"
    found = states(run, "--compare.students=[{kind: sft, name: s, normalize: sequence}]")
    assert "compare.students.0.start was " in found["train/s-lr_5e-05"]
