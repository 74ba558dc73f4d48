"""Does lm-evaluation-harness find the accuracies that a run's report has?

    python -m benchmarks.lm_eval export RUN --out FOLDER [--split test] [--most 200]
    fastdistill serve RUN --port=8000             # or vLLM with another model of the run
    cd FOLDER && ...                              # the command that export printed
    python -m benchmarks.lm_eval compare RUN MODEL FOLDER/out [--json FILE]

`export` writes the problems of a run as problems.jsonl beside problems.yaml, a task of the harness,
and prints the harness' command: the student's system text, the evaluation's token limit, greedy.
`compare` reads the samples that the harness logged (the newest file below the folder) and lays them
beside the run's own answers of the model: both accuracies with Wilson's 95 % interval, and on how
many problems both say the same. The harness needs an environment of its own:
`pip install "lm-eval[api]"`.
"""

import argparse
import json
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import make_parser, print_rows, write_json
from fastdistill_ray.evaluation.statistics import wilson
from fastdistill_ray.run_files import ANSWERS, RECIPE, stage_folders
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet

TASK, PROBLEMS, OUT = "fastdistill_problems", "problems.jsonl", "out"
# What the harness counts by -> the verdict of ours next to it; a strict one takes more than boxes.
ALIKE = {"boxed": "verdict", "last_number": "lenient_verdict"}


def export(run: Place, split: str, most: int, out: Path) -> str:
    """Writes the folder; -> the command of the harness."""
    out.mkdir(parents=True, exist_ok=True)
    rows = read_parquet(stage_folders(run)["problems"] / f"{split}.parquet").to_pylist()
    kept = [{name: row[name] for name in ("problem_id", "question", "reference")} for row in rows]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept[: most or None]]
    (out / PROBLEMS).write_text("".join(lines), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("problems.yaml"), out)
    recipe = yaml.safe_load((run / RECIPE).read_text())
    model, length = f"{recipe['name']}-STUDENT", recipe["evaluation"]["max_new_tokens"]
    asked = f"model={model},base_url=http://127.0.0.1:8000/v1/chat/completions,num_concurrent=16"
    command = ["lm_eval", "run", "--model", "local-chat-completions", "--model_args", asked]
    command += ["--tasks", TASK, "--include_path", ".", "--apply_chat_template"]
    command += ["--system_instruction", recipe["student"]["prompt"]["system"]]
    command += ["--gen_kwargs", f"max_gen_toks={length}", "--log_samples", "--output_path", OUT]
    return shlex.join(command)


def compare(run: Place, model: str, samples: Path) -> list[dict[str, Any]]:
    """A row for each rule by which the harness counts."""
    files = sorted(samples.rglob(f"samples_{TASK}_*.jsonl"), key=lambda file: file.stat().st_mtime)
    theirs = [json.loads(line) for line in files[-1].read_text(encoding="utf-8").splitlines()]
    table = read_parquet(stage_folders(run)[f"answers/{model}"] / ANSWERS)
    ours = {row["problem_id"]: row for row in table.to_pylist()}
    return [
        compared(rule, verdict, [one for one in theirs if one["filter"] == rule], ours)
        for rule, verdict in ALIKE.items()
    ]


def compared(
    rule: str, verdict: str, theirs: list[dict[str, Any]], ours: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    pairs = [(one, ours[one["doc"]["problem_id"]]) for one in theirs]
    both = Counter((bool(one["exact_match"]), own[verdict] == "correct") for one, own in pairs)
    texts = [one["resps"][0][0].strip() == own["text"].strip() for one, own in pairs]
    apart = [
        {
            "problem_id": own["problem_id"],
            "reference": own["reference"],
            "theirs": one["filtered_resps"][0],
            "ours": own["lenient_answer" if verdict == "lenient_verdict" else "answer"],
            "same_text": same,
            "text": own["text"],
        }
        for (one, own), same in zip(pairs, texts, strict=True)
        if bool(one["exact_match"]) != (own[verdict] == "correct")
    ]
    return {
        "rule": rule,
        "verdict": verdict,
        "problems": len(pairs),
        "theirs": percent(sum(them for them, _ in both.elements()), len(pairs)),
        "ours": percent(sum(us for _, us in both.elements()), len(pairs)),
        "agree": both[True, True] + both[False, False],
        "only_theirs": both[True, False],
        "only_ours": both[False, True],
        "equal_texts": sum(texts),
        "agree_on_equal_texts": sum(texts) - sum(one["same_text"] for one in apart),
        "apart": apart,
    }


def percent(successes: int, trials: int) -> str:
    found = wilson(successes, trials)
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def main() -> None:
    parser = make_parser(__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("export")
    one.add_argument("run")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--split", default="test")
    one.add_argument("--most", type=int, default=0, help="problems; 0: all")
    other = verbs.add_parser("compare")
    other.add_argument("run")
    other.add_argument("model", help="its name in the report: base, advdistill")
    other.add_argument("samples", type=Path)
    other.add_argument("--json", default=argparse.SUPPRESS, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.verb == "export":
        print(export(Place(arguments.run), arguments.split, arguments.most, arguments.out))
        return
    rows = compare(Place(arguments.run), arguments.model, arguments.samples)
    print_rows({name: value for name, value in row.items() if name != "apart"} for row in rows)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
