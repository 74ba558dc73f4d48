"""No two models of a recipe are called the same."""

from support.run_folder import RECIPE, make_run

from fastdistill_ray.recipe.loading import dump_recipe, parse_recipe
from fastdistill_ray.report.conclusion import model_label
from fastdistill_ray.report.page import Table
from fastdistill_ray.report.reading import models_of, read_run
from fastdistill_ray.report.sections import _verdict_blocks

ROUNDS = {"count": 24}
STUDENTS = [
    {"kind": "sft"},
    {"kind": "jsd", "name": "gkd", "rounds": ROUNDS},
    {"kind": "jsd", "name": "gkd_mix", "rounds": {**ROUNDS, "mix": 0.5}},
    {"kind": "opd", "name": "soon", "start": "sft", "rounds": ROUNDS},
    {"kind": "opd", "name": "late", "start": "sft", "rounds": {"count": 48}},
]
SHOTS = [{"question": "1 + 1?", "answer": "<think>2</think>"}]
BASELINES = [
    {"name": name, "model": "org/big", "prompt": {"system": system, "shots": SHOTS}}
    for name, system in (("kind", "Answer kindly."), ("short", "Answer shortly."))
]


def written(**compare) -> str:
    """The text of the recipe of a run that compares these."""
    trained = {"rounds": ROUNDS, "training": {"epochs": 1}}
    recipe = RECIPE | trained | {"objective": {"kind": "opd"}, "compare": compare}
    return dump_recipe(parse_recipe(recipe, "labels"))


def test_models_that_would_have_one_label_have_their_names_beside_it(tmp_path):
    make_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text(written(students=STUDENTS, baselines=BASELINES))
    recipe = read_run(str(tmp_path)).recipe
    labels = {name: model_label(name, recipe) for name in models_of(recipe)}
    assert labels == {
        "kind": "big, 1 shot (kind)",
        "short": "big, 1 shot (short)",
        "sft": "SFT on best completion",
        "gkd": "JSD, on its own texts (gkd)",
        "gkd_mix": "JSD, on its own texts (gkd_mix)",
        "soon": "On-policy distillation, from the end of SFT (soon)",
        "late": "On-policy distillation, from the end of SFT (late)",
        "opd": "On-policy distillation",
    }


def test_verdicts_of_two_students_of_one_sort_both_stand_in_the_table(tmp_path):
    make_run(tmp_path)
    run = read_run(str(tmp_path))
    (tmp_path / "recipe.yaml").write_text(written(students=STUDENTS, baselines=[]))
    answers = {"gkd": run.answers["sft"], "gkd_mix": run.answers["base"]}
    like = read_run(str(tmp_path))._replace(answers=answers, groups=None)
    (table,) = (block for block in _verdict_blocks(like) if isinstance(block, Table))
    assert [(row[0].partition("(")[2], row[1]) for row in table.rows] == [
        (f"{name}), {split}", share)
        for name, source in (("gkd", "sft"), ("gkd_mix", "base"))
        for split, label in (("test", "test"), ("out-of-distribution", "ood"))
        for share in [correct(run.answers[source].to_pylist(), label)]
    ]


def correct(rows: list[dict], split: str) -> str:
    verdicts = [row["verdict"] for row in rows if row["split"] == split]
    return f"{100 * verdicts.count('correct') / len(verdicts):.1f}"
