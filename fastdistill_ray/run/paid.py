"""What a teacher was paid for already, and how much of it serves a recipe.

The teachers, what they are asked and how they sample decide what completions are (`PAID`); the
problems decide which are needed; everything else is judged and selected again for nothing.
"""

from collections.abc import Sequence

from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import EndpointKnobs, TeacherKnobs
from fastdistill_ray.groups.aside import set_aside
from fastdistill_ray.groups.reweighting import Source
from fastdistill_ray.groups.store import Store
from fastdistill_ray.progress import amount, duration
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.recipe.derived import all_teachers, baselines
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.graph import Change, Made, Stage, changes, differences, find, made
from fastdistill_ray.run.stages import NEW_TEXTS, PAID, PROBLEMS, SELECTED, TRAIN, Stages
from fastdistill_ray.run_files import MANIFEST, METRICS, SECONDS, read_json
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile

AGAIN, ANSWERED, SET_ASIDE = "groups", "answers", "set_aside"  # what --again may name

LETTERS, QUESTION = 3, 300  # of a token, where numbers stand among the words; of a question


def sources_of(run: Place, groups: Stage) -> list[Source]:
    """Other stores of the run whose completions were asked for as this stage's are."""
    asked, judged = asked_part(groups), groups.without_input(PROBLEMS)
    own = find(run, groups)
    found = []
    for one in made(run, groups.kind):
        if (own and one.folder == own.folder) or changes(asked, one.dependencies):
            continue
        if changes(judged.only("reward"), one.dependencies):
            found.append(Source(one.folder, "judgements"))
        elif changes(judged.only("advantage", "selection"), one.dependencies):
            found.append(Source(one.folder, "selection"))
        else:
            found.append(Source(one.folder, "nothing"))
    return sorted(found, key=lambda source: source.renew != "nothing")


def ask_set_aside_again(run: Place, groups: Stage) -> None:
    """The complete stage is complete no longer where it set problems aside; UserError where
    something was made of it, which has not seen them."""
    found = find(run, groups)
    if found is None or not found.is_complete or not set_aside(Store(found.folder)):
        return
    users = [
        one.folder.relative_to(run)
        for kind in (TRAIN, SELECTED)
        for one in made(run, kind)
        if one.dependencies.get("inputs", {}).get("groups") == found.folder.name
    ]
    if users:
        raise UserError(
            f"--again {SET_ASIDE}: {users[0]} was made without these problems; choose another "
            "--run-dir"
        )
    (found.folder / MANIFEST).unlink()


def is_followed(run: Place, groups: Stage, recipe: Recipe) -> bool:
    """Whether a training that follows the stage as it is written has made a step: what is judged
    by then stays as it is."""
    place = find(run, groups)
    return recipe.training.overlap and any(
        (one.folder / METRICS).is_file() and (one.folder / METRICS).size() > 0
        for one in made(run, TRAIN)
        if place and one.dependencies.get("inputs", {}).get("groups") == place.folder.name
    )


def asked_part(groups: Stage) -> Stage:
    """What decides a completion: who is asked for it, and how."""
    return groups.without_input(PROBLEMS).only(*PAID)


def check_not_paid_twice(
    run: Place, groups: Stage, recipe: Recipe, num_problems: int, again: list[str]
) -> None:
    """UserError where a teacher would be asked anew although groups are paid for in this run."""
    if AGAIN in again or find(run, groups) or sources_of(run, groups):
        return
    paid = [one for one in made(run, groups.kind) if paid_tokens(one)]
    if not paid:
        return
    near, found = min(
        ((one, changes(asked_part(groups), one.dependencies)) for one in paid),
        key=lambda pair: len(pair[1]),
    )
    there = near.folder.relative_to(run)
    raise UserError(
        f"{found[0]}{_and_more(found)}: the teacher would be asked again, "
        f"{cost(recipe, num_problems)}; {paid_tokens(near):,} tokens in {there} are paid for"
        f"{_seconds(near)}. To ask again beside them: --again {AGAIN}; else take the change back, "
        "or choose another --run-dir"
    )


