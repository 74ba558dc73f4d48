"""What MkDocs does with these pages beside rendering them (`make docs`).

- A link to a file outside of docs/ leads to a page made of that file, so that one link holds on
  GitHub and in the site.
- A line `<!-- generated: NAME -->` becomes what `generated.py` makes of the code.
- Experiments and decisions get their title and answer from their front matter.
- A table or list that follows a line of text begins, as it does on GitHub.
- In the nav a folder (`experiments/`) stands for all pages in it.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from generated import GENERATED
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTSIDE = "files"  # where pages of files outside of docs/ stand in the site
LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(`{3,}).*?^\1`*[ \t]*$", re.S | re.M)
BLOCK = re.compile(r"\||- |\d+\. ")  # a row of a table, an item of a list
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.M)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = [_expanded(entry) for entry in config.nav or []]
    return config


def _expanded(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(inner) for title, inner in entry.items()}
    if isinstance(entry, list):
        return [one for inner in entry for one in _several(inner)]
    return entry


def _several(entry: Any) -> list[Any]:
    if isinstance(entry, str) and entry.endswith("/"):
        return [f"{entry}{page.name}" for page in sorted((DOCS / entry).glob("*.md"))]
    return [_expanded(entry)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    todo = [DOCS / file.src_uri for file in files.documentation_pages()]
    known = set(todo)
    while todo:
        for target in _targets(todo.pop()):
            if target in known or target.is_relative_to(DOCS) or not target.is_file():
                continue
            known.add(target)
            if target.suffix == ".md":
                todo.append(target)
            files.append(File.generated(config, _uri(target), content=_page_of(target)))
    return files


def _targets(page: Path) -> Iterator[Path]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target, _ in LINK.findall(text):
        if "://" not in target:
            yield Path(os.path.normpath(page.parent / target))


def _uri(file: Path) -> str:
    """Where a file of the checkout stands among the site's sources."""
    if file.is_relative_to(DOCS):
        return str(file.relative_to(DOCS))
    name = str(file.relative_to(ROOT))
    return f"{OUTSIDE}/{name}" + ("" if file.suffix == ".md" else ".md")


def _page_of(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return text
    if file.suffix == ".ipynb":
        cells = [(one["cell_type"], "".join(one["source"])) for one in json.loads(text)["cells"]]
        parts = [f"```python\n{said}\n```" if kind == "code" else said for kind, said in cells]
        return "\n\n".join(parts)
    language = LANGUAGES.get(file.suffix, "text")
    return f"# {file.relative_to(ROOT)}\n\n`````{language}\n{text}`````\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri
    is_outside = uri.startswith(f"{OUTSIDE}/")
    source = ROOT / uri.removeprefix(f"{OUTSIDE}/") if is_outside else DOCS / uri
    text = MARK.sub(lambda mark: GENERATED[mark[1]](), _with_head(markdown, page))
    return _outside_fences(text, lambda part: _with_links(_apart(part), source, uri))


def _with_head(markdown: str, page: Page) -> str:
    """What the front matter of an experiment or a decision says."""
    number, meta = page.file.name.partition("-")[0], page.meta
    status = str(meta.pop("status", "")).capitalize()  # the theme would make an icon of it
    if "question" in meta:
        answer = meta["answer"]
        head = (
            f"# {number} {meta['question']}\n\n**{answer[0].upper()}{answer[1:]}.**\n\n"
            f"{status}, {meta['date']}. Machine {meta['machine']}.\n\n"
            f"```text\n{meta['command']}\n```\n\n"
        )
        return head + markdown
    if "decision" in meta:
        said = f"# {number} \\1\n\n**{status}: {meta['decision']}.**\n"
        return re.sub(r"^# (.*)\n", said, markdown.lstrip(), count=1)
    return markdown


def _apart(text: str) -> str:
    """With an empty line between a paragraph and the table or list behind it."""
    lines: list[str] = []
    for line in text.split("\n"):
        before = lines[-1] if lines else ""
        if BLOCK.match(line) and before and not BLOCK.match(before) and before[0] not in " #":
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    parts, at = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, change(text[at:])])


def _with_links(text: str, source: Path, uri: str) -> str:
    def changed(link: re.Match[str]) -> str:
        if "://" in link[1] or link[1].startswith("mailto:"):
            return link[0]
        target = _uri(Path(os.path.normpath(source.parent / link[1])))
        return f"]({os.path.relpath(target, os.path.dirname(uri) or '.')}{link[2] or ''})"

    return LINK.sub(changed, text)
