import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.groups import make_completion, make_group, write_store
from support.run_folder import HOSTILE, NUM_COMPLETIONS, NUM_PROBLEMS, SKILL, make_run

from fastdistill_ray.groups.store import Store
from fastdistill_ray.report.examples import sort_of
from fastdistill_ray.report.group_numbers import read_group_numbers
from fastdistill_ray.report.page import Page, Section, Table, Text, to_html, to_markdown
from fastdistill_ray.report.sections import write_report


class Reader(HTMLParser):
    """Tags, attributes that load something, and the text a browser would show."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        loading = ("src", "href", "xlink:href", "data", "srcset", "action")
        self.links += [value or "" for name, value in attrs if name in loading]
        if tag not in ("meta", "br", "img", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


def read_page(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def read_tables(markdown: str) -> dict[str, list[list[str]]]:
    """Every Markdown table below its nearest title, as rows of unescaped cells; checks shape."""
    tables: dict[str, list[list[str]]] = {}
    title = ""
    for line in markdown.splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            plain = [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells]
            tables.setdefault(title, []).append(plain)
    for rows in tables.values():
        assert all(re.fullmatch("-+:?", cell) for cell in rows[1])
        rows.pop(1)
    return tables


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(make_run(tmp_path_factory.mktemp("run") / "synthetic"))
    write_report(str(path))
    return path


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def read_groups(run: Path) -> pa.Table:
    files = sorted((run / "stages/groups/0").glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files])


def test_report_results_tables_show_the_numbers_of_results_json(run: Path) -> None:
    tables = read_tables((run / "report.md").read_text(encoding="utf-8"))
    results = json.loads((run / "results.json").read_text())
    found = {(r["model"], r["split"], r["metric"]): r for r in results["rows"]}
    costs = {cost["model"]: cost for cost in results["costs"]}
    titles = {"test": "Test: 120 problems", "ood": "Out-of-distribution: 120 problems"}
    for split, title in titles.items():
        rows = tables[title][1:]
        assert len(rows) == len(SKILL)
        for model, row in zip(SKILL, rows, strict=True):
            expected = []
            for metric in ("accuracy", "strict_accuracy"):
                numbers = [100 * found[model, split, metric][k] for k in ("value", "low", "high")]
                expected.append("{:.1f} ({:.1f} to {:.1f})".format(*numbers))
            expected.append(f"{100 * found[model, split, 'template_adherence']['value']:.1f}")
            expected.append(f"{found[model, split, 'mean_tokens']['value']:.1f}")
            expected.append(f"{100 * found[model, split, 'truncation_rate']['value']:.1f}")
            cost = costs.get(model, {"trained_tokens": 0, "seconds": 0})
            expected += [f"{cost['trained_tokens']:,}", f"{cost['seconds']:.0f}"]
            assert row[1:] == expected


def test_report_tells_the_share_of_all_the_bases_answers_that_was_cut(run: Path) -> None:
    answers = pq.read_table(run / "stages/answers/base-0/answers.parquet").to_pylist()
    cut = 100 * sum(one["finish_reason"] == "length" for one in answers) / len(answers)
    by_split = [
        sum(one["finish_reason"] == "length" for one in answers if one["split"] == name)
        for name in ("test", "ood")
    ]
    assert by_split[0] != by_split[1], "else one split would do"
    report = (run / "report.md").read_text(encoding="utf-8")
    assert f"over all splits, {cut:.1f} % were cut at the limit" in report


@pytest.mark.parametrize(
    ("verdicts", "dropped", "expected"),
    [
        (["correct", "wrong"], "", "Mixed group"),
        (["correct", "correct"], "", "All correct"),
        (["wrong", "unparsable"], "", "None correct"),
        (["wrong", "wrong"], "too_few_correct", "Dropped"),
    ],
)
def test_example_groups_are_called_what_they_are(
    verdicts: list[str], dropped: str, expected: str
) -> None:
    completions = [make_completion(verdict=one) for one in verdicts]
    group = make_group("p", completions, dropped=dropped)
    assert sort_of(group) == expected


def test_report_differences_table_shows_interval_both_p_and_the_outcome(run: Path) -> None:
    rows = read_tables((run / "report.md").read_text(encoding="utf-8"))["Differences"][1:]
    results = json.loads((run / "results.json").read_text())
    differences, costs = results["differences"], {one["model"]: one for one in results["costs"]}
    assert len(rows) == len(differences) == 16
    shown = {tuple(row[3:]) for row in rows}
    for each in differences:
        low, high = 100 * each["low"], 100 * each["high"]
        word = "yes, better" if each["value"] > 0 else "yes, worse"
        word = word if each["p_holm"] < 0.05 else "no"
        ps = [f"{p:.3f}" if p >= 0.001 else "below 0.001" for p in (each["p"], each["p_holm"])]
        both = [costs.get(each[which]) for which in ("model", "minus")]
        trained = " / ".join(f"{one['trained_tokens']:,}" if one else "\u2013" for one in both)
        others = " / ".join(
            f"{one.get('scored_tokens', 0) + one.get('written_tokens', 0):,}" if one else "\u2013"
            for one in both
        )
        row = (f"{100 * each['value']:+.1f}", f"{low:+.1f} to {high:+.1f}", *ps, word)
        row += (trained, others)
        assert row in shown
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "adjusted for all 8 comparisons by one metric" in text


def test_report_html_and_markdown_hold_the_same_cells(run: Path) -> None:
    words = " ".join(" ".join(read_page((run / "report.html").read_text()).words).split())
    tables = read_tables((run / "report.md").read_text(encoding="utf-8"))
    cells = {cell for rows in tables.values() for row in rows for cell in row if cell}
    assert len(cells) > 200
    for cell in cells:
        plain = cell.replace("&lt;", "<").replace("&gt;", ">")
        assert re.sub(r" \((.* to .*)\)$", r" \1", plain) in words


def test_report_page_loads_nothing_and_runs_its_own_script_alone(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    reader = read_page(text)
    assert not {"link", "iframe", "object", "embed", "img"} & set(reader.tags)
    assert reader.tags.count("script") == 2, "the groups as JSON, and what shows them"
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert reader.links
    assert all(link.startswith("#") for link in reader.links)
    assert not re.search(r"@import|url\((?!#)", text)
    assert reader.tags.count("svg") == 11


def test_report_text_of_models_is_escaped(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert HOSTILE not in text and "</script> &" not in text
    shown = "".join(read_page(text).words)
    assert HOSTILE in shown
    assert "<answer>\\boxed{" in shown
    assert "<script" not in (run / "report.md").read_text(encoding="utf-8")


def test_report_sections_stand_in_the_order_promised(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    titles = re.findall(r"<h2 .*?>(.*?)</h2>", text)
    assert titles == [
        "Results",
        "Differences",
        "Trials",
        "Rewards and groups",
        "Verdicts",
        "Training",
        "Length",
        "Degeneracy",
        "Template adherence",
        "Examples",
        "Groups",
        "Stages",
        "Timeline",
        "Cost",
        "Provenance",
    ]
    assert ">synthetic: distillation report</h1>" in text
    assert "2026-03-01" in text


def test_report_examples_hold_a_gain_over_the_base_and_an_error(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    headings = re.findall(r"<article><h3>(.*?)</h3>", text)
    assert headings.count("Base wrong, AdvDistill right") == 2
    assert headings.count("AdvDistill wrong") == 1
    assert sum("teacher&#x27;s completions" in heading for heading in headings) == 3
    example = text[text.index("Mixed group") :]
    facts = re.findall(r"<span>(\w+) [+-]?\d+\.\d{3}</span>", example.split("</article>")[0])
    assert facts == ["reward", "advantage", "weight", "format"] * NUM_COMPLETIONS


def test_report_groups_table_counts_kept_and_dropped_groups(run: Path) -> None:
    tables = read_tables((run / "report.md").read_text(encoding="utf-8"))
    groups = read_groups(run)["dropped"].to_pylist()
    kept, lost = groups.count(""), groups.count("too_few_correct")
    assert kept + lost == NUM_PROBLEMS["train"]
    shares = [f"{100 * count / len(groups):.1f}" for count in (kept, lost)]
    assert tables["Rewards and groups"][1:] == [
        ["Kept", str(kept), shares[0]],
        ["Dropped: too few correct", str(lost), shares[1]],
    ]


def test_report_says_how_each_score_did_and_how_far_it_sets_a_group_apart(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    (row,) = read_tables(text)["Scores of the teacher's completions"][1:]
    groups = read_groups(run)["completions"].to_pylist()
    given = [[(one["scores"][0]["value"], one["verdict"]) for one in group] for group in groups]
    values = [value for group in given for value, _ in group]
    right = [value for group in given for value, verdict in group if verdict == "correct"]
    others = [value for group in given for value, verdict in group if verdict != "correct"]
    apart = [max(v for v, _ in group) - min(v for v, _ in group) for group in given]
    means = [f"{sum(part) / len(part):.2f}" for part in (values, right, others, apart)]
    assert row == ["format", "1", *means]


def test_report_says_what_packing_saved_and_the_memory_planned(run: Path) -> None:
    tables = read_tables((run / "report.md").read_text(encoding="utf-8"))
    computed = tables["What training computed"][1:]
    steps = NUM_PROBLEMS["train"] // 4 * 2
    shares = [f"{100 * (1 - 1300 / 3700):.1f}", f"{100 * (1 - 1300 / 1400):.1f}"]
    peak = f"{3.0 + 0.01 * steps:.1f}"
    assert len(computed) == 4
    for row in computed:
        assert row[1:] == [f"{900 * steps:,}", f"{1400 * steps:,}", *shares, peak]
    planned = tables["Memory of a rank in GiB, planned and measured"]
    assert planned == [
        ["Student", "Weights", "Activations", "Planned", "Measured", "Measured of planned %"],
        ["HuggingFaceTB/SmolLM2-135M-Instruct", "0.50", "0.75", "1.2", peak, "265.6"],
    ]


def test_report_cost_table_adds_up_all_stages(run: Path) -> None:
    rows = read_tables((run / "report.md").read_text(encoding="utf-8"))["Cost"][1:]
    manifests = [json.loads(file.read_text()) for file in run.rglob("manifest.json")]
    assert [row[0] for row in rows][-1] == "All stages"
    assert {row[0] for row in rows[:-1]} == {manifest["stage"] for manifest in manifests}
    totals = [sum(m[name] for m in manifests) for name in ("seconds", "completion_tokens")]
    assert (rows[-1][1], rows[-1][5]) == (f"{totals[0]:,.1f}", f"{totals[1]:,}")


def test_report_with_prices_has_costs_by_stage_and_in_all(copy: Path) -> None:
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["pools"] |= {"gpu_hour_price": 2.5, "cpu_hour_price": 0.5}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    file = copy / "stages/groups/0/manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"gpu_hours": 4.0}))
    write_report(str(copy))
    text = (copy / "report.md").read_text(encoding="utf-8")
    header, *rows = read_tables(text)["Cost"]
    costs = {row[0]: row[header.index("Cost")] for row in rows}
    assert costs["groups"] == f"{4 * 2.5 + 0.5 * 212 / 3600:.2f}"
    cpu_hours = sum(json.loads(f.read_text())["cpu_hours"] for f in copy.rglob("manifest.json"))
    assert costs["All stages"] == f"{4 * 2.5 + 0.5 * cpu_hours:.2f}"
    assert "Cost is 2.5 per GPU-hour and 0.5 per CPU-hour." in text


def test_report_of_a_dataset_of_the_paper_shows_the_groups_kept_there(copy: Path) -> None:
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["task"]["name"] = "open_s1"
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_report(str(copy))
    rows = read_tables((copy / "report.md").read_text(encoding="utf-8"))["Rewards and groups"]
    assert rows[-1] == ["Kept in the paper (arXiv 2507.00054)", "2,474", ""]


def test_report_of_more_students_and_models_names_them_by_what_they_are(tmp_path: Path) -> None:
    names = {"few": (0.3, 0.9, 60.0), "sft_big": (0.8, 0.9, 40.0), "three": (0.6, 0.9, 40.0)}
    path = Path(make_run(tmp_path / "run", {**SKILL, **names}))
    recipe = yaml.safe_load((path / "recipe.yaml").read_text())
    entry = {"name": "sft_big", "model": "org/big-3B", "group_size": None, "kind": "sft"}
    three = {"name": "three", "model": "", "group_size": 3, "kind": "advdistill"}
    recipe["compare"]["students"] += [entry, three]
    prompt = {"system": "", "shots": [{"question": "q", "answer": "a"}] * 2}
    few = {"name": "few", "model": recipe["student"]["model"], "prompt": prompt}
    recipe["compare"]["baselines"].append(few)
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_report(str(path))
    text = (path / "report.md").read_text(encoding="utf-8")
    assert [row[0] for row in read_tables(text)["Test: 120 problems"][1:]] == [
        "Base student, plain prompt",
        "Base student",
        "Teacher, 4 shots",
        "Base student, 2 shots",
        "SFT on best completion",
        "SFT on best completion, big-3B",
        "AdvDistill, 3 completions",
        "AdvDistill",
    ]
    assert re.search(r"AdvDistill (does not beat|solves)", text.split("## ")[0])
    assert "Base student, 2 shots" in text.split("## ")[0], "measured against the student"


def test_report_shows_accuracy_by_sort_of_problem(copy: Path) -> None:
    results = json.loads((copy / "results.json").read_text())
    row = {"split": "ood", "low": 0.1, "high": 0.3, "num_problems": 40, "num_clusters": 5}
    results["parts"] = [
        {**row, "model": "base", "part": "digit_expansion", "value": 0.2},
        {**row, "model": "advdistill", "part": "digit_expansion", "value": 0.25},
        {**row, "model": "base", "part": "reversing", "value": 0.15},
    ]
    (copy / "results.json").write_text(json.dumps(results))
    write_report(str(copy))
    tables = read_tables((copy / "report.md").read_text(encoding="utf-8"))
    assert tables["Out-of-distribution: accuracy by sort of problem"] == [
        ["Problems", "Number", "Base student %", "AdvDistill %"],
        ["digit expansion", "40", "20.0 (10.0 to 30.0)", "25.0 (10.0 to 30.0)"],
        ["reversing", "40", "15.0 (10.0 to 30.0)", "\u2013"],
    ]


def test_report_says_what_endpoints_were_paid_for_answers_that_are_not_kept(copy: Path) -> None:
    file = copy / "stages/groups/0/manifest.json"
    manifest = json.loads(file.read_text())
    facts = {"cost": 6.0, "teacher_paid": 6.25, "teacher_answers_untold": 3, "judge_paid": 0.5}
    file.write_text(json.dumps({**manifest, "facts": facts}))
    write_report(str(copy))
    text = " ".join((copy / "report.md").read_text(encoding="utf-8").split())
    assert (
        "Teachers behind endpoints were paid 6.2500 in all, of which 0.2500 for answers that are "
        "not kept. 3 of their answers broke off or did not tell their usage; what those cost is in "
        "no figure here. Judges behind endpoints were paid 0.5000 in all." in text
    )


def test_report_says_that_the_chosen_trial_looks_better_than_it_is(copy: Path) -> None:
    said = "The best of 4 trials on 24 problems looks better there than it is"
    assert said in (copy / "report.md").read_text(encoding="utf-8")
    trials = json.loads((copy / "choose.json").read_text())["trials"]
    alone = [{**trial, "validation_accuracy": None} for trial in trials if trial["chosen"]]
    (copy / "choose.json").write_text(json.dumps({"trials": alone}))
    write_report(str(copy))
    assert "looks better" not in (copy / "report.md").read_text(encoding="utf-8")


def test_report_of_several_seeds_lists_each_and_names_its_training(copy: Path) -> None:
    graph = json.loads((copy / "graph.json").read_text())
    named = {
        f"{name}-seed_{seed}": folder if seed == 0 else folder.replace("-0", "-1")
        for name, folder in graph.items()
        if name.startswith("train/")
        for seed in (0, 3)
    }
    for name, folder in named.items():
        if name.endswith("seed_3"):
            shutil.copytree(copy / graph[name.removesuffix("-seed_3")], copy / folder)
    others = {name: folder for name, folder in graph.items() if not name.startswith("train/")}
    (copy / "graph.json").write_text(json.dumps(others | named))
    trials = json.loads((copy / "choose.json").read_text())["trials"]
    seeded = [
        {**trial, "seed": seed, "mean_accuracy": 0.625} for trial in trials for seed in (0, 3)
    ]
    (copy / "choose.json").write_text(json.dumps({"trials": seeded}))
    results = json.loads((copy / "results.json").read_text())
    row = {"low": 0.1, "high": 0.3, "num_problems": 40, "num_clusters": 40, "model": "advdistill"}
    results["seeds"] = [
        {**row, "split": "test", "seed": 0, "value": 0.2},
        {**row, "split": "ood", "seed": 0, "value": 0.15},
        {**row, "split": "test", "seed": 3, "value": 0.25},
    ]
    (copy / "results.json").write_text(json.dumps(results))
    write_report(str(copy))
    text = (copy / "report.md").read_text(encoding="utf-8")
    tables = read_tables(text)
    assert tables["Each seed's accuracy"] == [
        ["Model", "Seed", "Test %", "Out-of-distribution %"],
        ["AdvDistill", "0", "20.0 (10.0 to 30.0)", "15.0 (10.0 to 30.0)"],
        ["AdvDistill", "3", "25.0 (10.0 to 30.0)", "\u2013"],
    ]
    assert "the mean of its 2 trainings" in text
    assert [[*row[1:4], row[5]] for row in tables["Trials"][:3]] == [
        ["Learning rate", "Seed", "Epochs", "Mean over seeds %"],
        ["2e-05", "0", "1", "62.5"],
        ["2e-05", "3", "1", "62.5"],
    ]
    assert "best of 4 trials" in text
    names = [row[0] for row in tables["What training computed"][1:]]
    assert "AdvDistill, 5e-05, seed 3" in names and len(names) == 8


def test_report_says_where_problems_are_clustered(copy: Path) -> None:
    assert "cluster" not in (copy / "report.md").read_text(encoding="utf-8").split("## Differ")[0]
    results = json.loads((copy / "results.json").read_text())
    for row in results["rows"]:
        row |= {"num_clusters": 15} if row["split"] == "ood" else {}
    (copy / "results.json").write_text(json.dumps(results))
    write_report(str(copy))
    text = (copy / "report.md").read_text(encoding="utf-8")
    assert "Out-of-distribution: 120 problems in 15 clusters" in text
    assert "Test: 120 problems\n" in text
    assert "A cluster is the variants of one question" in text


def test_report_of_results_by_an_older_version_says_in_a_line_what_to_do(copy: Path) -> None:
    results = json.loads((copy / "results.json").read_text())
    del results["differences"][0]["p"]
    (copy / "results.json").write_text(json.dumps(results))
    with pytest.raises(
        ValueError, match=r"results\.json: no 'p' in it, .*run fastdistill evaluate"
    ):
        write_report(str(copy))


def test_report_says_that_pools_of_several_sizes_are_counted_at_their_largest(copy: Path) -> None:
    said = "Pools of several sizes are counted at their largest."
    assert said not in (copy / "report.md").read_text(encoding="utf-8")
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["pools"]["teachers"] = [{**recipe["pools"]["teacher"], "min_workers": 1, "workers": 3}]
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_report(str(copy))
    assert said in (copy / "report.md").read_text(encoding="utf-8")


def test_report_two_teachers_stand_beside_what_each_was_paid(copy: Path) -> None:
    assert "Teacher" not in read_tables((copy / "report.md").read_text())["Cost"][0]
    groups = read_groups(copy).to_pylist()
    for row in groups[:24]:
        row |= {"teacher": "served", "cost": 0.25}
    shutil.rmtree(copy / "stages/groups/0")
    write_store(copy / "stages/groups/0", groups)
    write_report(str(copy))
    text = (copy / "report.md").read_text(encoding="utf-8")
    for name in ("served", "smollm2-135m-instruct"):
        mine = [row for row in groups if row["teacher"] == name]
        completions = [one for row in mine for one in row["completions"]]
        correct = sum(one["verdict"] == "correct" for one in completions)
        numbers = [
            f"{len(mine):,}",
            f"{len(completions):,}",
            f"{100 * correct / len(completions):.1f}",
            f"{300 * len(mine):,}",
            f"{sum(one['num_tokens'] for one in completions):,}",
            f"{0.25 * len(mine) * (name == 'served'):,.4f}",
        ]
        assert f"| {name} | {' | '.join(numbers)} |" in text


def test_report_model_of_equal_weights_is_called_prompt_distillation(run: Path) -> None:
    sentence = "Teacher and base are the same weights: this is prompt distillation."
    for name in ("report.html", "report.md"):
        assert sentence in (run / name).read_text(encoding="utf-8")


def test_report_other_teacher_is_not_called_prompt_distillation(copy: Path) -> None:
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["teacher"]["model"] = "org/larger"
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = Path(write_report(str(copy))).read_text(encoding="utf-8")
    assert "prompt distillation" not in text


def test_report_timeline_of_an_overlapped_run_says_how_long_both_took(copy: Path) -> None:
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["training"]["overlap"] = True
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    store = Store(copy / "stages/groups/0")
    *early, last = store.commits()
    early = (early * 11)[:11]
    times = [one._replace(keys=["a"], time=1000.0 + 60 * i) for i, one in enumerate(early)]
    merged = last._replace(keys=["b", "c"], parts=[("x", 1, 1620.0), ("y", 1, 1640.0)])
    store.rewrite_log([*times, merged])
    steps = [{"step": i, "time": 1090.0 + 60 * i} for i in range(12)]
    training = min((copy / "stages/train").glob("advdistill-*"))
    write_lines(training / "steps.jsonl", steps)
    first, *others = map(json.loads, (training / "metrics.jsonl").read_text().splitlines())
    write_lines(training / "metrics.jsonl", [{**first, "time/step": 30.0}, *others])
    text = Path(write_report(str(copy))).with_suffix(".md").read_text(encoding="utf-8")
    assert (
        "Generation took 10.7 minutes, training 11.5, side by side 12.5: 1.09 times the longer."
    ) in text
    assert 'aria-label="timeline"' in (copy / "report.html").read_text(encoding="utf-8")


def write_lines(file: Path, lines: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_report_same_run_twice_gives_the_same_page(copy: Path, run: Path) -> None:
    write_report(str(copy))
    assert (copy / "report.html").read_bytes() == (run / "report.html").read_bytes()


@pytest.mark.parametrize(
    "missing",
    [
        ["results.json"],
        ["choose.json", "stages/answers/advdistill-0/answers.parquet", "versions.json"],
        ["stages/groups"],
        ["stages/train"],
        ["stages/answers"],
        ["graph.json"],
        ["stages"],
    ],
)
def test_report_missing_parts_are_left_out(copy: Path, missing: list[str]) -> None:
    for path in (copy / name for name in missing):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = Path(write_report(str(copy))).read_text(encoding="utf-8")
    read_page(text)
    read_tables((copy / "report.md").read_text(encoding="utf-8"))


def test_report_without_ood_and_sft_shows_the_rest(copy: Path) -> None:
    results = json.loads((copy / "results.json").read_text())
    keep = [r for r in results["rows"] if r["split"] == "test" and r["model"] != "sft"]
    gaps = [r for r in results["differences"] if r["split"] == "test" and r["minus"] != "sft"]
    (copy / "results.json").write_text(json.dumps({"rows": keep, "differences": gaps, "costs": []}))
    (copy / "stages/answers/sft-0/answers.parquet").unlink()
    write_report(str(copy))
    text = (copy / "report.md").read_text(encoding="utf-8")
    tables = read_tables(text)
    assert len(tables["Test: 120 problems"]) == len(SKILL)
    assert "Out-of-distribution: 120 problems" not in tables
    assert "SFT baseline" not in text


def test_report_model_without_a_correct_answer_is_shown(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", {**SKILL, "base": (0.0, 0.0, 90.0), "sft": (1.0, 1.0, 40.0)})
    write_report(path)
    tables = read_tables((tmp_path / "run" / "report.md").read_text(encoding="utf-8"))
    ratios = {(row[0], row[1]): row[-1] for row in tables["Length"]}
    assert ratios["Base student", "Test"] == "\u2013"
    assert ratios["AdvDistill", "Test"] != "\u2013"


def test_report_folder_without_a_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no recipe\.yaml"):
        write_report(str(tmp_path))


def test_report_torn_metrics_line_is_named(copy: Path) -> None:
    file = next(copy.rglob("metrics.jsonl"))
    file.write_text('{"step": 1, "train/loss": 1.0}\n{"step": 2, "tr')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not JSON"):
        write_report(str(copy))


def test_group_numbers_equal_those_read_row_by_row(run: Path) -> None:
    folder = run / "stages/groups/0"
    numbers = read_group_numbers(folder)
    groups = read_groups(run).to_pylist()
    completions = [(group, c) for group in groups for c in group["completions"]]
    assert numbers is not None
    assert numbers.rewards.tolist() == [c["reward"] for _, c in completions]
    assert numbers.advantages.tolist() == [c["advantage"] for _, c in completions]
    assert numbers.num_tokens.tolist() == [c["num_tokens"] for _, c in completions]
    assert numbers.is_correct.tolist() == [c["verdict"] == "correct" for _, c in completions]
    assert numbers.is_kept.tolist() == [group["dropped"] == "" for group, _ in completions]
    counts = [sum(c["verdict"] == "correct" for c in g["completions"]) for g in groups]
    assert numbers.num_correct.tolist() == counts
    assert set(numbers.sizes.tolist()) == {NUM_COMPLETIONS}


def test_page_markdown_cell_with_pipe_and_line_break_stays_one_cell() -> None:
    table = Table(["a|b", "n"], [["x | y\n`z` <b>", "1.0"]])
    page = Page("t", "", [], [Section("S", [table]), Section("Empty", [])])
    rows = read_tables(to_markdown(page))["S"]
    assert rows == [["a|b", "n"], ["x | y `z` &lt;b&gt;", "1.0"]]
    assert "Empty" not in to_markdown(page) + to_html(page)


def test_page_html_escapes_every_kind_of_text() -> None:
    evil = "<b onload='x'>&\"</b>"
    table = Table([evil], [[evil]], caption=evil, title=evil)
    reader = read_page(to_html(Page(evil, evil, [evil], [Section(evil, [table, Text(evil)])])))
    assert "b" not in reader.tags
    assert "".join(reader.words).count(evil) == 11


def test_report_import_needs_no_torch_ray_or_vllm() -> None:
    code = (
        "import sys, fastdistill_ray.report.sections\n"
        "print([name for name in ('torch', 'ray', 'vllm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
