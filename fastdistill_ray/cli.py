"""`fastdistill <verb>`: the jobs from the command line, checked first, then submitted to Ray.

Each verb imports what it needs: help, score and a wrong recipe load neither torch, Ray nor vLLM.
"""

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from fastdistill_ray.cli_hand_over import add_hand_over
from fastdistill_ray.cli_words import add_words
from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.room import explain, refusal

DISTILLING = {
    "distill": "the whole recipe: groups, students, evaluation, report",
    "generate": "the teacher's judged and weighted groups",
    "train": "the students, from a run's groups",
    "evaluate": "baselines and students on the test problems",
}
OTHERS = {
    "box": "a teacher's tools: extracted, tested, and given to a student that is not trained",
    "condense": "a few points or texts in place of many labelled ones, and learners of both",
}
JOBS = DISTILLING | OTHERS
WITH_MORE = "score", "show", "validate", "init", "serve"  # that look at further arguments


def main(argv: list[str] | None = None) -> int:
    parser, arguments = build_parser(), argparse.Namespace()
    try:
        arguments, overrides = parser.parse_known_args(argv)
        if arguments.verb not in (*JOBS, *WITH_MORE) and overrides:
            raise UserError(f"unknown argument {overrides[0]}; see fastdistill --help")
        return arguments.run(arguments, overrides)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        refused = refusal(error)
        if refused is None:
            raise
        print(f"error: {explain(refused, Place(_written_by(arguments)))}", file=sys.stderr)
        return 1


def _written_by(arguments: argparse.Namespace) -> str:
    """The file or folder that the verb writes."""
    given = vars(arguments)
    named = given.get("output") or given.get("run_dir") or given.get("source") or "runs"
    return named if isinstance(named, str) else named[0]


