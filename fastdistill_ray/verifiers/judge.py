"""A completion and a reference answer -> verdict, answer and reason. See `Judge`."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Self

from fastdistill_ray.records import KINDS, Judgement, Kind
from fastdistill_ray.verifiers import expressions
from fastdistill_ray.verifiers.arithmetic import NotANumber, TooLarge, is_equal
from fastdistill_ray.verifiers.choices import NotAChoice, SeveralChoices, parse_choice
from fastdistill_ray.verifiers.cleaning import comparable, undecorated, unwrap
from fastdistill_ray.verifiers.decision import CORRECT, Decision, Question
from fastdistill_ray.verifiers.extraction import WHOLE, Rules, extract_answer, last_number
from fastdistill_ray.verifiers.knobs import VerifierKnobs
from fastdistill_ray.verifiers.numbers import (
    is_several_numbers,
    join_thousands,
    parse_number,
    sentence_number,
    without_option,
)
from fastdistill_ray.verifiers.process import JudgingProcess
from fastdistill_ray.verifiers.scored import Scorers
from fastdistill_ray.verifiers.units import are_other_units

ANOTHER_NUMBER = Decision("wrong", "another number")
EXPRESSIONS = "fastdistill_ray.verifiers.worker"
WORDS_OF_ANSWER, WORDS_OF_FORMULA = 8, 60  # at most, where it is no number; of a long one
MAX_CLEANED = 2_000  # characters; a longer text is compared as it stands
MAX_CACHED = 100_000  # decisions
SEVERAL_NUMBERS = "more than one number"
MAX_SHOWN = 1_000  # characters of an answer that are kept in a judgement


_FUNCTION = re.compile(r"\\?(?:sqrt|log|ln|sin|cos|tan|binom)(?![A-Za-z])|\\pi(?![A-Za-z])|\\infty")


class Judge:
    """Judges answers one by one, with a cache; starts a sympy process when mathematics needs one.

    Usable from any thread. Nothing in a completion is evaluated as code.
    """

    def __init__(self, knobs: VerifierKnobs) -> None:
        self._knobs = knobs
        self._rules = Rules(
            knobs.unboxed_blocks,
            knobs.boxes_outside_answer,
            knobs.stated_answers,
            knobs.several_boxes,
        )
        self._process = self._process_of(EXPRESSIONS)
        self.scorers = Scorers(self._process_of, knobs.time_limit)
        self._cache: dict[Question, Decision] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.close()
        self.scorers.close()

    def start(self) -> None:
        """Start the sympy process, which takes a moment, without waiting for it."""
        self._process.start()

    @property
    def is_worker_started(self) -> bool:
        return self._process.is_started

    def judge(
        self,
        kind: Kind,
        response: str,
        reference: str,
        options: tuple[str, ...] | list[str] = (),
        finish_reason: str = "stop",
        *,
        tolerance: float | None = None,
        scorer: str = "",
    ) -> Judgement:
        """The verdict by the contract of judging; an unusable reference gives "error".

        Numbers of the kinds number, math and list may be `tolerance` off, inclusive; kind scored is
        judged by its `scorer` (see `scored.py`).
        """
        fault = self.reference_error(kind, reference, options)
        if fault:
            return Judgement("error", "", fault)
        is_cut = finish_reason in ("length", "repetition")
        answer, origin = extract_answer(response, self._rules, kind, is_cut=is_cut)
        if answer:
            asked = Question(kind, reference, answer, tuple(options), tolerance, scorer)
            decision = self._decide_written(asked)
            if origin == WHOLE and decision.verdict != "correct":
                answer, decision = "", Decision("unparsable", "no answer")
        else:
            decision = Decision("truncated" if is_cut else "unparsable", origin)
        if self._knobs.last_number and decision.verdict in ("unparsable", "truncated"):
            number = last_number(response, is_cut=is_cut)
            if number:
                answer, origin = number, "last number"
                asked = Question(kind, reference, answer, tuple(options), tolerance, scorer)
                decision = self._decide(asked)
        if not answer:
            return Judgement(decision.verdict, answer="", reason=decision.reason)
        return Judgement(decision.verdict, answer[:MAX_SHOWN], f"{origin}: {decision.reason}")

    def judge_row(self, row: dict[str, Any], text: str, finish_reason: str) -> Judgement:
        """The verdict on a completion of a row that holds the fields of its problem."""
        return self.judge(
            row["kind"],
            text,
            row["reference"],
            row["options"],
            finish_reason,
            tolerance=row["tolerance"],
            scorer=row["scorer"],
        )

    def compare(
        self,
        kind: Kind,
        reference: str,
        answer: str,
        options: tuple[str, ...] | list[str] = (),
        tolerance: float | None = None,
    ) -> Decision:
        """The decision on an answer that is written by itself."""
        asked = Question(kind, reference, answer, tuple(options), tolerance, "")
        return self._decide_written(asked)

    def reference_error(
        self, kind: Kind, reference: str, options: tuple[str, ...] | list[str] = ()
    ) -> str:
        """Why no completion can be judged by this reference; "" when it can be used."""
        if kind not in KINDS:
            return f"unknown kind {kind!r}"
        if not reference.strip():
            return "the reference is empty"
        if kind in ("number", "math") and is_solution(reference, kind):
            return f"the reference {reference[:40]!r}... is a text, not the answer alone"
        if kind == "choice":
            try:
                parse_choice(reference, tuple(options))
            except (NotAChoice, SeveralChoices):
                return f"the reference {reference[:40]!r} is no letter of the options"
        return ""

    def _decide_written(self, question: Question) -> Decision:
        return decide_integers(question) or self._decide(question)

    def _decide(self, question: Question) -> Decision:
        # Emoji and marks may be a part of a text.
        if question.kind in ("number", "math", "choice") and not question.answer.isascii():
            question = question._replace(answer=undecorated(question.answer))
        known = self._cache.get(question)
        if known is not None:
            return known
        decision = DECIDERS[question.kind](question, self)
        if decision.verdict == "timeout":  # sympy may have been filling its caches
            decision = DECIDERS[question.kind](question, self)
        if decision.verdict not in ("error", "timeout") and len(question.answer) <= MAX_CLEANED:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[question] = decision
        return decision

    def _process_of(self, module: str, *arguments: str) -> JudgingProcess:
        memory_bytes = int(self._knobs.memory_limit_gib * 2**30)
        return JudgingProcess(module, self._knobs.time_limit, memory_bytes, *arguments)

    def decide_expression(self, question: Question) -> Decision:
        """As mathematics, with the help of the sympy process."""
        tolerance = tolerance_of(question)
        left = self._knobs.time_limit
        written = None if tolerance is None else str(tolerance)

        def ask(expected: str, given: str) -> str:
            nonlocal left
            asked = {"reference": expected, "answer": given, "tolerance": written}
            verdict, spent = self._process.ask(asked, max(left, 0.001))
            left -= spent
            if verdict == "timeout":
                raise TimeoutError
            return verdict

        is_list = question.kind == "list"
        is_same = expressions.is_equal_list if is_list else expressions.is_equal_expression
        by = expressions.Means(ask, tolerance)
        try:
            if is_same(question.reference, question.answer, by):
                return CORRECT
            return Decision("wrong", "not equal")
        except expressions.Unreadable as error:
            return Decision("unparsable", str(error))
        except TimeoutError:
            return Decision("timeout", f"not decided in {self._knobs.time_limit:g} s of CPU time")
        except ChildProcessError as error:
            return Decision("error", f"the judging process failed: {error}")


def is_solution(reference: str, kind: Kind) -> bool:
    """Whether it says more than an answer, which no answer would then equal."""
    num_words = len(reference.split())
    if kind == "math":
        return len(reference) > expressions.MAX_ANSWER and num_words > WORDS_OF_FORMULA
    if num_words <= WORDS_OF_ANSWER or "\\" in reference:
        return False
    try:
        parse_number(reference)
    except (NotANumber, TooLarge):
        return True
    return False


def is_same_text(reference: str, answer: str) -> bool:
    """Equal after normalising white space, `$` and wrappers."""
    if max(len(reference), len(answer)) > MAX_CLEANED:
        return reference.split() == answer.split()
    form = comparable(reference)
    return form == comparable(answer) and (form != "" or reference.strip() == answer.strip())


def is_same_word(reference: str, answer: str) -> bool:
    """Equal but for the case in which words are written as a whole: paris, Paris, PARIS."""
    expected, given = comparable(reference[:MAX_CLEANED]), comparable(answer[:MAX_CLEANED])
    is_short = len(expected) < 4 and expected.lower() not in ("yes", "no")
    if expected.casefold() != given.casefold() or is_short:
        return False
    usual = (expected.lower(), expected.capitalize(), expected.title(), expected.upper())
    return expected in usual and given in usual


def decide_integers(question: Question) -> Decision | None:
    """As `decide_as_number` decides, where both are written as nothing but digits; else None."""
    reference, answer = question.reference, question.answer
    if question.kind != "number" or question.tolerance is not None:
        return None
    if not (reference.isdigit() and answer.isdigit() and reference.isascii() and answer.isascii()):
        return None
    is_same = reference.lstrip("0") == answer.lstrip("0")
    return CORRECT if is_same else ANOTHER_NUMBER


def decide_number(
    reference: str, answer: str, tolerance: Fraction | None = None
) -> Decision | None:
    """None when only a mathematical comparison can tell."""
    answer = join_thousands(without_option(answer.strip()))
    is_none = is_word_none(answer)
    if is_word_none(reference):
        return CORRECT if is_none else Decision("wrong", "the reference is the word none")
    if is_none:
        return Decision("wrong", "the word none")
    try:
        expected = parse_number(reference)
    except (NotANumber, TooLarge):
        return None
    try:
        given = parse_number(answer)
    except TooLarge:
        return Decision("unparsable", "too large to evaluate")
    except NotANumber:
        if _FUNCTION.search(answer[:MAX_CLEANED]):
            return None
        try:
            given = sentence_number(answer)
        except (NotANumber, TooLarge):
            given = None
    if given is None:
        if is_several_numbers(answer):
            return Decision("wrong", SEVERAL_NUMBERS)
        return Decision("unparsable", "not a number")
    if not is_equal(expected, given, tolerance):
        return ANOTHER_NUMBER
    if are_other_units(reference, answer):
        return Decision("wrong", "another unit")
    return CORRECT


def is_word_none(text: str) -> bool:
    return (
        len(text) < 100 and "none" in text.lower() and unwrap(text).strip(" .!()").lower() == "none"
    )


def decide_choice(question: Question, _judge: Judge) -> Decision:
    try:
        given = parse_choice(question.answer, question.options)
    except NotAChoice:
        return Decision("unparsable", "no letter of the options")
    except SeveralChoices:
        return Decision("wrong", "more than one option")
    if given == parse_choice(question.reference, question.options):
        return CORRECT
    return Decision("wrong", "another option")


def decide_text(question: Question, _judge: Judge) -> Decision:
    asked = question.reference, question.answer
    is_same = is_same_text(*asked) or is_same_word(*asked)
    return CORRECT if is_same else Decision("wrong", "another text")


def decide_as_number(question: Question, judge: Judge) -> Decision:
    if is_same_text(question.reference, question.answer):
        return CORRECT
    plain = decide_number(question.reference, question.answer, tolerance_of(question))
    return plain or judge.decide_expression(question)


def decide_as_mathematics(question: Question, judge: Judge) -> Decision:
    if is_same_text(question.reference, question.answer):
        return CORRECT
    judge.start()  # meanwhile the plain cases are decided
    if question.kind == "math" and not question.reference.lstrip().startswith("("):
        question = question._replace(answer=without_option(question.answer, question.reference))
    return judge.decide_expression(question)


def tolerance_of(question: Question) -> Fraction | None:
    """As written: 0.1 is a tenth, not the nearest binary fraction."""
    return None if question.tolerance is None else Fraction(repr(question.tolerance))


# Who decides for a kind of answer.
DECIDERS: dict[Kind, Callable[[Question, Judge], Decision]] = {
    "number": decide_as_number,
    "math": decide_as_mathematics,
    "list": decide_as_mathematics,
    "choice": decide_choice,
    "text": decide_text,
    "scored": lambda question, judge: judge.scorers.decide(question),
}
