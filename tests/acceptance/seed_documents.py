"""The fenced blocks of the five contract documents, each with where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

FOLDER = Path(__file__).parents[1] / "seeds"


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `line` is its opening fence's, counted from 1; `text` carries no indentation of a list."""

    seed: int
    line: int
    language: str
    heading: str
    text: str

    @property
    def place(self) -> str:
        """Such as seed2:L95."""
        return f"seed{self.seed}:L{self.line}"

    @property
    def id(self) -> str:
        return f"{self.place}:{self.language or 'plain'}"


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