class Parser(argparse.ArgumentParser):
    """Its error is a line as any other."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


class Version(argparse.Action):
    """Looked up when it is asked for: a checkout that is not installed has none."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"{parser.prog} {version('fastdistill_ray')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fastdistill",
        description="Distil a teacher into a better small student on a Ray cluster.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="the package's")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in JOBS.items():
        _add_job(verbs.add_parser, verb, text)
    _add_pages(verbs.add_parser)
    score = verbs.add_parser(
        "score",
        help="judge a JSONL file of responses, or a run's completions under another recipe",
        description="Judges a file of responses; or judges, rewards and selects the completions of "
        "a run again, beside what the run has: the teacher is not asked.",
        epilog="A run's recipe, or the one of --recipe, can be changed: --section.field=value.",
        allow_abbrev=False,
    )
    score.add_argument("source", metavar="FILE.jsonl|RUN_DIR")
    score.add_argument("--output", default="", metavar="OUT.jsonl", help="of a file; must be given")
    score.add_argument("--recipe", default="", help="its reward, advantage, objective.tau (a file)")
    score.set_defaults(run=run_score)
    _add_watching(verbs.add_parser)
    add_hand_over(verbs.add_parser)
    add_words(verbs.add_parser)
    return parser


def _add_watching(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Verbs that only look at a run folder."""
    attach = add_parser(
        "attach", help="what the job that writes a run folder says, from now on until it ends"
    )
    attach.add_argument("run_dir", metavar="RUN_DIR")
    attach.set_defaults(run=run_attach)
    status = add_parser(
        "status", help="who writes a run folder, where each stage stands, and how it goes on"
    )
    status.add_argument("run_dir", metavar="RUN_DIR")
    status.set_defaults(run=run_status)
    fsck = add_parser(
        "fsck",
        help="whether the files of a run folder are as they were written",
        description="Reads every file of a run and names what is missing, torn or altered; exit "
        "code 1 where anything is. Changes nothing: what is damaged is made again when the run is "
        "started again.",
    )
    fsck.add_argument("run_dir", metavar="RUN_DIR")
    fsck.set_defaults(run=run_fsck)


def _add_pages(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Verbs that write a page of what runs hold."""
    report = add_parser(
        "report",
        help="report.html and report.md of a run folder",
        description="A folder is a run's, then its last recipe is shown, or RUN_DIR/recipes/ID of "
        "a recipe that was run there before.",
    )
    report.add_argument("run_dir", metavar="RUN_DIR")
    report.set_defaults(run=run_report)
    compare = add_parser(
        "compare",
        help="several runs, or recipes of one, on one page, with the differences to the first",
        description="Differences are paired where the runs answered the same problems. A folder is "
        "a run's, then its last recipe is shown, or RUN_DIR/recipes/ID.",
    )
    compare.add_argument("run_dir", metavar="RUN_DIR", nargs="+")
    compare.add_argument(
        "--output", default="", help="the page (default: compare.html in the first)"
    )
    compare.set_defaults(run=run_compare)
    audit = add_parser("audit", help="a page of judged completions, some of each verdict")
    audit.add_argument("source", metavar="RUN_DIR|FILE.jsonl", help="a file that score has judged")
    audit.add_argument("--output", default="", help="the page (default: audit.html beside it)")
    audit.add_argument("--per-verdict", type=int, default=8, help="completions shown of each")
    audit.add_argument("--seed", type=int, default=0, help="of the choice")
    audit.set_defaults(run=run_audit)


def _add_job(add_parser: Callable[..., argparse.ArgumentParser], verb: str, text: str) -> None:
    of_job = f" --job {verb}" if verb in OTHERS else ""
    job = add_parser(
        verb,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"Any field of the recipe: --section.field=value; see `fastdistill fields{of_job}`. "
        "--quick puts the recipe's own section quick over the others.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    job.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped one such as gsm8k"
    )
    job.add_argument("--run-dir", default="", help="the run's folder (default: runs/<name>)")
    job.add_argument(
        "--address",
        default="",
        help="of a Ray dashboard (default: $RAY_ADDRESS, else your head on this machine, else one "
        "for the time of this job)",
    )
    job.add_argument(
        "--env",
        action="append",
        metavar="NAME",
        default=[],
        help="a variable of this terminal, such as HF_TOKEN, that the job gets too; who may see "
        "the job in Ray's dashboard sees it",
    )
    job.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    job.set_defaults(run=run_job, again=[])
    if verb in OTHERS:
        return
    job.add_argument(
        "--again",
        action="append",
        choices=["groups", "answers", "set_aside"],
        default=[],
        help="groups: ask the teacher although groups of this run are paid for; answers: ask a "
        "server for answers to test problems although such are; set_aside: ask for what no engine "
        "would answer",
    )


def run_job(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from fastdistill_ray.recipe.loading import load_shape
    from fastdistill_ray.recipe.shapes import shape_of
    from fastdistill_ray.run.forecast import REFUSED
    from fastdistill_ray.run.launch import launch, plan, variables_of

    _check_flags(overrides)
    recipe = load_shape(arguments.recipe, overrides, shape_of(arguments.verb))
    run_dir, address, variables = arguments.run_dir, arguments.address, variables_of(arguments.env)
    if arguments.dry_run:
        text = plan(recipe, run_dir, address, arguments.verb, arguments.again)
        print(text)
        return 2 if f"\n{REFUSED} " in text else 0
    return launch(arguments.verb, recipe, run_dir, address, arguments.again, variables)


def _check_flags(overrides: list[str]) -> None:
    """--run_dir is --run-dir: argparse hands on what it does not know."""
    for override in overrides:
        flag = override.partition("=")[0].replace("_", "-")
        if flag in ("--run-dir", "--address", "--dry-run", "--again", "--env"):
            raise UserError(f"unknown argument {override}; did you mean {flag}?")


def run_report(arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.recipe.shapes import check_run_of_distill
    from fastdistill_ray.report.sections import write_report

    check_run_of_distill(arguments.run_dir)
    print(write_report(arguments.run_dir))
    return 0


def run_compare(arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.recipe.shapes import check_run_of_distill
    from fastdistill_ray.report.comparison import write_comparison

    if len(arguments.run_dir) < 2:
        raise UserError("compare: name two runs or more")
    for run_dir in arguments.run_dir:
        check_run_of_distill(run_dir)
    print(write_comparison(arguments.run_dir, arguments.output))
    return 0


def run_score(arguments: argparse.Namespace, overrides: list[str]) -> int:
    if Path(arguments.source).is_dir():
        return _score_run(arguments, overrides)
    for field, value in (("FILE.jsonl", arguments.source), ("--output", arguments.output)):
        if "://" in value:
            raise UserError(f"{field} {value}: score reads and writes files of this machine")
    if not Path(arguments.source).exists():
        raise UserError(f"score {arguments.source}: no such file and no such run folder")
    from fastdistill_ray.objectives import AdvDistill
    from fastdistill_ray.rewards import RewardKnobs
    from fastdistill_ray.rewards.advantages import AdvantageKnobs
    from fastdistill_ray.rewards.score_file import score_file

    if not arguments.output:
        raise UserError("--output: name the file that the judged lines are written to")
    reward, advantage, tau = RewardKnobs(), AdvantageKnobs(), AdvDistill().tau
    if arguments.recipe:
        from fastdistill_ray.recipe.loading import load_recipe

        recipe = load_recipe(arguments.recipe, overrides)
        reward, advantage = recipe.reward, recipe.advantage
        tau = recipe.objective.tau if isinstance(recipe.objective, AdvDistill) else tau
    elif overrides:
        raise UserError(f"{overrides[0]}: name the recipe it changes with --recipe")
    summary = score_file(
        arguments.source, arguments.output, reward=reward, advantage=advantage, tau=tau
    )
    counts = ", ".join(f"{verdict} {count}" for verdict, count in summary.verdicts.items())
    print(f"{summary.num_lines} lines, {summary.num_responses} responses: {counts}")
    return 0


def _score_run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from fastdistill_ray.run.rescoring import next_step, rescore_run, summary

    if arguments.recipe:
        raise UserError("--recipe: a run has its own; change it with --section.field=value")
    if arguments.output:
        raise UserError("--output: a run's groups are made in the run itself; leave it out")
    run, groups = rescore_run(arguments.source, overrides)
    print(f"{summary(groups)}\nnext: {next_step(run, groups)}")
    return 0


def run_audit(arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.recipe.shapes import check_run_of_distill
    from fastdistill_ray.report.audit import write_audit

    if Path(arguments.source).is_dir():
        check_run_of_distill(arguments.source)
    if arguments.per_verdict < 1:
        raise UserError(f"--per-verdict: {arguments.per_verdict}, expected 1 or more")
    page, shares = write_audit(
        arguments.source, arguments.output, arguments.per_verdict, arguments.seed
    )
    print(f"{shares}\n{page}")
    return 0


def run_attach(arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.run.folder import place_of_run
    from fastdistill_ray.run.launch import use_token
    from fastdistill_ray.run.lease import holder

    note = holder(place_of_run(arguments.run_dir))
    if note is None:
        raise UserError(f"attach {arguments.run_dir}: no driver writes it")
    if not note.job:
        raise UserError(f"attach {arguments.run_dir}: {note} writes it and is no Ray job")
    print(f"{note} writes it", file=sys.stderr)
    use_token()
    from fastdistill_ray.run.submission import follow

    return follow(note.dashboard, note.job)


def run_status(arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.run.status import status

    print(status(arguments.run_dir))
    return 0


def run_fsck(arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.run.fsck import fsck

    checked = fsck(arguments.run_dir)
    for fault in checked.faults:
        print(fault)
    found = f"{len(checked.faults)} faults" if checked.faults else "nothing is damaged"
    print(f"{checked.num_stages} stages, {checked.num_files} files: {found}")
    return 1 if checked.faults else 0


if __name__ == "__main__":
    sys.exit(main())
