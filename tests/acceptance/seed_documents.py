"""The fenced blocks of the five contract documents, each with where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

FOLDER = Path(__file__).parents[1] / "seeds"


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `line` is its opening fence's, from 1; `text` has no indentation of a list."""

    seed: int
    line: int
    language: str
    heading: str
    text: str
    number: int = 0

    @property
    def place(self) -> str:
        """Such as seed2:L95, or seed2:L204:1 for a part of it."""
        return f"seed{self.seed}:L{self.line}" + (f":{self.number}" if self.number else "")

    @property
    def id(self) -> str:
        return f"{self.place}:{self.language or 'plain'}"

    def part(self, number: int, language: str, text: str) -> Block:
        return replace(self, number=number, language=language, text=text)


def blocks() -> list[Block]:
    """Every fenced block of every document, in reading order."""
    return [block for path in sorted(FOLDER.glob("[0-9]-*.md")) for block in blocks_of(path)]


def blocks_of(path: Path) -> Iterator[Block]:
    heading = ""
    tokens = MarkdownIt("commonmark").parse(path.read_text())
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            heading = following.content
        elif token.type in {"fence", "code_block"}:
            yield _block(token, int(path.name[0]), heading)


def count_of_fences(path: Path) -> int:
    """Opened fences by a count of lines that begin with one, to hold the parser against."""
    return len(re.findall(r"^\s*(?:```|~~~)", path.read_text(), flags=re.MULTILINE)) // 2


def _block(token: Token, seed: int, heading: str) -> Block:
    assert token.map is not None
    return Block(seed, token.map[0] + 1, token.info.strip(), heading, token.content)


@dataclass(frozen=True, slots=True)
class Fields:
    """What document 1, which has no fences, names in its lists and its table.

    `system` are the keys of the system status with the keys inside each, `defaults` the form's, `schemas` the
    fields of each answer that it names.
    """

    system: dict[str, list[str]]
    defaults: dict[str, str]
    schemas: dict[str, list[str]]


def fields_of_seed_1() -> Fields:
    text = (FOLDER / "1-flashvsr.md").read_text()
    status = text.partition("### 响应字段")[2].partition("##")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, flags=re.MULTILINE)
    return Fields(
        system={key: _named(rest) for key, rest in re.findall(r"^- `(\w+)`：(.*)$", status, re.MULTILINE)},
        defaults=dict(re.findall(r"^  - `(\w+)`: .*默认 `?([\w.]+)`?", text, flags=re.MULTILINE)),
        schemas={schema: _named(rest) for schema, rest in rows if _named(rest)},
    )


def _named(text: str) -> list[str]:
    return [name for name in re.findall(r"`(\w+)`", text) if name != "bool"]
