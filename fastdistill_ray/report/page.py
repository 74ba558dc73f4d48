"""Blocks of a report page and their two renderings: one self-contained HTML file, and Markdown.

Knows nothing of runs or models. Every text is plain: it is escaped here and nowhere else.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


@dataclass(frozen=True)
class Figure:
    svg: str
    caption: str


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


Block = Table | Figure | Text | Listing | Example


@dataclass(frozen=True)
class Section:
    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    conclusion: str
    sections: list[Section]


def to_html(page: Page) -> str:
    sections = [section for section in page.sections if section.blocks]
    links = "".join(f'<a href="#{_slug(s.title)}">{html.escape(s.title)}</a>' for s in sections)
    body = "".join(_section_html(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(page.title)}</title><style>{CSS}</style></head><body><main>"
        f"<header><h1>{html.escape(page.title)}</h1>"
        f'<p class="subtitle">{html.escape(page.subtitle)}</p></header>'
        f'<p class="conclusion">{html.escape(page.conclusion)}</p><nav>{links}</nav>'
        f"{body}</main></body></html>\n"
    )


def to_markdown(page: Page) -> str:
    """The text and the tables; figures, listings and examples are in the HTML page only."""
    parts = [f"# {_md(page.title)}", _md(page.subtitle), _md(page.conclusion)]
    for section in page.sections:
        blocks = [_block_markdown(b) for b in section.blocks if isinstance(b, Table | Text)]
        if blocks:
            parts += [f"## {_md(section.title)}", *blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section_html(section: Section) -> str:
    blocks = "".join(_block_html(block) for block in section.blocks)
    title = html.escape(section.title)
    return f'<section id="{_slug(section.title)}"><h2>{title}</h2>{blocks}</section>'


def _block_html(block: Block) -> str:
    match block:
        case Table():
            return _table_html(block)
        case Figure():
            return f"<figure>{block.svg}{_caption_html(block.caption, 'figcaption')}</figure>"
        case Text():
            return f"<p>{html.escape(block.text)}</p>"
        case Listing():
            return (
                f"<details><summary>{html.escape(block.title)}</summary>"
                f"<pre>{html.escape(block.text)}</pre></details>"
            )
        case Example():
            return _example_html(block)


def _table_html(table: Table) -> str:
    def row(cells: Sequence[Cell | str], tag: str) -> str:
        kinds = ["text" if i < table.num_text_columns else "number" for i in range(len(cells))]
        pairs = zip(kinds, cells, strict=True)
        return "".join(f'<{tag} class="{k}">{_cell_html(c)}</{tag}>' for k, c in pairs)

    title = f"<h3>{html.escape(table.title)}</h3>" if table.title else ""
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.rows)
    return (
        f'{title}<div class="table"><table><thead><tr>{row(table.header, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{_caption_html(table.caption, 'p')}"
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


def _caption_html(caption: str, tag: str) -> str:
    return f'<{tag} class="caption">{html.escape(caption)}</{tag}>' if caption else ""


def _block_markdown(block: Table | Text) -> str:
    if isinstance(block, Text):
        return _md(block.text)
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


CSS = """
:root { color-scheme: light; --ink: #1d2433; --soft: #667085; --line: #e4e7ec; --tint: #f7f8fa; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 44px 28px 96px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 6px; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 0 0 14px; }
h3 { font-size: 15px; margin: 22px 0 8px; }
p { max-width: 84ch; margin: 0 0 14px; }
.subtitle { color: var(--soft); margin: 0 0 24px; max-width: none; }
.conclusion { max-width: none; font-size: 16.5px; line-height: 1.6; background: var(--tint);
  border-left: 4px solid #0f8a6b; border-radius: 6px; padding: 16px 20px; margin: 0 0 18px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13.5px; margin-bottom: 8px; }
nav a { color: #3563a8; text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { padding-top: 26px; margin-top: 26px; border-top: 1px solid var(--line); }
.table { overflow-x: auto; margin: 0 0 12px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { font-size: 12.5px; font-weight: 600; color: var(--soft); vertical-align: bottom; }
th, td { padding: 7px 10px; border-bottom: 1px solid var(--line); text-align: left; }
thead th { border-bottom: 1.5px solid #cdd2da; }
tbody tr:hover { background: var(--tint); }
th:first-child, td:first-child { padding-left: 2px; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td small { display: inline-block; min-width: 6.3em; color: var(--soft); font-size: 12px; }
td:first-child { white-space: nowrap; }
i { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 8px; }
figure { margin: 0 0 18px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.caption { color: var(--soft); font-size: 13.5px; line-height: 1.5; margin: 6px 0 18px; }
article { border: 1px solid var(--line); border-radius: 8px; padding: 4px 18px 14px;
  margin: 0 0 18px; }
article h3 { margin-top: 14px; }
.question { max-width: none; white-space: pre-wrap; margin: 0 0 6px; }
.reference { color: var(--soft); margin: 0 0 10px; }
details { margin: 6px 0; }
summary { cursor: pointer; padding: 5px 0; }
.answer { border-top: 1px solid var(--line); margin: 0; }
.answer summary { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px;
  font-size: 13.5px; color: var(--soft); font-variant-numeric: tabular-nums; }
.answer summary::before { content: "\\25B8"; width: 10px; }
.answer[open] summary::before { content: "\\25BE"; }
.answer summary::-webkit-details-marker { display: none; }
.author { color: var(--ink); font-weight: 600; min-width: 14.5em; }
.verdict { min-width: 8em; text-align: center; border-radius: 10px; padding: 0 9px;
  font-weight: 600; font-size: 12px; color: #7a5200; background: #fdf0d5; }
.verdict.correct { color: #0b6b4d; background: #def3ea; }
.verdict.wrong { color: #a32638; background: #fbe3e6; }
pre { background: var(--tint); border-radius: 6px; padding: 12px 14px; margin: 4px 0 10px;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace; }
@media print { details { break-inside: avoid; } nav { display: none; } }
"""
