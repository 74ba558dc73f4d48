"""References with one thing changed, judged by the reference: how many are accepted all the same.

    FASTDISTILL_DATA=FOLDER python -m benchmarks.mutations [--references 2200] [--json FILE]

Of published mathematics one letter's case, digit, sign, function, exponent, subscript or bracket is
changed. What is accepted is printed to be read: an equal writing (-0, 1E5) or a fault of the judge.
"""

import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import make_parser, write_json
from benchmarks.references import read
from fastdistill_ray.verifiers import Judge, VerifierKnobs

FILES = [
    ("math", "math"),
    ("math", "deepscaler/train_math.json"),
    ("olympiadbench", "olympiadbench"),
    ("theoremqa", "theoremqa"),
    ("minerva", "minerva_math"),
]
FUNCTIONS = ("sin", "cos", "tan", "log")
_NO_NAMES = re.compile(
    r"\\(?:text|mbox|textbf|mathrm|begin|end|operatorname|mathbb)\s*\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]{2,}"
    r"|(?<=\d)[eE](?=-?\d)|\^\{?\\circ\}?"
)


def letters(text: str) -> list[int]:
    masked = _NO_NAMES.sub(lambda found: " " * len(found.group()), text)
    return [place for place, character in enumerate(masked) if character.isalpha()]


def put(text: str, place: int, other: str) -> str:
    return text[:place] + other + text[place + 1 :]


def case(text: str, rng: random.Random) -> str | None:
    places = letters(text)
    place = rng.choice(places) if places else -1
    return put(text, place, text[place].swapcase()) if places else None


def digit(text: str, rng: random.Random) -> str | None:
    places = [found.start() for found in re.finditer(r"[0-9]", text)]
    if not places:
        return None
    place = rng.choice(places)
    return put(text, place, str((int(text[place]) + rng.randint(1, 9)) % 10))


def sign(text: str, rng: random.Random) -> str | None:
    places = [
        found.start() for found in re.finditer(r"(?<=[\w)}] )[+-](?= )|(?<=[\w)}])[+-]", text)
    ]
    if places:
        place = rng.choice(places)
        return put(text, place, "+" if text[place] == "-" else "-")
    return "-" + text if re.match(r"\\?[1-9fs]", text) else None


def function(text: str, rng: random.Random) -> str | None:
    found = re.search(r"\\(sin|cos|tan|log|ln)(?![A-Za-z])", text)
    if not found:
        return None
    others = [name for name in FUNCTIONS if name != found[1] and {name, found[1]} != {"log", "ln"}]
    return f"{text[: found.start()]}\\{rng.choice(others)}{text[found.end() :]}"


def _raised(pattern: str, new: str) -> Callable[[str, random.Random], str | None]:
    def mutate(text: str, rng: random.Random) -> str | None:
        found = list(re.finditer(pattern + r"\{?(\d)", text))
        if found:
            one = rng.choice(found)
            return f"{text[: one.start(1)]}{int(one[1]) + 1}{text[one.end(1) :]}"
        places = letters(text)
        place = rng.choice(places) if places else -1
        return put(text, place, text[place] + new) if places else None

    return mutate


def bracket(text: str, rng: random.Random) -> str | None:
    found = re.fullmatch(r"([(\[])(.*,.*)([)\]])", text)
    if not found:
        return None
    if rng.random() < 0.5:
        return ("[" if found[1] == "(" else "(") + found[2] + found[3]
    return found[1] + found[2] + ("]" if found[3] == ")" else ")")


MUTATIONS: dict[str, Callable[[str, random.Random], str | None]] = {
    "case": case,
    "digit": digit,
    "sign": sign,
    "function": function,
    "exponent": _raised(r"\^", "^3"),
    "subscript": _raised("_", "_7"),
    "bracket": bracket,
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--references", type=int, default=2_200, help="at most")
    arguments = parser.parse_args()
    if "FASTDISTILL_DATA" not in os.environ:
        sys.exit("error: FASTDISTILL_DATA must name the folder of data files")
    root, rng = Path(os.environ["FASTDISTILL_DATA"]), random.Random(0)
    problems = [problem for task, path in FILES for problem in read(task, root / path)]
    references = sorted(
        {
            (problem.kind, problem.reference)
            for problem in problems
            if problem.kind in ("math", "list") and problem.tolerance is None
        }
    )
    rng.shuffle(references)
    made: Counter[str] = Counter()
    accepted: list[tuple[str, str, str]] = []
    with Judge(VerifierKnobs()) as judge:
        for kind, reference in references[: arguments.references]:
            for name, mutate in MUTATIONS.items():
                answer = mutate(reference, rng)
                if answer is None or answer == reference:
                    continue
                made[name] += 1
                if judge.judge(kind, rf"\boxed{{{answer}}}", reference).verdict == "correct":
                    accepted.append((name, reference, answer))
    for name, reference, answer in accepted:
        print(f"accepted, {name}: {answer!r} for {reference!r}")
    print(f"made: {dict(made)}, in all {made.total()}; accepted: {len(accepted)}")
    write_json(arguments.json, {"made": dict(made), "accepted": accepted})


if __name__ == "__main__":
    main()
