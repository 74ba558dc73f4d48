"""Writing of one thing in many ways, brought to one: unicode, LaTeX wrappers, white space.

Nothing here knows what an answer means. Callers cap the length first.
"""

import html
import re
import unicodedata

_SUPERSCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a\u207f",
    "0123456789-+n",
)
_SUPERSCRIPT_RUN = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b\u207a\u207f]+")
_GREEK = {
    "\u03b1": "alpha",
    "\u03b2": "beta",
    "\u03b3": "gamma",
    "\u03b4": "delta",
    "\u03b5": "epsilon",
    "\u03b8": "theta",
    "\u03bb": "lambda",
    "\u03bc": "mu",
    "\u03c1": "rho",
    "\u03c3": "sigma",
    "\u03c4": "tau",
    "\u03c6": "phi",
    "\u03c8": "psi",
    "\u03c9": "omega",
    "\u0393": "Gamma",
    "\u0394": "Delta",
    "\u03a3": "Sigma",
    "\u03a6": "Phi",
    "\u03a9": "Omega",
}
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d\ufe63", "-"),
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
        "\u00d7": r"\times ",
        "\u22c5": r"\cdot ",
        "\u00b7": r"\cdot ",
        "\u00f7": r"\div ",
        "\u2215": "/",
        "\u03c0": r"\pi ",
        "\u221e": r"\infty ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2a7d": r"\le ",
        "\u2a7e": r"\ge ",
        "\u00ba": "\u00b0",  # the ordinal sign is written for degrees
        "\u2236": ":",
        "\u2260": r"\ne ",
        "\u2248": r"\approx ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u2208": r"\in ",
        "\u00b1": r"\pm ",
        "\u066b": ".",  # Arabic decimal separator
        "\u066c": ",",  # Arabic thousands separator
        "\u3001": ",",
        "\u211d": r"\mathbb{R}",
        "\u2205": r"\emptyset ",
        "\u2228": " or ",
        "\u2227": " and ",
        "\u2213": r"\mp ",
        "\u27e8": r"\langle ",
        "\u27e9": r"\rangle ",
        "\u3002": ".",
        "\u2192": r"\to ",
        "\u2220": r"\angle ",
        "\u22a5": r"\perp ",
        "\u03d5": r"\phi ",
        "\u03f5": r"\epsilon ",
        **{chr(0x2080 + digit): f"_{{{digit}}}" for digit in range(10)},
        **{letter: rf"\{name} " for letter, name in _GREEK.items()},
    }
)
_SUBSCRIPT_RUN = re.compile("[\u2080-\u2089]{2,}")
_CIRCLED = re.compile("([\u2460-\u2473])(?=[\u2460-\u2473])")  # numbers of statements
_DECORATION = (
    "[\\s\ufe0f\u2600-\u2604\u2607-\u265f\u2670-\u2714\u271a-\u274b\u274f-\u2775\u2798-\u27bf\u2794"
    "\u2b00-\u2bff\u25a0\u25aa\u25fc\u220e\U0001f000-\U0001f6aa\U0001f6ac-\U0001faff]+"
)
_CHECK_MARKS = str.maketrans("", "", "\u2611\u2705\u2713\u2714")
_DECORATED = re.compile(f"^{_DECORATION}|{_DECORATION}$")
_ROOT = re.compile("\u221a\\s*(\\d+|[A-Za-z]|(?=[({]))")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textsc|textnormal|mathrm|mathbf|mathsf|mathit"
    r"|mathtt|mathnormal|boldsymbol|bold|bm|pmb|mbox|boxed|fbox|emph|ensuremath|operatorname\*?"
    r"|underline|(?:textcolor|colorbox)\s*\{[^{}]*\})\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits)(?![A-Za-z])\.?"
    r"|(?<!\\)\\[!()\[\]]|\\?\$"
)
# Commands that say how what follows looks, or draw something beside it.
_STYLE = re.compile(
    r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it|sf"
    r"|tt|sc"
    r"|em|cal|bfseries|itshape|rmfamily|sffamily|ttfamily|mathstrut|strut|scriptstyle|hfill|hfil"
    r"|noindent|centering|checkmark|blacksquare|square|Box|qed|therefore|because|smallskip|medskip"
    r"|nonumber|notag|color\s*\{[^{}]*\}|[hv]space\*?\s*\{[^{}]*\}|(?:tag|label)\s*\{[^{}]*\})"
    r"(?![A-Za-z])\s*"
)
_ALIGNED = re.compile(
    r"\\begin\s*\{(aligned|align\*?|gathered|gather\*?|split|equation\*?|eqnarray\*?"
    r"|array)\}(?:\{[lcr| ]*\})?"
    r"((?:(?!\\begin).)*?)\\end\s*\{\1\}",
    re.DOTALL,
)
_HTML = re.compile(
    r"<(b|i|u|em|strong|sub|sup|span|p|div|li|ul|ol|code|center|font|mark|small|big"
    r"|h[1-6])(?: [^<>]*)?>"
    r"(?=.*</\1>)|</(?:b|i|u|em|strong|sub|sup|span|p|div|li|ul|ol|code|center|font|h[1-6])\s*>"
    r"|<(?:br|hr|p)\s*/?>",
    re.DOTALL | re.IGNORECASE,
)
_SCRIPTS = re.compile(r"(?<=[\w)])<(sup|sub)>([^<>]*)</\1>")
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{1,6}|#x[0-9a-f]{1,5});", re.IGNORECASE)
_FENCE = re.compile(r"^\s*```[a-z]*[ \t]*\n?|\n?[ \t]*```\s*$")
SPECIAL_TOKEN = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<\uff5c[^<>]{1,40}\uff5c>|</?s>|<(?:eos|bos|pad|unk|end_of_turn"
    r"|end_of_text)>"
    r"|\[/?INST\]"
)
_SPACE = re.compile(r"(?:(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\s)+")
_BOLD = re.compile(r"(?<![\w)*])\*\*(?!\*)(.+?)\*\*(?![\w(*])")
_SCRIPT_BRACES = re.compile(r"([_^])\{\s*(\w|\d+)\s*\}(?!\w)")
_WIDE_SEPARATOR = re.compile(r"(?<=\d),\s*\\!\s*(?=\d{3})")
_ROW_GAP = re.compile(r"(\\\\) ?\[ ?-?[\d.]+ ?[a-z]{2} ?\]")
_LOOSE_SPACE = re.compile(r"(?<![^\W_]) | (?![^\W_])")
_REPEATING = re.compile(
    r"(?<![\d.])(\d{0,40})\.(\d{0,40})"
    r"(?:\\(?:overline|bar|dot) ?(?:\{ ?(\d{1,40}) ?\}|(\d))|\((\d{1,40})\))(?!\d)"
)
_BASE_TEN = re.compile(r"(?<=\d) ?_ ?(?:10(?!\d)|\{ ?10 ?\})")
_HALF_DAY = re.compile(r"(?<=\d) ?([AaPp])\.?[Mm]\.?$")
_INFIX = re.compile(r"\{([^{}]*)\\(over|choose)(?![A-Za-z])([^{}]*)\}")
# An ellipsis is no full stop: 5,... goes on.
_END = re.compile(r"(?:(?<!\.)\.(?!\.)|[;:\\]|,(?!\.)|\s)+$")
_QUOTES = "\"'`"


