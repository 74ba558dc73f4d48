"""A committed store under another reward, advantage or selection, without the teacher."""

import json
import shutil
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import yaml
from support.groups import make_completion, make_group, make_table

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.accounting import check_failures, store_result
from fastdistill_ray.groups.store import Store
from fastdistill_ray.recipe.derived import judging_of
from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.records import SPLITS, Problem
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.rewards.assess import relative_weights
from fastdistill_ray.rewards.selection import (
    Judging,
    SelectionKnobs,
    judge_rows,
    select_completions,
)
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.graph import Stage, made, new_folder
from fastdistill_ray.run.rescoring import next_step, rescore_run, summary
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems
from fastdistill_ray.verifiers import Judge

WHOLE = "<think>t</think><answer>\\boxed{%s}</answer>"
RIGHT, WRONG = WHOLE % 42, WHOLE % 41
# Group b of the reference sheet; one all correct and almost equal; one of formats 1, 0, 0, 0.
GROUPS: dict[str, list[tuple[str, int]]] = {
    "b": [(RIGHT, 256), (RIGHT, 1024), (WRONG, 512), ("no", 2048)],
    "easy": [(RIGHT, length) for length in range(180, 220, 5)],
    "format": [(RIGHT, 100), ("\\boxed{42}", 100), ("\\boxed{41}", 100), ("\\boxed{40}", 100)],
}
RECIPE = {
    "name": "old",
    "task": {"name": "word_problems"},
    "teacher": {"model": "t"},
    "student": {"model": "s"},
    "objective": {"kind": "advdistill"},
    "advantage": {"eps": 1e-8},
}


def raw_row(problem_id: str) -> dict[str, Any]:
    completions = [
        make_completion(text, [k, 7], num_tokens=n, seed=k)
        for k, (text, n) in enumerate(GROUPS[problem_id])
    ]
    return make_group(problem_id, completions, question="6*7?", reference="42", teacher="t")


def write_groups(judging: Judging, problem_ids: list[str], *, out: Path) -> StageResult:
    """As generation does: one file per group."""
    store = Store(out)
    with Judge(judging.reward.verifier) as judge, Scorer(judging.reward) as scorer:
        for problem_id in problem_ids:
            rows = judge_rows([raw_row(problem_id)], judging, judge, scorer)
            store.append([store.write(make_table(rows))])
    return store_result(store, len(problem_ids), {})


class Rescored(NamedTuple):
    run: RunFolder
    groups: Path  # of the stage


@pytest.fixture
def old(tmp_path: Path) -> Rescored:
    recipe = parse_recipe(RECIPE, "test")
    run = RunFolder(tmp_path / "run", recipe)
    problems = run.stage(run.stages.problems(), write_all_problems)
    stage = run.stages.groups(ProblemFile(problems / "train.parquet"))
    groups = run.stage(stage, write_groups, judging_of(recipe), list(GROUPS))
    run.claim()
    return Rescored(run, groups)


def write_all_problems(*, out: Path) -> StageResult:
    problems = [Problem(key, "t", "train", "6*7?", "42", "number") for key in GROUPS]
    for split in SPLITS:
        write_problems(problems if split == "train" else [], out / f"{split}.parquet")
    return StageResult(3, 3)


def groups_in(folder: Path) -> dict[str, dict[str, Any]]:
    rows = [row for table in Store(folder).tables() for row in table.to_pylist()]
    return {row["problem_id"]: row for row in rows}


def rescore_with(old: Rescored, *overrides: str) -> Rescored:
    return Rescored(*rescore_run(str(old.run.path), list(overrides)))


def rescored(old: Rescored, *overrides: str) -> dict[str, dict[str, Any]]:
    before = groups_in(old.groups)
    found = rescore_with(old, *overrides)
    assert found.groups != old.groups and groups_in(old.groups) == before, "it stands beside"
    return groups_in(found.groups)


def weights_of(group: dict[str, Any]) -> list[float | None]:
    return relative_weights(column(group, "advantage"), 0.5)


def column(group: dict[str, Any], name: str) -> list[Any]:
    return [one[name] for one in group["completions"]]


def changed(before: dict[str, dict], after: dict[str, dict]) -> set[tuple[str, str]]:
    """(problem, field) that differ; a completion's fields are fields here."""
    assert before.keys() == after.keys()
    found = set()
    for key, group in before.items():
        for name in group:
            if name not in ("completions", "taken_from") and group[name] != after[key][name]:
                found.add((key, name))
        for name in group["completions"][0]:
            if column(group, name) != column(after[key], name):
                found.add((key, name))
    return found


def every(*fields: str) -> set[tuple[str, str]]:
    return {(key, field) for key in GROUPS for field in fields}


