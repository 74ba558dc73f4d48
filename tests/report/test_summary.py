import json
from pathlib import Path

from support.run_folder import make_run

from fastdistill_ray.report.summary import summary


def test_accuracies_and_where_the_student_is_in_a_few_lines(tmp_path: Path) -> None:
    run = Path(make_run(str(tmp_path / "run")))
    assert "serve" not in summary(str(run)), "there is no folder of a student yet"
    student = run / "students" / "advdistill"
    student.mkdir(parents=True)
    table, places = summary(str(run)).split("\n\n")
    header, *rows = table.splitlines()
    assert header.split()[-2:] == ["test", "out-of-distribution"]
    for row in json.loads((run / "results.json").read_text())["rows"]:
        if (row["metric"], row["model"]) == ("accuracy", "advdistill"):
            (line,) = [line for line in rows if line.startswith("AdvDistill ")]
            assert f"{100 * row['value']:.1f} % ({100 * row['low']:.1f} to " in line
    assert places.splitlines() == [
        "trained  on 49 of 64 training problems; the report says why not on the others",
        f"report   {run / 'report.html'}",
        f"student  {student}",
        f"next     fastdistill serve {run}",
    ]


def test_columns_of_the_table_are_aligned(tmp_path: Path) -> None:
    table = summary(make_run(str(tmp_path / "run"))).split("\n\n")[0].splitlines()
    start = table[0].index("test")
    assert all(line[start - 1] == " " != line[start] for line in table)