def clean(text: str) -> str:
    """One way of writing: ASCII digits and signs, no `$`, single spaces, no outer wrapper."""
    if text.isascii() and text.isalnum():
        return text
    if not text.isascii():
        text = _plain_unicode(text)
    if "<" in text or "&" in text or "`" in text:
        text = _without_markup(text)
    text = text.replace("{,}", ",").replace(r"\%", "%")
    if "\\begin" in text:
        text = _ALIGNED.sub(_lines, text)
    text = _STYLE.sub("", text)
    text = _ROW_GAP.sub(r"\1", _WIDE_SEPARATOR.sub(",", text))
    text = _SPACE.sub(" ", _DROPPED.sub("", text)).strip()
    text = re.sub(r"\\[dtc](frac|binom)(?![A-Za-z])", r"\\\1", text)
    if "\\over" in text or "\\choose" in text:
        text = _INFIX.sub(_as_prefix, text if text.startswith("{") else f"{{{text}}}")
    text = _BOLD.sub(r"\1", text)
    while True:
        shorter = _strip_outside(text)
        if shorter == text:
            return text
        text = shorter


def unwrap(text: str) -> str:
    """`clean`, and every wrapper such as `\\text{ cm}` replaced by its words."""
    if text.isascii() and text.isalnum():
        return text
    while True:
        shorter = _WRAPPER.sub(r" \1 ", text)
        if shorter == text:
            return clean(text)
        text = shorter