def test_same_recipe_is_the_same_groups(old: Rescored) -> None:
    assert rescore_with(old).groups == old.groups


def test_grades_are_taken_along_and_the_judges_ledger_is_not(old: Rescored) -> None:
    judge = old.groups / "llm_judge"
    (judge / "a.jsonl").put('{"key": "k", "value": 0.5, "reply": "Score: 5"}\n')
    (judge / "paid/b.jsonl").put('{"paid": 1.0}\n')
    found = rescore_with(old, "--selection.min_correct=2").groups
    assert [file.name for file in (found / "llm_judge").walk()] == ["a.jsonl"]


def failing_while_away(old: Rescored) -> tuple[Place, list[str]]:
    """A file, and a reward of one's own that fails of every completion while that is there."""
    mine, flag = (old.run.path.parent / name for name in ("mine.py", "away"))
    mine.put(f"import os\ndef f(completion):\n    return 1 / (not os.path.exists({str(flag)!r}))\n")
    flag.put("")
    return flag, [f"--reward.functions.mine={mine}:f", "--reward.weights={cosine: 2, mine: 1}"]


def test_what_a_reward_failed_of_is_judged_again_by_the_next_score(old: Rescored) -> None:
    """As where a judge was away: the stage begun is gone on with."""
    flag, overrides = failing_while_away(old)
    with pytest.raises(UserError, match="16 of 16 completions"):
        rescored(old, *overrides)
    flag.unlink()
    found = groups_in(rescore_with(old, *overrides).groups)
    assert [one["verdict"] for one in found["easy"]["completions"]] == ["correct"] * 8


def test_what_a_training_has_followed_is_not_judged_again(old: Rescored) -> None:
    flag, overrides = failing_while_away(old)
    overrides += ["--training.overlap=true", "--compare.seeds=[]"]
    with pytest.raises(UserError, match="16 of 16 completions"):
        rescored(old, *overrides)
    (begun,) = {one.folder for one in made(old.run.path, "groups")} - {old.groups}
    training = new_folder(old.run.path, Stage("train", "a", {}, {"groups": begun.name}))
    (training / "metrics.jsonl").put("{}\n")
    before = groups_in(begun)
    flag.unlink()
    with pytest.raises(UserError, match="no group of 3 was kept"):
        rescore_with(old, *overrides, "--reward.max_failed_share=1")
    assert groups_in(begun) == before


def test_another_selection_keeps_order_files_and_judgements(old: Rescored) -> None:
    new = rescore_with(old, "--selection.seed=1").groups
    commits = [list(Store(folder).commits()) for folder in (old.groups, new)]
    free = {"time": 0, "size": 0, "digest": ""}
    alike = {**free, "taken_from": old.groups.name}
    assert [c._replace(**alike) for c in commits[0]] == [c._replace(**free) for c in commits[1]]
    for commit in commits[0]:
        tables = [
            pq.read_table(folder / commit.file).drop_columns(["taken_from"])
            for folder in (old.groups, new)
        ]
        assert tables[0].equals(tables[1])


def test_the_reference_group_has_the_numbers_of_the_sheet(old: Rescored) -> None:
    group = groups_in(old.groups)["b"]
    assert column(group, "reward") == pytest.approx(
        [2.9619397663, 2.5, 0.8535533906, -1.0], abs=1e-9
    )
    assert column(group, "advantage") == pytest.approx(
        [1.0493400784, 0.7525169439, -0.3054206468, -1.4964363755], abs=1e-9
    )
    assert weights_of(group) == pytest.approx(
        [0.6153744442, 0.3398772986, 0.0409646494, 0.0037836079], abs=1e-9
    )


def test_sample_deviation_and_eps_change_advantages_only(old: Rescored) -> None:
    new = rescored(old, "--advantage.std_ddof=1", "--advantage.eps=1e-4")
    assert changed(groups_in(old.groups), new) == every("advantage")
    assert column(new["b"], "advantage") == pytest.approx(
        [0.9087046041, 0.6516625312, -0.2644873227, -1.2958798127], abs=1e-9
    )
    assert weights_of(new["b"]) == pytest.approx(
        [0.5861912076, 0.3505705196, 0.0561070894, 0.0071311834], abs=1e-9
    )


def test_tau_changes_no_group(old: Rescored) -> None:
    new = rescore_with(old, "--objective.tau=1.0")
    assert new.groups == old.groups
    assert relative_weights(column(groups_in(new.groups)["b"], "advantage"), 1.0) == pytest.approx(
        [0.480862, 0.357365, 0.124067, 0.037705], abs=1e-6
    )


