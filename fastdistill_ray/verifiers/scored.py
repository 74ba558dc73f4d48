"""Kind scored: the data set that made a problem says itself whether an answer is right.

The scorer of a problem is JSON: {"accepted": [...]} holds all right answers, which are compared as
they stand; {"dataset", "settings", "entry"} names a dataset of reasoning-gym, which is asked with
`score_answer`, in a process of its own like all that computes on a model's text.
"""

import json
import re
from collections.abc import Callable

from fastdistill_ray.verifiers.decision import CORRECT, Decision, Question
from fastdistill_ray.verifiers.process import JudgingProcess

MODULE = "fastdistill_ray.verifiers.gym_worker"
MAX_ANSWER = 10_000  # characters
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|texttt)\{(.*)\}", re.DOTALL)  # a box is mathematics
# Of countdown, whose scorer evaluates the answer as code.
_ARITHMETIC = re.compile(r"(?!.*(?:\*\*|//))[-+*/() 0-9]{1,200}", re.DOTALL)


class Scorers:
    """A process for each dataset that was asked for, started when it is."""

    def __init__(self, start: Callable[..., JudgingProcess], time_limit: float) -> None:
        self._start = start
        self._time_limit = time_limit
        self._processes: dict[tuple[str, str], JudgingProcess] = {}

    def close(self) -> None:
        for process in self._processes.values():
            process.close()
        self._processes.clear()

    def decide(self, question: Question) -> Decision:
        if not question.scorer:
            return Decision("error", "kind scored needs the scorer of its problem")
        scorer = json.loads(question.scorer)
        wrapped = _TEXT.fullmatch(question.answer)
        answer = wrapped[1] if wrapped else question.answer
        if "accepted" in scorer:
            return CORRECT if answer in scorer["accepted"] else Decision("wrong", "another text")
        name, settings = scorer["dataset"], json.dumps(scorer["settings"], sort_keys=True)
        if len(answer) > MAX_ANSWER:
            return Decision("unparsable", "too long for the dataset's scorer")
        if name == "countdown" and not _ARITHMETIC.fullmatch(answer):
            return Decision("unparsable", "not plain arithmetic")
        process = self._processes.get((name, settings))
        if process is None:
            process = self._start(MODULE, name, settings)
            process = self._processes.setdefault((name, settings), process)
        asked = {"answer": answer, "entry": json.dumps(scorer["entry"])}
        verdict, _ = process.ask(asked, self._time_limit)
        if verdict == "equal":
            return CORRECT
        if verdict == "different":
            return Decision("wrong", "not right by the dataset's own scorer")
        if verdict == "timeout":
            return Decision("timeout", f"not decided in {self._time_limit:g} s of CPU time")
        if verdict.startswith("failed: "):  # it raises on what it cannot read
            return Decision("unparsable", f"the dataset's scorer {verdict}")
        return Decision("error", f"the dataset's scorer failed: {verdict}")
