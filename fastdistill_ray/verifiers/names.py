r"""Names of two texts replaced by plain letters before sympy reads them, so that none is lost.

latex2sympy lower-cases letters, drops primes, transposes and accents, takes dy/dx for 0 and ends in
silence at a word. Here each name with its marks becomes one letter, the same in both texts, and a
derivative is a name of its own. What is neither a name nor a command that is read is refused.
"""

import re

_LETTERS = "xyzabcjkmnpqrtuvw"  # not d, e, f, g, h, i, o, l, s: they mean something or look like it
_FUNCTION_LETTERS = "fgh"
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon"
    "|phi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega|ell|hbar|nabla"
)
_LETTER = rf"(?:[A-Za-z]|\\(?:{_GREEK})(?![A-Za-z]))"
_ACCENT = (
    r"\\(?:vec|dot|ddot|hat|bar|tilde|overline|overrightarrow|widehat|mathbf|mathcal|mathbb|mathscr"
    r"|mathfrak|boldsymbol|bm|mathrm|mathit|text|operatorname)"
)
_BASE = (
    rf"{_ACCENT} ?\{{ ?{_LETTER}{{1,4}}(?:_(?:\w|\{{\w{{1,4}}\}}))? ?\}}|{_ACCENT} {_LETTER}"
    rf"|\\(?:angle|triangle) ?[A-Za-z]{{1,3}}|{_LETTER}"
)
_SUBSCRIPT = rf"_ ?(?:\w|\\(?:{_GREEK}|max|min)(?![A-Za-z])|\{{[^{{}}]{{1,20}}\}})"
_PRIME = (
    r"'+|\^ ?(?:\\prime(?![A-Za-z])|\{ ?(?:\\prime ?)+\}|\{ ?'+ ?\})"
    r"|\^ ?(?:\\(?:top|intercal|dagger|ast)(?![A-Za-z])|\{ ?\\(?:top|intercal|dagger|ast) ?\}|\*)"
    r"|\^ ?\{ ?\( ?\w ?\) ?\}"
)
_NAME = re.compile(rf"({_BASE})((?: ?(?:{_SUBSCRIPT})| ?(?:{_PRIME}))*)")
_TRANSPOSED = re.compile(r" ?\^ ?(?:T|\{ ?T ?\}|\{? ?\\(?:mathrm|mathsf|text) ?\{ ?T ?\} ?\}?)")
_D = r"(?:d|\\(?:mathrm|text) ?\{ ?d ?\}|\\partial(?![A-Za-z]))"
_ORDER = r"(?: ?\^ ?(?:\d|\{ ?\d ?\}))?"
_DERIVATIVE = re.compile(
    rf"\\frac ?\{{ ?{_D}{_ORDER} ?{_LETTER} ?\}} ?\{{ ?{_D} ?{_LETTER}{_ORDER} ?\}}"
    rf"|{_D} ?{_LETTER} ?/ ?{_D} ?{_LETTER}(?![A-Za-z])"
)
_READ = frozenset(
    (
        *("frac", "sqrt", "cdot", "times", "div", "pm", "mp", "pi", "infty", "cup", "emptyset"),
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh"),
        *("tanh", "log", "ln", "exp", "binom", "lfloor", "rfloor", "lceil", "rceil", "max", "min"),
        *("gcd", "le", "ge", "leq", "geq", "lt", "gt", "ne", "neq", "sum", "prod", "lim", "to"),
    )
)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[pbvV]?matrix\}")
_INDEX = re.compile(r"\\(?:sum|prod) ?_ ?\{ ?i ?=")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_PLAIN = re.compile(r"\d+(?:\.\d+)?|\\\\|\\[{}|]|[-+*/^_=<>()\[\]{}|!,&% ]")


class Lost(Exception):
    """The text holds something that sympy's grammar would not keep; says what."""


class Names:
    """One numbering for the texts that are compared."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}
        self._is_index = False  # whether i counts the terms of a sum

    def replaced(self, text: str) -> str:
        """The text with letters for names; raises Lost."""
        self._is_index = _INDEX.search(text) is not None
        pieces: list[str] = []
        at = 0
        while at < len(text):
            piece, at = self._next(text, at)
            if pieces and piece[0].isalpha() and pieces[-1][:1] == "\\":
                pieces.append(" ")  # \cdot x
            pieces.append(piece)
        return "".join(pieces)

    def _next(self, text: str, at: int) -> tuple[str, int]:
        if match := _DERIVATIVE.match(text, at):
            return self._letter(_plain(match.group()), _LETTERS), match.end()
        if match := _ENVIRONMENT.match(text, at) or _PLAIN.match(text, at):
            return match.group(), match.end()
        command = _COMMAND.match(text, at)
        if command and command[1] in _READ:
            return command.group(), command.end()
        match = _NAME.match(text, at)
        if not match:
            raise Lost(command.group() if command else text[at])
        base, marks = match.groups()
        if (base == "e" or (base == "i" and not self._is_index)) and not marks:
            return base, match.end()
        end = match.end()
        if _is_matrix(base) and (transposed := _TRANSPOSED.match(text, end)):
            marks, end = marks + "^T", transposed.end()
        is_function = _is_applied(base, text[end:])
        letters = _FUNCTION_LETTERS if is_function else _LETTERS
        return self._letter(_plain(base) + _plain_marks(marks), letters), end

    def _letter(self, name: str, letters: str) -> str:
        key = letters[0] + name
        if key not in self._letters:
            taken = sum(known[0] == letters[0] for known in self._letters)
            if taken >= len(letters):
                raise Lost("more names than can be told apart")
            self._letters[key] = letters[taken]
        return self._letters[key]


def _is_applied(base: str, rest: str) -> bool:
    """f(x) and C(n,k) are functions of what follows; a(b) is a product."""
    rest = rest.lstrip()
    if not rest.startswith("("):
        return False
    if base in ("f", "g", "h", "F", "G", "H"):
        return True
    depth = 0
    for character in rest:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 1:
            return True
        if depth == 0:
            break
    return False


def _is_matrix(base: str) -> bool:
    """A capital or a vector has a transpose; e^T is a power."""
    return base.isupper() or base.startswith(("\\math", "\\vec", "\\bold", "\\bm"))


def _plain(text: str) -> str:
    text = re.sub(r"\\(?:mathrm|text|operatorname|mathit) ?\{ ?([A-Za-z]+) ?\}", r"\1", text)
    text = re.sub(rf"({_ACCENT}) ({_LETTER})", r"\1{\2}", text)
    text = re.sub(r"\s", "", text.replace("\\partial", "d"))
    angle = re.fullmatch(r"\\angle([A-Za-z])([A-Za-z])([A-Za-z])", text)
    if angle:  # an angle is named from either side
        first, last = sorted((angle[1], angle[3]))
        return rf"\angle{first}{angle[2]}{last}"
    return text


def _plain_marks(text: str) -> str:
    text = text.replace("\\prime", "'").replace("\\top", "T").replace("\\intercal", "T")
    return re.sub(r"\^(?=')", "", re.sub(r"[\s{}]", "", text))
