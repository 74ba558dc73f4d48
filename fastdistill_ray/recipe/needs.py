"""What the objectives of a recipe's students need that its other settings do not give; each line
names what to change."""

from fastdistill_ray.recipe.derived import StudentSpec, all_teachers, speaker_of, students
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.selection import WHOLE
from fastdistill_ray.rounds.knobs import RoundsKnobs


def frozen_errors(recipe: Recipe) -> list[str]:
    """What an objective cannot be given that needs to know what a model thinks of the texts."""
    errors = []
    for student in students(recipe):
        needs, kind = student.objective.needs, student.objective.kind
        signal, needed, own = needs.signal, needs.speaker, f"{student.section}.kind: {kind}"
        speaker = speaker_of(recipe, student)
        if needed and not speaker:
            errors.append(
                f"{own} learns from the teacher's distributions, which an endpoint does not give; "
                "set scorer.model to one that is at hand, or take a kind that learns from texts, "
                "such as sft or advdistill"
            )
        elif needed == "teacher" and recipe.teachers and not recipe.scorer and not student.teacher:
            errors.append(
                f"{own} learns from the distributions of one model; set scorer.model, which is "
                "then asked about the texts of all teachers, or teachers: []"
            )
        elif signal and speaker and speaker.engine.kind == "scripted":
            remedy = "set scorer" if needed == "teacher" else "set reference: live"
            errors.append(
                f"{own} learns what a model thinks of each token, which a scripted engine does not "
                f"know; {remedy}"
            )
        if signal and recipe.training.overlap:
            errors.append(
                f"training.overlap: true trains on texts as they come, and {kind} of "
                f"{student.section} on what is asked about them afterwards; set it to false"
            )
        if needs.fed and recipe.training.lora.rank:
            errors.append(
                f"training.lora.rank: {kind} of {student.section} trains whole blocks to stand in "
                "for the teacher's, which an adapter is too small for; set it to 0"
            )
        if needs.fed and speaker and speaker.prompted.prompt != recipe.student.prompt:
            errors.append(
                f"{speaker.section}.prompt: {kind} of {student.section} gives the student's blocks "
                "the teacher's states of the same tokens; set it to student.prompt"
            )
        if needs.relations and recipe.training.compile:
            errors.append(
                f"training.compile: true hides the inside of a block, which {kind} of "
                f"{student.section} compares; set it to false"
            )
        if needed and not recipe.training.mask_prompt:
            errors.append(
                f"training.mask_prompt: false trains the prompts' own tokens, which {kind} of "
                f"{student.section} does not compare; set it to true"
            )
    return errors


def rounds_errors(recipe: Recipe) -> list[str]:
    """What a student cannot do that writes what it is trained on, or must have to be trained so."""
    errors = []
    training, engine = recipe.training, recipe.evaluation.engine
    for student in students(recipe):
        needs, rounds, field = student.objective.needs, student.rounds, student.rounds_field
        kind = student.objective.kind
        if rounds is None:
            if needs.rounds:
                errors.append(
                    f"{student.section}.kind: {kind} learns from texts that the student writes "
                    f"itself; set {field}.count"
                )
            continue
        if needs.signal:
            errors.append(
                f"{field}: nothing is stored of texts that are yet to be written, which {kind} of "
                f"{student.section} learns from; take what a live model says (states: live, "
                "reference: live), or another kind"
            )
        if student.group_size:
            errors.append(f"{field}: its groups are of {field}.n; leave out group_size")
        errors += _mix_errors(recipe, student, rounds)
        errors += _adaptive_errors(recipe, student, rounds)
        if rounds.is_mixed and _is_read_as_its_own(recipe, student):
            errors.append(
                f"{field}: {student.model} is a teacher too, whose prompt has another chat "
                "template: its texts could not be told from the student's own; leave out mix and "
                "adaptive, or give both one prompt.template and template_args"
            )
        errors += _draw_errors(recipe, student, rounds)
        if training.overlap:
            errors.append(f"training.overlap: true and {field} cannot be had together; set false")
        if training.held_out.best_metric != "none":
            errors.append(
                f"training.held_out.best_metric: of {field} the last student is the result; set "
                "none"
            )
        if recipe.sampling.max_new_tokens >= engine.max_model_len:
            errors.append(
                f"sampling.max_new_tokens: {recipe.sampling.max_new_tokens} leaves no room for the "
                f"prompt in evaluation.engine.max_model_len = {engine.max_model_len} ({field})"
            )
    return errors