def test_dr_grpo_centres_without_dividing(old: Rescored) -> None:
    new = rescored(old, "--advantage.scale=none", "--reward.weights={format: 1.0, cosine: 0.0}")
    assert column(new["format"], "advantage") == [0.75, -0.25, -0.25, -0.25]
    assert column(new["easy"], "advantage") == [0.0] * 8
    assert weights_of(new["easy"]) == [0.125] * 8
    assert column(new["b"], "advantage") == [0.25, 0.25, 0.25, -0.75]


def test_grpo_divides_by_the_deviation(old: Rescored) -> None:
    new = rescored(old, "--reward.weights={format: 1.0, cosine: 0.0}")
    before = groups_in(old.groups)
    assert changed(before, new) <= every("scores", "reward", "advantage")
    assert column(new["format"], "advantage") == pytest.approx(
        [1.7320508, -0.5773503, -0.5773503, -0.5773503], abs=1e-6
    )


def test_min_std_levels_the_easy_group_and_touches_no_other(old: Rescored) -> None:
    before = groups_in(old.groups)
    assert column(before["easy"], "advantage") == pytest.approx(
        [1.490, 1.085, 0.671, 0.245, -0.191, -0.638, -1.096, -1.564], abs=2e-3
    )
    assert weights_of(before["easy"]) == pytest.approx(
        [0.5619, 0.2504, 0.1092, 0.0466, 0.0195, 0.0080, 0.0032, 0.0013], abs=2e-3
    )
    new = rescored(old, "--advantage.min_std=0.01")
    assert changed(before, new) == {("easy", "advantage")}
    assert column(new["easy"], "advantage") == [0.0] * 8
    assert weights_of(new["easy"]) == [0.125] * 8


def test_thresholds_drop_groups_and_change_nothing_inside(old: Rescored) -> None:
    new = rescored(old, "--selection.min_correct=3")
    assert changed(groups_in(old.groups), new) == {("b", "dropped"), ("format", "dropped")}
    assert {key: group["dropped"] for key, group in new.items()} == {
        **{"b": "too_few_correct", "easy": "", "format": "too_few_correct"}
    }


def test_three_responses_are_weighted_among_themselves(old: Rescored) -> None:
    before, new = groups_in(old.groups), rescored(old, "--selection.group_size=3")
    assert changed(before, new) == every("is_selected", "advantage")
    for key, group in new.items():
        texts = column(group, "text")
        chosen = select_completions(texts, SelectionKnobs(group_size=3), key)
        weights = weights_of(group)
        is_selected = column(group, "is_selected")
        assert is_selected == [weight is not None for weight in weights]
        assert [i for i, is_member in enumerate(is_selected) if is_member] == chosen
        assert sum(weights[i] for i in chosen) == pytest.approx(1.0)
        assert sum(group["completions"][i]["advantage"] for i in chosen) == pytest.approx(0)


def test_another_cosine_preset_changes_the_rewards(old: Rescored) -> None:
    new = rescored(old, "--reward.cosine.preset=yeo", "--reward.weights={cosine: 1.0, format: 0}")
    assert column(new["b"], "reward") == pytest.approx(
        [1 + 0.9619397663, 1.5, -8.5355339059, -10.0], abs=1e-9
    )


def test_failing_score_leaves_its_group_and_the_rest_share_the_weight(old: Rescored) -> None:
    mine = old.run.path.parent / "mine.py"
    mine.put("def f(completion):\n    return 1 / (completion['num_tokens'] - 2048)\n")
    new = rescored(
        *(old, f"--reward.functions.mine={mine}:f"),
        "--reward.weights={cosine: 2, format: 1, mine: 1e-9}",
    )
    last = new["b"]["completions"][3]
    assert (last["verdict"], last["reward"], last["advantage"]) == ("error", None, None)
    assert column(new["b"], "is_selected") == [True, True, True, False]
    assert last["reason"] == "score mine: ZeroDivisionError: division by zero"
    assert [score["value"] for score in last["scores"]] == [-0.5, 0.0, None]
    rewards = [2.9619397663, 2.5, 0.8535533906]
    mean = sum(rewards) / 3
    deviation = (sum((r - mean) ** 2 for r in rewards) / 3) ** 0.5
    assert column(new["b"], "advantage")[:3] == pytest.approx(
        [(r - mean) / deviation for r in rewards], abs=1e-6
    )
    assert sum(weights_of(new["b"])[:3]) == pytest.approx(1.0)
    assert new["b"]["dropped"] == ""