def comparable(text: str) -> str:
    """The form in which two writings of the same thing are equal strings; case is kept."""
    if text.isascii() and text.isalnum():
        return text
    text = _LOOSE_SPACE.sub("", _SCRIPT_BRACES.sub(r"\1\2", unwrap(text)))
    return _HALF_DAY.sub(lambda half: half[1].lower() + "m", text)


def exact_notation(text: str) -> str:
    """Repeating decimals as fractions, and 12_{10} as 12."""
    return _REPEATING.sub(_repeating_fraction, _BASE_TEN.sub("", text))


def _repeating_fraction(match: re.Match[str]) -> str:
    whole, part = match[1], match[2]
    period = match[3] or match[4] or match[5]
    above = int(whole + part + period) - int(whole + part or "0")
    return rf"(\frac{{{above}}}{{{(10 ** len(period) - 1) * 10 ** len(part)}}})"


def _as_prefix(match: re.Match[str]) -> str:
    command = {"over": "frac", "choose": "binom"}[match[2]]
    return rf"\{command}{{{match[1].strip()}}}{{{match[3].strip()}}}"


def _strip_outside(text: str) -> str:
    text = _END.sub("", text.strip()).strip()
    if text.endswith("**") and text.count("**") % 2:  # the other half stood before a heading
        text = text.rstrip("* ")
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES + "*_":
        return text[1:-1]
    if text.startswith("{") and _closing_brace(text, 0) == len(text) - 1:
        return text[1:-1]
    match = _WRAPPER.match(text)
    if match and match.end() == len(text):
        return match.group(1)
    boxed = re.match(r"\\(?:boxed|fbox|text|mathrm|textbf|mathbf)\s*\{", text)
    if boxed and _closing_brace(text, boxed.end() - 1) == len(text) - 1:
        return text[boxed.end() : -1]
    return text


def _closing_brace(text: str, start: int) -> int:
    """Position of the brace that closes the one at `start`, -1 when none does."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return -1


def undecorated(text: str) -> str:
    """Without emoji and marks around it; what is nothing else stays as it is."""
    if text.isascii():
        return text
    return _DECORATED.sub("", text.translate(_CHECK_MARKS)) or text


def _without_markup(text: str) -> str:
    """Without code fences, tags and entities of HTML, and tokens that end a text."""
    text = _FENCE.sub("", SPECIAL_TOKEN.sub("", text))
    text = _SCRIPTS.sub(lambda script: f"{'^' if script[1] == 'sup' else '_'}{{{script[2]}}}", text)
    text = _HTML.sub("", text)
    return _ENTITY.sub(lambda entity: html.unescape(entity.group()), text)


def _lines(environment: re.Match[str]) -> str:
    """The lines of an aligned environment as a list."""
    lines = environment[2].replace("&", "").split("\\\\")
    return ", ".join(line.strip().rstrip(",;") for line in lines if line.strip())


def _plain_unicode(text: str) -> str:
    text = _CIRCLED.sub(r"\1, ", text)
    text = unicodedata.normalize("NFC", text)
    text = _SUBSCRIPT_RUN.sub(lambda run: "_{" + _plain_digits(run.group()) + "}", text)
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text)
    text = text.translate(_SYMBOLS)
    text = _ROOT.sub(lambda root: r"\sqrt{" + root[1] + "}" if root[1] else r"\sqrt", text)
    return "".join(map(_plain_character, text))


def _plain_digits(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _plain_character(character: str) -> str:
    if character.isascii():
        return character
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width characters and direction marks
        return ""
    if category == "Zs":
        return " "
    plain = unicodedata.normalize("NFKC", character)
    if "\u2044" in plain:  # one half as one character; 7 before it makes a mixed number
        return " " + plain.replace("\u2044", "/")
    return plain