def _mix_errors(recipe: Recipe, student: StudentSpec, rounds: RoundsKnobs) -> list[str]:
    """What of teachers' groups beside a student's own cannot be, and of their sizes."""
    errors, field, kind = [], student.rounds_field, student.objective.kind
    training, needs = recipe.training, student.objective.needs
    if not rounds.num_own(training.groups_per_step):
        errors.append(
            f"{field}.mix: {rounds.mix:g} leaves the student none of "
            f"training.groups_per_step = {training.groups_per_step}; lower it"
        )
    if needs.mixed and rounds.adaptive:
        errors.append(
            f"{field}.adaptive: teachers' share may come to none, whose texts {kind} of "
            f"{student.section} contrasts with the student's own; set {field}.mix"
        )
    elif needs.mixed and not rounds.num_mixed(training.groups_per_step):
        errors.append(
            f"{field}.mix: {rounds.mix:g} leaves teachers none of training.groups_per_step = "
            f"{training.groups_per_step}, whose texts {kind} of {student.section} contrasts "
            "with the student's own; set 0.5"
        )
    elif rounds.mix and not rounds.num_mixed(training.groups_per_step):
        errors.append(
            f"{field}.mix: {rounds.mix:g} of training.groups_per_step = "
            f"{training.groups_per_step} is no whole group, so that teachers would write for "
            "nothing; raise it, or leave it out"
        )
    if rounds.mix and training.held_out.share and not rounds.adaptive:
        errors.append(
            f"training.held_out.share: {training.held_out.share:g} of the groups is held out "
            f"of every training but {field}, which mixes them in; set 0, or leave out mix"
        )
    if rounds.n < 2 and (
        student.objective.min_completions > 1 or getattr(student.objective, "reward", 0)
    ):
        errors.append(
            f"{field}.n: {kind} of {student.section} compares the completions of a problem; "
            "set 2 or more"
        )
    return errors


def _adaptive_errors(recipe: Recipe, student: StudentSpec, rounds: RoundsKnobs) -> list[str]:
    """What the share of a student's own texts cannot go with that grows with a loss."""
    if not rounds.adaptive:
        return []
    errors, field = [], student.rounds_field
    held_out = recipe.training.held_out
    num_steps = student.most_steps(recipe.training, 0)
    before_last = (num_steps - 1) // rounds.steps * rounds.steps  # updates before the last round
    if rounds.mix:
        errors.append(f"{field}.mix: {field}.adaptive sets the share; leave out one of them")
    if rounds.staleness:
        errors.append(
            f"{field}.staleness: how many texts of a round are wanted is known once its student "
            f"is ({field}.adaptive); set 0"
        )
    if not held_out.share:
        errors.append(
            f"{field}.adaptive: the share grows with the loss on held-out groups; set "
            "training.held_out.share"
        )
    if not before_last:
        errors.append(
            f"{field}.count: the share grows from one round to the next ({field}.adaptive); set 2 "
            "or more"
        )
    elif held_out.every > before_last:
        errors.append(
            f"training.held_out.every: {held_out.every} leaves no validation before the last "
            f"round, so that {field}.adaptive never rises; set at most {before_last}"
        )
    return errors


def _draw_errors(recipe: Recipe, student: StudentSpec, rounds: RoundsKnobs) -> list[str]:
    """What a student cannot do that must know with which probability its tokens were drawn."""
    if not student.objective.needs.written:
        return []
    errors, field, kind = [], student.rounds_field, student.objective.kind
    if rounds.adaptive or rounds.num_mixed(recipe.training.groups_per_step):
        name = "adaptive" if rounds.adaptive else "mix"
        errors.append(
            f"{field}.{name}: {kind} of {student.section} learns from the student's own draws "
            "alone; leave it out, or set form: full"
        )
    if rounds.temperature != 1:
        errors.append(
            f"{field}.temperature: {kind} of {student.section} needs the probability with "
            "which each token was drawn, which is that of temperature 1; set 1, or form: full"
        )
    if recipe.evaluation.engine.kind == "scripted":
        errors.append(
            f"{field}: a scripted evaluation.engine tells no probabilities, which {kind} of "
            f"{student.section} needs"
        )
    return errors