def test_too_many_failures_stop_and_the_share_may_be_raised(old: Rescored) -> None:
    mine = old.run.path.parent / "mine.py"
    mine.put("def f(completion):\n    return 1 / 0\n")
    overrides = [
        f"--reward.functions.mine={mine}:f",
        "--reward.weights={cosine: 2, mine: 1}",
        "--selection.min_correct=0",
        "--selection.min_size=1",
    ]
    with pytest.raises(UserError) as error:
        rescored(old, *overrides)
    message = str(error.value)
    assert "reward.max_failed_share: 16 of 16 completions (100.0%)" in message
    assert "16 times: score mine: ZeroDivisionError: division by zero" in message
    assert "\n" not in message
    (new,) = (one for one in old.groups.parent.list() if one != old.groups)
    assert len(list(Store(new).commits())) == 3, "what is scored stays"
    with pytest.raises(UserError, match="no group of 3 was kept"):
        rescored(old, *overrides, "--reward.max_failed_share=1")


@pytest.mark.parametrize(
    ("failed", "total", "share", "is_stopped"),
    [
        (4, 4, 0.02, False),  # a handful, however they are
        (5, 5, 0.02, True),  # 5 of the first 200 are too many already
        (20, 1000, 0.02, False),
        (21, 1000, 0.02, True),
        (1, 10_000, 0.0, True),
        (500, 1000, 0.5, False),
    ],
)
def test_share_of_failures_is_taken_of_enough_completions(
    old: Rescored, failed: int, total: int, share: float, is_stopped: bool
) -> None:
    verdicts = Counter({"error": failed // 2, "timeout": failed - failed // 2})
    verdicts["wrong"] = total - failed
    stop = pytest.raises(UserError, match="max_failed_share") if is_stopped else nullcontext()
    with stop:
        check_failures(verdicts, share, Store(old.groups))


def test_groups_are_complete_cost_no_tokens_and_the_folder_is_the_changed_recipes(
    old: Rescored,
) -> None:
    run, groups = rescore_with(old, "--selection.min_correct=3")
    manifest = json.loads((groups / "manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_out"]) == (3, 1)
    assert manifest["set_aside"] == {"too_few_correct": 2}
    assert (manifest["prompt_tokens"], manifest["completion_tokens"]) == (0, 0)
    paid = sum(length for group in GROUPS.values() for _, length in group)
    assert manifest["facts"] == {"reused_completion_tokens": paid}
    assert next_step(run, groups) == (
        f"fastdistill train {run.path}/recipe.yaml --run-dir {run.path}"
    )
    assert summary(groups) == (
        "groups: kept 1, too_few_correct 2; completions: correct 12, wrong 3, unparsable 1"
    )
    recipe = yaml.safe_load((run.path / "recipe.yaml").read_text())
    assert recipe["selection"]["min_correct"] == 3
    graph = json.loads((run.path / "graph.json").read_text())
    assert graph["groups"] == str(groups.relative_to(run.path))


def test_unfinished_store_is_taken_as_far_as_it_is_and_goes_on_after_a_kill(old: Rescored) -> None:
    (old.groups / "manifest.json").unlink()
    *_, last = Store(old.groups).commits()
    (old.groups / last.file).unlink()
    Store(old.groups).rewrite_log(list(Store(old.groups).commits())[:2])
    run, groups = rescore_with(old, "--selection.seed=1")
    assert not (groups / "manifest.json").exists()
    assert next_step(run, groups).startswith("fastdistill generate ")
    logged = list(Store(groups).commits())
    Store(groups).rewrite_log(logged[:1])  # the second is written, not logged
    again = rescore_with(old, "--selection.seed=1")
    assert again.groups == groups
    assert not changed(groups_in(old.groups), groups_in(groups))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--sampling.n=16"], r"sampling\.n was 8, now 16: a teacher would have to be asked"),
        (["--teacher.model=a/b"], r"teacher\.model was 'hub:t@\?', now 'hub:a/b@\?'"),
        (["--task.num_train=5"], "its problems are others"),
        (["--reward.weights={beauty: 1}"], "no score is named"),
        (["--reward.functions.mine=tests/bad.py:f"], "cannot be read"),
        (
            [
                "--reward.functions.mine={path: 'x.py:f', source: 'class f(NoSuch): x = 1'}",
                "--reward.weights={mine: 1}",
            ],
            r"reward\.functions\.mine: x.py does not load",
        ),
    ],
)
def test_what_cannot_be_scored_again_leaves_the_folder_as_it_was(
    old: Rescored, overrides: list[str], message: str
) -> None:
    before = {file: file.read_bytes() for file in old.run.path.local.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=message):
        rescored(old, *overrides)
    after = {file: file.read_bytes() for file in old.run.path.local.rglob("*") if file.is_file()}
    assert after == before


def test_wrong_folders_are_named(old: Rescored) -> None:
    with pytest.raises(UserError, match=r"holds no recipe\.yaml"):
        rescore_run(str(old.run.path.parent), [])
    shutil.rmtree(old.groups)
    with pytest.raises(UserError, match="holds no groups of this recipe's teachers"):
        rescore_run(str(old.run.path), [])
