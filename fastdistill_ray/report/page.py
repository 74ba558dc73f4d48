"""Blocks of a report page and their two renderings: one self-contained HTML file, and Markdown.

Knows nothing of runs or models. Every text is plain: it is escaped here and nowhere else.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastdistill_ray.report.colours import on_paper, variables

LONG = 30  # characters of a cell that may be broken into lines
MANY = 10  # columns, for paper
MAX_CHARACTERS = 2000  # of one text shown; a page of whole reasoning traces cannot be read


class Cell(NamedTuple):
    text: str
    note: str = ""  # smaller, behind the text: an interval
    mark: str = ""  # colour of a dot before the text


@dataclass(frozen=True)
class Table:
    header: list[str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    num_text_columns: int = 1  # aligned left; the numbers behind them right
    title: str = ""
    is_prose: bool = False  # sentences: on a narrow page a cell stands below another


@dataclass(frozen=True)
class Figure:
    svg: str
    caption: str

    @property
    def file(self) -> str:
        """Its name beside a Markdown page."""
        name = re.search('aria-label="([^"]*)"', self.svg)
        return f"{_slug(name[1] if name else 'figure')}.svg"


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Listing:
    """Long literal text behind a line that opens it."""

    title: str
    text: str


@dataclass(frozen=True)
class Shown:
    """One completion: who wrote it, what was judged of it, what it says."""

    author: str
    verdict: str
    facts: list[str]
    text: str
    mark: str = ""
    is_open: bool = False


@dataclass(frozen=True)
class Example:
    heading: str
    question: str
    reference: str
    answers: list[Shown]


@dataclass(frozen=True)
class Browser:
    """Many groups of completions, which browser.js filters, sorts and shows as they are asked for;
    `plain` is what is there without scripts."""

    note: str
    data: dict[str, Any]
    plain: list[Example]


Block = Table | Figure | Text | Listing | Example | Browser


@dataclass(frozen=True)
class Section:
    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    conclusion: list[str]  # its lines
    sections: list[Section]
    brief: Table | None = None  # before all else
    rivals: Table | None = None  # below it


def to_html(page: Page) -> str:
    sections = [section for section in page.sections if section.blocks]
    links = "".join(f'<a href="#{_slug(s.title)}">{html.escape(s.title)}</a>' for s in sections)
    body = "".join(_section_html(section) for section in sections)
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in page.conclusion)
    style = variables() + _beside("page.css")
    has_script = any(isinstance(block, Browser) for one in sections for block in one.blocks)
    script = _beside("browser.js") if has_script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(page.title)}</title><style>{style}</style></head><body><main>"
        f'<header><h1 id="brief-title">{html.escape(page.title)}</h1>'
        f'<p class="subtitle">{html.escape(page.subtitle)}</p></header>'
        f"{_table_html(page.brief, 'brief-0') if page.brief else ''}"
        f"{_table_html(page.rivals, 'brief-1') if page.rivals else ''}"
        f'<div class="conclusion">{lines}</div><nav>{links}</nav>'
        f"{body}</main>{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def to_markdown(page: Page, figures: str = "") -> str:
    """The text, the tables and, of the folder `figures` beside the page, the figures; listings and
    examples are in the HTML page only."""
    first = [_table_markdown(table) for table in (page.brief, page.rivals) if table]
    lines = map(_md, page.conclusion)
    said = "\n".join(f"- {line}" for line in lines) if len(page.conclusion) > 1 else "".join(lines)
    parts = [f"# {_md(page.title)}", _md(page.subtitle), *first, said]
    for section in page.sections:
        blocks = [_block_markdown(block, figures) for block in section.blocks]
        if any(blocks):
            parts += [f"## {_md(section.title)}", *blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def figures_of(page: Page) -> dict[str, str]:
    """File name -> SVG of every figure: in colours of the day, on paper."""
    return {
        block.file: on_paper(block.svg)
        for section in page.sections
        for block in section.blocks
        if isinstance(block, Figure)
    }


def _beside(file: str) -> str:
    return Path(__file__).with_name(file).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Nothing is loaded, and no script runs but the page's own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"'sha256-{digest}'" if script else "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {scripts}"


def _section_html(section: Section) -> str:
    place = _slug(section.title)
    blocks = "".join(
        _block_html(block, f"{place}-{number}") for number, block in enumerate(section.blocks)
    )
    title = html.escape(section.title)
    return f'<section id="{place}"><h2 id="{place}-title">{title}</h2>{blocks}</section>'


def _block_html(block: Block, place: str) -> str:
    match block:
        case Table():
            return _table_html(block, place)
        case Figure():
            caption = _caption_html(block.caption, "figcaption")
            return f'<figure><div class="drawing" tabindex="0">{block.svg}</div>{caption}</figure>'
        case Text():
            return f"<p>{html.escape(block.text)}</p>"
        case Listing():
            return (
                f"<details><summary>{html.escape(block.title)}</summary>"
                f"<pre>{html.escape(block.text)}</pre></details>"
            )
        case Example():
            return _example_html(block)
        case Browser():
            return _browser_html(block)


def _browser_html(browser: Browser) -> str:
    data = json.dumps(browser.data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    plain = "".join(_example_html(example) for example in browser.plain)
    return (
        f'<p>{html.escape(browser.note)}</p><div class="browser"><div class="tools" hidden></div>'
        '<p class="found" aria-live="polite"></p><div class="list"></div>'
        f'<button class="more" type="button" hidden></button><div class="plain">{plain}</div>'
        f'<script type="application/json">{for_script(data)}</script></div>'
    )


def for_script(data: str) -> str:
    """JSON in which nothing can end the element that it stands in."""
    return data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _table_html(table: Table, place: str) -> str:
    def row(cells: Sequence[Cell | str], is_header: bool) -> str:
        parts = []
        for number, cell in enumerate(cells):
            kind = "text" if number < table.num_text_columns else "number"
            if not is_header and len(cell if isinstance(cell, str) else cell.text) > LONG:
                kind += " long"
            tag, scope = ("th", ' scope="col"') if is_header else ("td", "")
            if not is_header and number == 0:
                tag, scope = "th", ' scope="row"'
            parts.append(f'<{tag}{scope} class="{kind}">{_cell_html(cell)}</{tag}>')
        return f"<tr>{''.join(parts)}</tr>"

    section = place.rpartition("-")[0]
    names = f"{section}-title {place}" if table.title else f"{section}-title"
    title = f'<h3 id="{place}">{html.escape(table.title)}</h3>' if table.title else ""
    about = f' aria-describedby="{place}-about"' if table.caption else ""
    caption = _caption_html(table.caption, "p", f' id="{place}-about"')
    body = "".join(row(cells, False) for cells in table.rows)
    kind = "table prose" if table.is_prose else "table"
    kind += " wide" if len(table.header) > MANY else ""
    return (
        f'{title}<div class="{kind}" tabindex="0"><table aria-labelledby="{names}"{about}><thead>'
        f"{row(table.header, True)}</thead><tbody>{body}</tbody></table></div>{caption}"
    )


def _cell_html(cell: Cell | str) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    note = f" <small>{html.escape(cell.note)}</small>" if cell.note else ""
    return f"{_mark_html(cell.mark)}{html.escape(cell.text)}{note}"


def _example_html(example: Example) -> str:
    answers = "".join(_answer_html(answer) for answer in example.answers)
    return (
        f'<article><h3>{html.escape(example.heading)}</h3><p class="question">'
        f'{html.escape(shorten(example.question))}</p><p class="reference">Reference answer: '
        f"<b>{html.escape(shorten(example.reference))}</b></p>{answers}</article>"
    )


def _answer_html(answer: Shown) -> str:
    # Only a plain word may become a class name.
    verdict = answer.verdict if answer.verdict.isalpha() else "other"
    facts = "".join(f"<span>{html.escape(fact)}</span>" for fact in answer.facts)
    return (
        f'<details class="answer"{" open" if answer.is_open else ""}><summary>'
        f'<span class="author">{_mark_html(answer.mark)}{html.escape(answer.author)}</span>'
        f'<span class="verdict {verdict}">{html.escape(answer.verdict)}</span>{facts}</summary>'
        f"<pre>{html.escape(shorten(answer.text))}</pre></details>"
    )


def _mark_html(colour: str) -> str:
    return f'<i style="background:{html.escape(colour)}"></i>' if colour else ""


def _caption_html(caption: str, tag: str, attribute: str = "") -> str:
    return f'<{tag} class="caption"{attribute}>{html.escape(caption)}</{tag}>' if caption else ""


def _block_markdown(block: Block, figures: str) -> str:
    match block:
        case Text():
            return _md(block.text)
        case Browser():
            return _md(block.note)
        case Figure() if figures:
            name = block.file.removesuffix(".svg").replace("-", " ")
            return f"![{name}]({figures}/{block.file})\n\n{_md(block.caption)}"
        case Table():
            return _table_markdown(block)
    return ""


def _table_markdown(block: Table) -> str:
    rules = ["---" if i < block.num_text_columns else "---:" for i in range(len(block.header))]
    rows = [[_cell_markdown(cell) for cell in cells] for cells in block.rows]
    lines = [[_md(name) for name in block.header], rules, *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    title = f"### {_md(block.title)}\n\n" if block.title else ""
    return title + table + (f"\n\n{_md(block.caption)}" if block.caption else "")


def _cell_markdown(cell: Cell | str) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    return _md(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def _md(text: str) -> str:
    """One line that Markdown shows as it is, inside a table cell too."""
    line = " ".join(html.escape(text, quote=False).split())
    return re.sub(r"([\\|`*_#\[\]])", r"\\\1", line)


def shorten(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} [... {len(text) - MAX_CHARACTERS:,} more characters]"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