def _is_read_as_its_own(recipe: Recipe, student: StudentSpec) -> bool:
    own = recipe.student.prompt
    return any(
        one.model == student.model
        and (one.prompt.template, one.prompt.template_args) != (own.template, own.template_args)
        for one in all_teachers(recipe).values()
    )


def view_errors(recipe: Recipe) -> list[str]:
    """What a student cannot do that is trained on two texts of a completion."""
    errors = []
    for student in students(recipe):
        kind, held_out = student.objective.kind, recipe.training.held_out
        if not student.objective.needs.views:
            continue
        if student.rounds:
            errors.append(
                f"{student.rounds_field}: {kind} of {student.section} learns from teachers' texts "
                "with thoughts; leave it out"
            )
        if held_out.share:
            errors.append(
                f"training.held_out.share: the two texts that {kind} of {student.section} makes of "
                "a completion have no likelihood as one; set 0"
            )
    return errors


def writer_errors(recipe: Recipe) -> list[str]:
    """What a student cannot have whose groups are another's texts, or of a part of the problems."""
    errors, sampling = [], recipe.sampling
    for student in students(recipe):
        section = student.section
        if student.rounds and (student.writer or student.problems != WHOLE):
            field = "writer" if student.writer else "problems"
            errors.append(
                f"{section}.{field}: in rounds a student writes of all problems itself; leave out "
                f"{field}, or {student.rounds_field}"
            )
        if student.labels and not student.writer:
            errors.append(
                f"{section}.labels: it says how what `writer` wrote is judged; set writer, or "
                "leave it out"
            )
        if student.rewrite and not (student.writer and student.labels == "none"):
            errors.append(
                f"{section}.rewrite: what the student makes of a writer's texts, right or wrong; "
                "set writer, and labels: none"
            )
        if not student.writer:
            continue
        if student.rewrite and sampling.n < 2:
            errors.append(
                f"sampling.n: {sampling.n} answer of a problem shows no doubt, which "
                f"{section}.rewrite asks for; draw several"
            )
        errors += _label_errors(recipe, student)
        if recipe.training.overlap:
            errors.append(
                f"training.overlap: true trains while the teacher writes, which {student.writer} "
                f"must have ended before ({section}.writer); set it to false"
            )
        if sampling.max_new_tokens >= recipe.evaluation.engine.max_model_len:
            errors.append(
                f"sampling.max_new_tokens: {sampling.max_new_tokens} leaves no room for the prompt "
                f"in evaluation.engine.max_model_len = {recipe.evaluation.engine.max_model_len} "
                f"({section}.writer)"
            )
    return errors


def _label_errors(recipe: Recipe, student: StudentSpec) -> list[str]:
    """How the texts of a student's writer cannot be judged."""
    errors, section, sampling = [], student.section, recipe.sampling
    if student.labels == "none" and getattr(student.objective, "on", "") != "all":
        errors.append(
            f"{section}.labels: none says of no text whether it is right, which "
            f"{student.objective.kind} learns from; set on: all where the kind has it, or "
            "labels: vote"
        )
    if student.labels == "gold" and (recipe.task.unlabelled or recipe.new_problems):
        errors.append(
            f"{section}.labels: gold judges by answers that not all training problems have "
            "(task.unlabelled, new_problems); set vote, or none"
        )
    size = student.group_size or recipe.selection.group_size or sampling.n
    if student.labels == "vote" and size < recipe.selection.min_votes:
        errors.append(
            f"selection.min_votes: {recipe.selection.min_votes} votes cannot be had from "
            f"groups of {size} ({section}.labels)"
        )
    if student.labels in ("vote", "none") and sampling.max_n:
        errors.append(
            "sampling.max_n: it draws until enough completions are correct, which no answer "
            f"of the task says with {section}.labels: {student.labels}; set none, or labels: "
            "gold"
        )
    return errors
