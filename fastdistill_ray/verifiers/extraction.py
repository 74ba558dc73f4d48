"""The committed answer of a completion: where it stands and its text; nothing is compared here.

One left-to-right pass with a stack finds tags and boxes, so the time is linear in the text.
"""

import itertools
import re
from typing import NamedTuple

from fastdistill_ray.records import Kind
from fastdistill_ray.text import BOX_START, Box, find_boxes, is_blank
from fastdistill_ray.verifiers.cleaning import SPECIAL_TOKEN
from fastdistill_ray.verifiers.words import read_numeral

_ANSWER_TAG = re.compile(r"<(/?)(?i:answer)\s*>")

# Words between "the answer" and its value: is, becomes, should be, to this problem is, :, =.
_VERB = (
    r"(?:\s+(?:to|for|of)\s+(?:this|the|that|our|my)\s[\w ]{1,40}?)?[\s*_]*"
    r"(?:\b(?:is|are|was|were|be|becomes?|equals?|(?:should|must|would|will|has\s+to"
    r"|can\s+only)\s+be"
    r"|comes?\s+(?:out\s+)?to|turns\s+out\s+to\s+be)\b|:|\uff1a|=)"
)
_PADDED = (
    r"(?:\s*(?:\b(?:equal\s+to|therefore|thus|hence|indeed|clearly|simply|then|just|also|so"
    r"|obviously|definitely|exactly|actually|now)\b|:|\uff1a|=))*"
)
_NOUN = r"(?:answers?|ans|\u7b54\u6848|\u7b54)"
_STATED = re.compile(
    r"(?m:^[^\w\n]*(?i:(?:the\s+)?(?:final\s+)?answer)[^\w\n]*$)"
    rf"|####|(?<![A-Za-z])(?i:{_NOUN}(?:\s*\([^()\n]{{1,20}}\))?[*_]*{_VERB}{_PADDED})"
    rf"|\u7b54\u6848\s*[\u662f\u4e3a]"
)
# Headings that hold no answer: `#### Step 3:`, `#### 2. Total`, `#### Verification`.
_HEADING = re.compile(
    r"(?:(?:step|part|method|case|solution|option|phase|stage|approach|example)\s*\d"
    r"|(?:verification|verify|explanation|check|checking|conclusion|summary|reasoning|notes?"
    r"|solution|steps?)\W*$"
    r"|\d{1,2}[.)] +[A-Za-z][^.!]*$)",
    re.IGNORECASE,
)
_ONLY_WORDS = re.compile(r"[A-Za-z][A-Za-z ]{2,}:?")
# What is said of an answer after it, some of it only of numbers: `the answer is rounded to 2
# places`; what a colon follows is no remark.
_REMARK = re.compile(
    r"(?:(?:also|indeed|therefore|thus|clearly|not|quite|very|an?|the) +)*"
    r"(?:correct|right|reasonable|verified|consistent|helpful"
    r"|(?:valid|rounded|clear|given|integer|in dollars)(?P<of_number>))\b(?! by)"
    r"(?= *$|[ ,]+(?:to|with|as|in|for|and|because|since|that|if|when|up|down|but)\b)[^:]*",
    re.IGNORECASE,
)
_PLACES = re.compile(r"\d+ (?:decimal )?(?:places?|digits?|decimals?|(?:significant )?figures?)")
# Of a multiple choice also: correct option: C; I choose C; \u9009 C.
_CHOSEN = re.compile(
    r"(?<![A-Za-z])(?i:(?:final\s+|correct\s+|right\s+|best\s+){1,4}(?:option|choice|letter)?[*_]*"
    rf"{_VERB}{_PADDED}|(?<![Tt]his\s)(?:option|choice)[*_]*\s*(?::|is\b){_PADDED}"
    r"|\b(?:I|we)(?:\s+(?:would|will|\u2019ll|'ll|'d|must|should|can|therefore|thus))*\s+"
    r"(?:pick|choose|select|chose|picked|selected|go\s+with|opt\s+for|answer)\b)"
    r"|\u7b54\u6848\s*(?:\u5e94(?:\u8be5|\u5f53)?)?\s*(?:\u662f|\u4e3a|\u9009\u62e9?|:|\uff1a)"
    r"|(?<!\u4e0d)\u5e94(?:\u8be5|\u5f53)?\s*\u9009\u62e9?|\u3010\u7b54\u6848\u3011|(?:\u6545"
    r"|\u6240\u4ee5|\u56e0\u6b64|\u672c\u9898|\u6211|^"
    r"|[\u3002\uff0c,\s]) ?\u9009\u62e9?(?!\u9879)"
    r"|(?:\u0627\u0644\u0625\u062c\u0627\u0628\u0629"
    r"|\u0627\u0644\u062c\u0648\u0627\u0628)"
    r"(?:\s+\u0627\u0644\u0635\u062d\u064a\u062d\u0629)?\s*(?:\u0647\u064a)?\s*:?",
    re.MULTILINE,
)
# The letter first: option C is correct; (C) is the right answer; \u9009\u9879C\u6b63\u786e.
_CONFIRMED = re.compile(
    r"(?<![A-Za-z'\u2019])(?i:(?:option|choice|answer|letter)\s{1,3})?[*_\"'(\[]{0,5}([A-Z])[*_\"')\].:]{0,6}"
    r"(?: [^.\n?!]{0,60}?)? (?:is|seems|must\s+be|would\s+be|has\s+to\s+be|looks)\s+"
    r"(?:(?:indeed|clearly|therefore|thus|definitely|obviously|also|most\s+likely)\s+)?"
    r"(?:the\s+|our\s+|my\s+)?(?:(?:only|most|one)\s+)*(?:correct|right|best|appropriate|true"
    r"|answer)\b"
    r"|(?:\u53ea\u6709)? ?(?:\u9009\u9879|\u7b54\u6848)? ?([A-Z]) ?(?:\u9009\u9879"
    r"|\u9879)? ?(?:\u662f)? ?(?:\u6b63\u786e|\u5bf9)(?:\u7684|\u9009\u9879|\u7b54\u6848)?"
)
_DENIED = re.compile(
    r"(?i:\b(?:not|n't|never|neither|nor|if|whether|doubt|either|or|both|and|would\s+be\s+wrong"
    r"|incorrect|wrong)\b|n[\u2019']t\b)"
    r"|\u4e0d|\u9519|\u975e"
)
# After a stated answer: what others think, and what would be right elsewhere, is not an answer.
_DOUBTED = re.compile(
    r"(?<!\bI )(?<!\bwe )\b(?:thinks?|argues?|believes?|often|would)\b", re.IGNORECASE
)
_NOTHING_ELSE = re.compile(r"[*_ ]*(?:answer|option|choice|one)?[*_ ]*(?:[.!\u3002\n]|$)")
# Marks between a heading or colon and the value: quotes, bullets, emphasis, displayed mathematics.
_STATED_PADDING = re.compile(
    r"(?:[\s:\uff1a*_#$]|>(?=\s)|\\\[|\\\((?!\w\\\))|[-\u2022+](?=\s+\S)|<[a-z]+>|```[a-z]*\n)*",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"(?<![\w)*])(\*{1,2}|__)(?=\S)([^*\n]{1,80}?)(?<=\S)\1(?![\w*({\\])")