def check_answers_not_paid_twice(
    run: Place, recipe: Recipe, tests: list[ProblemFile], again: list[str]
) -> None:
    """UserError where a server would answer all test problems anew although answers of it to such
    are paid for in this run."""
    number = sum(map(len, tests))
    for model in baselines(recipe):
        if not model.endpoint or ANSWERED in again:
            continue
        stage = Stages(recipe, run).answers(model, tests)
        if find(run, stage):
            continue
        paid = [
            (differences(stage, one), one)
            for one in made(run, stage.kind)
            if one.dependencies["inputs"].get("model") == stage.inputs["model"] and paid_tokens(one)
        ]
        if paid:
            found, near = min(paid, key=lambda pair: len(pair[0]))
            raise UserError(
                f"{found[0]}{_and_more(found)}: {model.weights} would be asked all "
                f"{number:,} test problems again{answers_price(recipe, number)}; "
                f"{paid_tokens(near):,} tokens in {near.folder.relative_to(run)} are paid for"
                f"{_seconds(near)}. To ask again beside them: --again {ANSWERED}; else take the "
                "change back, leave the model out of compare.baselines, or choose another --run-dir"
            )


def check_new_problems_not_paid_twice(run: Place, stage: Stage, again: list[str]) -> None:
    """UserError where a teacher would write new problems anew although this run has some."""
    if AGAIN in again or find(run, stage):
        return
    for one in made(run, stage.kind):
        if written := sum(c.num_tokens for c in Store(one.folder / NEW_TEXTS).commits()):
            found = differences(stage, one)
            raise UserError(
                f"{found[0]}{_and_more(found)}: the teacher would be asked again for new problems, "
                f"and for groups of them; {written:,} tokens in {one.folder.relative_to(run)} are "
                f"paid for. To ask again beside them: --again {AGAIN}; else take the change back, "
                "or choose another --run-dir"
            )


def paid_tokens(groups: Made) -> int:
    """Tokens of completions that this store asked for itself."""
    commits = Store(groups.folder).commits()
    return sum(commit.num_tokens for commit in commits if not commit.taken_from)


def cost(recipe: Recipe, num_problems: int) -> str:
    """At most, in tokens, and in money where a teacher has a price."""
    num_tokens = num_problems * recipe.sampling.most * recipe.sampling.max_new_tokens
    text = (
        f"{num_problems:,} problems x {recipe.sampling.most} completions, at most {num_tokens:,} "
        "tokens"
    )
    return text + price(who_writes(recipe), num_tokens, num_problems)


def who_writes(recipe: Recipe) -> list[TeacherKnobs]:
    """The teachers that are given the problems of the recipe's task."""
    teachers = list(all_teachers(recipe).values())
    able = [one for one in teachers if not one.tasks or recipe.task.name in one.tasks]
    return able or teachers


def price(teachers: Sequence[TeacherKnobs], num_tokens: int, num_prompts: int) -> str:
    """Money for so many tokens, at most: were each teacher's completions as long as allowed; and
    for prompts, of which the letters are counted."""
    asked = [one for one in teachers if isinstance(one.engine, EndpointKnobs)]
    shares = sum(teacher.share for teacher in teachers)
    written = read = 0.0
    for one in asked:
        engine, share = one.engine, one.share / shares
        assert isinstance(engine, EndpointKnobs)
        written += engine.price_completion * share * num_tokens / 1e6
        read += engine.price_prompt * share * num_prompts * _prompt_tokens(one.prompt) / 1e6
    if written or read:
        return f" (at most {amount(written)} to pay, and about {amount(read)} for prompts)"
    return " (no engine.price_completion is set: cost not known)" if asked else ""


def _prompt_tokens(prompt: PromptKnobs) -> float:
    """About so many, with a question of usual length."""
    shots = sum(len(shot.question) + len(shot.answer) for shot in prompt.shots)
    return (len(prompt.system) + shots + QUESTION) / LETTERS


def answers_price(recipe: Recipe, num_problems: int) -> str:
    """Money for a teacher's own answers to the test problems, at most."""
    if "teacher" not in recipe.compare.baselines:
        return ""
    num_prompts = num_problems * recipe.evaluation.n
    return price([recipe.teacher], num_prompts * recipe.evaluation.max_new_tokens, num_prompts)


def _and_more(found: list[Change]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def _seconds(groups: Made) -> str:
    seconds = read_json(groups.folder / SECONDS, {"seconds": 0.0})["seconds"]
    is_whole = (groups.folder / MANIFEST).exists()
    return f" and took {duration(seconds)}{'' if is_whole else ' so far'}" if seconds else ""
