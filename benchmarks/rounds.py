"""Where the time of an on-policy round goes: writing, the teacher, training, handing over.

    python -m benchmarks.rounds RUN_DIR [--student opd] [--json FILE]

Of a run whose student writes its own texts with staleness 0, from what its training noted; the
first round, in which engines start, is left out. `writing` is from the moment a student is handed
over to the commit of the last text of its round: a seat at the engine, loading the weights,
drawing, judging, writing the file. `teacher` and `training` are of the updates, `handing over` the
export of the student, `other` all that is left: reading the texts into a step, noting it.
"""

import json
from typing import Any

from benchmarks.harness import make_parser, print_rows, write_json
from fastdistill_ray.groups.store import Store
from fastdistill_ray.run_files import METRICS, STEPS, stage_folders
from fastdistill_ray.storage.place import Place


def measure(training: Place) -> dict[str, float]:
    """Mean seconds of a round, by what they are spent on."""
    metrics = _lines(training / METRICS)
    ends = [line["time"] for line in _lines(training / STEPS)]
    versions = [round(line["rounds/version"]) for line in metrics]
    steps = versions.count(0)  # updates of a round
    if any(version != place // steps for place, version in enumerate(versions)):
        raise SystemExit(f"{training}: written with a staleness above 0; its phases overlap")
    trained = {key: line["step"] for line in _lines(training / STEPS) for key in line["group_ids"]}
    written: dict[int, float] = {}
    for commit in Store(training / "groups").commits():
        for key in set(commit.keys) & set(trained):
            written[trained[key] // steps] = commit.time
    rounds = range(1, len(metrics) // steps)
    found: dict[str, float] = dict.fromkeys(("writing", "teacher", "training", "handing over"), 0.0)
    for number in rounds:
        lines = metrics[number * steps : (number + 1) * steps]
        found["writing"] += written[number] - ends[number * steps - 1]
        found["teacher"] += sum(line["time/frozen"] for line in lines)
        found["training"] += sum(line["time/step"] - line["time/frozen"] for line in lines)
        found["handing over"] += sum(line["time/publish"] for line in lines)
    wall = ends[rounds[-1] * steps + steps - 1] - ends[steps - 1]
    found["other"] = wall - sum(found.values())
    return {name: value / len(rounds) for name, value in found.items()}


def _lines(file: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--student", default="opd", help="its name in the recipe")
    arguments = parser.parse_args()
    folders = stage_folders(Place(arguments.run_dir))
    own = [one for name, one in folders.items() if name.startswith(f"train/{arguments.student}-")]
    if not own:
        parser.error(f"{arguments.run_dir}: no training of {arguments.student}")
    found = measure(own[0])
    whole = sum(found.values())
    rows = [
        {"phase": name, "seconds": f"{value:.2f}", "share": f"{value / whole:.1%}"}
        for name, value in {**found, "round": whole}.items()
    ]
    print_rows(rows)
    beyond = (found["handing over"] + found["other"]) / whole
    print(f"\nbeyond writing, teacher and training: {beyond:.1%} of a round")
    write_json(arguments.json, found)


if __name__ == "__main__":
    main()