_EMPHASIS_ENDS = re.compile(r"[^*_\n]*[^\s*_](\*{1,2}|__)(?![\w*({\\-])")
# A full stop ends the statement unless a digit follows, as in 3.5.
_STATED_END = re.compile(
    r"\n|\\n(?![a-z])|\.(?=\s|$|\\n|<|\*)|\u3002|</?(?i:think|answer)\b|[!](?=\s|$)|\\\]|<\|"
)
_NEW_QUESTION = re.compile(
    r"\n[#* ]{0,8}(?:Question|Problem|Exercise|Q|Human|User|\u95ee\u9898"
    r"|\u9898\u76ee) ?\d{0,6} ?[*]{0,3}[:.\uff1a]",
    re.IGNORECASE,
)
_LAST_NUMBER = re.compile(r"(?:(?<![\w)])-)?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
# The same words at the beginning of a box or block lead to the answer.
_STATED_LEAD = re.compile(
    r"(?:\\text\s*\{\s*)?(?:(?:so|thus|hence|therefore),?\s+)?(?:(?:the|my|our)\s+)?"
    r"(?:(?:final|correct|right)\s+)*answers?\s*(?:is\b|are\b|:|=)\s*:?\s*\}?",
    re.IGNORECASE,
)
_BETWEEN_BOXES = re.compile(r"\}[\s$.,;:*]*(?:(?:and|or)[\s$*]*)?\\{1,2}(?:boxed|fbox)\s*\{")
_PLAIN_BOX = re.compile(r"\\boxed\{([^{}<\\]*)\}")


class Extraction(NamedTuple):
    """`answer` is "" when there is none; `reason` says where it was found or why there is none."""

    answer: str
    reason: str


WHOLE = "whole response"
CUT = "the stated answer is cut"
MAX_TRIED = 50  # statements, from the last
MAX_OPTION = 80  # characters of an option's text after its letter
_LETTER = re.compile(r"\W*[A-Za-z]")
_DISPLAYED = re.compile(r"\$+[^$]+\$+|\\\(.+\\\)|\\\[.+\\\]")
MAX_WHOLE = 200  # characters of a response that is nothing but its answer
# A base model asked again begins to reason instead of answering.
_BEGUN = re.compile(r"let'?s |let us |let me |we (?:need|have|can|will) |first,? ", re.IGNORECASE)


class Rules(NamedTuple):
    """Where an answer may stand besides in one box of an answer block."""

    unboxed_blocks: bool
    boxes_outside_answer: bool
    stated_answers: bool
    several_boxes: bool


def extract_answer(text: str, rules: Rules, kind: Kind, *, is_cut: bool) -> Extraction:
    """The answer by rules 1 and 2 of the contract; `is_cut`: the token limit ended the text."""
    found = _find_answer(text, rules, kind, is_cut)
    lead = None if found.answer[:1].isdigit() else _STATED_LEAD.match(found.answer)
    return found._replace(answer=_after_lead(found.answer, lead.end())) if lead else found


def _find_answer(text: str, rules: Rules, kind: Kind, is_cut: bool) -> Extraction:
    if "<|" in text or "</s>" in text:
        text = SPECIAL_TOKEN.sub("", text)
    if content := only_content(text):
        return _from_block(content, rules, kind)
    blocks, opened = answer_blocks(text)
    filled = [
        content for content in (text[b.start : b.end] for b in blocks) if not is_blank(content)
    ]
    if filled:
        return _from_block(filled[-1].strip(), rules, kind)
    if blocks:
        return Extraction("", "the answer block is empty")
    if opened is not None:
        # A block that was begun and cut is not an answer, and what stands before it was not meant.
        box = _last_box(text[opened:], rules, kind) if rules.boxes_outside_answer else ""
        return Extraction(box, "last box" if box else "the answer block is not closed")
    thought, closed, prose = text.rpartition("</think>")
    if not closed:
        return _from_prose(text, rules, kind, is_cut)
    found = _from_prose(prose, rules, kind, is_cut)
    return found if found.answer else _from_prose(thought, rules, kind, is_cut=False)


def _from_prose(text: str, rules: Rules, kind: Kind, is_cut: bool) -> Extraction:
    """Of a base model that goes on with questions of its own, the answer before the first."""
    found = Extraction("", "no answer")
    starts = [0, *(match.start() for match in _NEW_QUESTION.finditer(text)), len(text)]
    if "<think>" in text:
        starts = [0, len(text)]
    for start, end in itertools.pairwise(starts):
        found = _from_part(text[start:end], rules, kind, is_cut and end == len(text))
        if found.answer:
            break
    return found


def _from_part(text: str, rules: Rules, kind: Kind, is_cut: bool) -> Extraction:
    if rules.boxes_outside_answer and (box := _last_box(text, rules, kind)):
        return Extraction(box, "last box")
    if not rules.stated_answers:
        return Extraction("", "no answer")
    found = _stated(text, kind, is_cut)
    whole = text.strip()
    if not found.answer and not is_cut and _is_bare(whole, kind):
        return Extraction(whole, WHOLE)
    return found


def _is_bare(text: str, kind: Kind) -> bool:
    """One line that is a number or may be a choice."""
    if not 0 < len(text) <= MAX_WHOLE or "\n" in text or BOX_START.search(text):
        return False
    if kind in ("math", "list"):
        return _DISPLAYED.fullmatch(text) is not None
    words = re.search(r"[^\W\d_]{2}", re.sub(r"\\[A-Za-z]+", "", text))
    return kind == "choice" or (kind == "number" and not words)


def _after_lead(answer: str, start: int) -> str:
    """`The answer is 42` inside a box or block is 42."""
    rest = answer[start:].strip()
    if rest.endswith("}") and rest.count("}") > rest.count("{"):
        rest = rest[:-1]
    return answer if is_blank(rest) else rest


def last_number(text: str, *, is_cut: bool) -> str:
    """The last number of the text as written, "" when there is none; of a text that was cut, the
    last that may not go on where it was."""
    numbers = list(_LAST_NUMBER.finditer(text))
    if is_cut and numbers and not text[numbers[-1].end() :].strip("./"):
        numbers.pop()
    return numbers[-1][0].rstrip(",") if numbers else ""


def only_content(text: str) -> str:
    """What the last block holds where nothing but its end follows, else ""; as `answer_blocks`
    finds it, for all tags begin with `<`, in a fraction of the time.
    """
    begun = text.rpartition("<answer>")
    content, closing, after = begun[2].partition("</answer>")
    if not (begun[1] and closing) or "<" in content or "<" in after or is_blank(content):
        return ""
    return content.strip()


def answer_blocks(text: str) -> tuple[list[Box], int | None]:
    """Closed answer blocks, and where a last unclosed one begins."""
    blocks: list[Box] = []
    opened: int | None = None
    for match in _ANSWER_TAG.finditer(text):
        if not match[1]:
            opened = match.end()
        elif opened is not None:
            blocks.append(Box(opened, match.start()))
            opened = None
    return blocks, opened


def _last_box(text: str, rules: Rules, kind: Kind) -> str:
    if plain := _PLAIN_BOX.fullmatch(text):  # most answers; a third faster than the walk
        return "" if is_blank(plain[1]) else plain[1].strip()
    filled = [box for box in find_boxes(text) if not is_blank(text[box.start : box.end])]
    last = filled[-1:]
    if rules.several_boxes and kind == "list":
        for before, after in reversed(list(itertools.pairwise(filled))):
            if not _BETWEEN_BOXES.fullmatch(text[before.end : after.start]):
                break
            last.insert(0, before)
    return ", ".join(text[box.start : box.end].strip() for box in last)


def _from_block(content: str, rules: Rules, kind: Kind) -> Extraction:
    box = _last_box(content, rules, kind)
    if box:
        return Extraction(box, "last box of the answer block")
    if BOX_START.search(content):
        return Extraction("", "the box in the answer block is empty or not closed")
    if not rules.unboxed_blocks:
        return Extraction("", "the answer block has no box")
    if rules.stated_answers:
        stated = _stated(content, kind, is_cut=False)
        if stated.answer:
            return stated
    return Extraction(content, "answer block")


def _stated(text: str, kind: Kind, is_cut: bool) -> Extraction:
    """The last stated answer; one that the end of a cut text ends is not complete."""
    stated = list(_STATED.finditer(text))
    if kind != "choice":
        stated = [one for one in stated if not _of_others(text, one.start())]
    starts = [match.end() for match in stated]
    if kind == "choice":
        starts += [match.end() for match in _CHOSEN.finditer(text)]
    found = Extraction("", "the stated answer is empty" if starts else "no answer")
    at = -1
    for start in sorted(starts, reverse=True)[:MAX_TRIED]:
        found = _stated_from(text, start, kind, is_cut)
        if found.answer or found.reason == CUT:
            at = start
            break
    if kind == "choice" and not is_cut:
        confirmed = _confirmed(text, after=at)
        if confirmed:
            return Extraction(confirmed, "stated answer")
    return found


def _stated_from(text: str, start: int, kind: Kind, is_cut: bool) -> Extraction:
    is_heading = text.endswith("####", 0, start)
    padding = _STATED_PADDING.match(text, start)
    start = padding.end() if padding else start
    stop = _STATED_END.search(text, start)
    if stop is None and is_cut:
        return Extraction("", CUT)
    end = stop.start() if stop else len(text)
    if (
        kind == "choice" and stop and stop.group() == "." and _LETTER.fullmatch(text[start:end])
    ):  # C. Oslo
        further = _STATED_END.search(text, stop.end())
        line = further.start() if further else len(text)
        end = line if line - end < MAX_OPTION else end
    answer = text[start:end]
    if kind not in ("text", "scored"):
        answer = _without_emphasis(answer, text[text.rfind("\n", 0, start) + 1 : start])
    answer = answer.strip(" \t\r\n*_")
    if is_blank(answer) or BOX_START.search(answer) or _BEGUN.match(answer):
        return Extraction("", "the stated answer is empty")
    line = text[start : start + MAX_OPTION].partition("\n")[0]
    if _is_remark(answer, kind) or (is_heading and _is_only_heading(line.strip(), kind)):
        return Extraction("", "the stated answer is empty")
    return Extraction(answer, "stated answer")


def _without_emphasis(answer: str, before: str) -> str:
    """`**C** because`, also where the first marks stand in the line before the answer."""
    ends = _EMPHASIS_ENDS.match(answer)
    if ends:
        marks = ends[1]
        begun = before.replace("**", "") if marks == "*" else before
        if begun.count(marks) % 2:
            answer = answer[: ends.start(1)] + answer[ends.end(1) :]
    return _EMPHASIS.sub(r"\2", answer)


def _of_others(text: str, start: int) -> bool:
    """`A common wrong answer is 43`; of a choice it may be what is asked."""
    return text[max(start - 10, 0) : start].lower().endswith(("wrong ", "incorrect "))


def _is_only_heading(line: str, kind: Kind) -> bool:
    if _HEADING.match(line):
        return True
    is_words = kind == "number" and _ONLY_WORDS.fullmatch(line)
    return bool(is_words) and line.lower() != "none" and read_numeral(line) is None


def _is_remark(answer: str, kind: Kind) -> bool:
    remark = _REMARK.fullmatch(answer) if kind in ("number", "choice") else None
    if remark is None:
        return False
    if remark["of_number"] is None:
        return True
    # `rounded to the nearest whole number, 13` states one.
    return kind == "number" and not re.search(r"\d", _PLACES.sub("", answer))


def _confirmed(text: str, after: int) -> str:
    """`C` of the last `option C is correct` that no word of its sentence denies.

    After a stated answer, from -1 where there is none, only one that says nothing else counts:
    explanations say which statements are true and for what another option would be right.
    """
    for match in list(_CONFIRMED.finditer(text))[: -MAX_TRIED - 1 : -1]:
        if match.start() < after:
            return ""
        begin = max(text.rfind(mark, 0, match.start()) for mark in (". ", "\n", "\u3002", "? ")) + 1
        stop = re.compile(r"[.\u3002!?\n]").search(text, match.end())
        sentence = text[begin : stop.end() if stop else len(text)]
        if _DENIED.search(sentence) or sentence.endswith("?"):
            continue
        if after < 0 or _says_nothing_else(text, match, sentence):
            return match[1] or match[2]
    return ""


def _says_nothing_else(text: str, confirmed: re.Match[str], sentence: str) -> bool:
    is_true = confirmed.group().endswith("true")  # of a statement, not of the answer
    is_all = _NOTHING_ELSE.match(text, confirmed.end()) is not None
    return is_all and not is_true and not _DOUBTED.search(sentence)
