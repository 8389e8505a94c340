"""What a run leaves: tables on the screen, JSON and Markdown in `benchmarks/out/`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()


@dataclass(frozen=True, slots=True)
class Report:
    """One section: a table, what it means, and the raw figures behind it.

    `claims` maps a sentence to whether it held in this run.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)
    claims: dict[str, bool] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)


def show(report: Report) -> None:
    table = Table(*report.header, title=report.title, title_justify="left")
    for row in report.rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
    for line in _remarks(report):
        console.print(escape(line))


def _remarks(report: Report) -> list[str]:
    verdicts = [f"{'met' if held else 'MISSED'}: {claim}" for claim, held in report.claims.items()]
    return [*report.notes, *verdicts]


def markdown(machine: Mapping[str, str], reports: list[Report]) -> str:
    """The whole run as one page."""
    parts = ["# Benchmarks", "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items())]
    for report in reports:
        parts += [f"## {report.title}", _markdown_table(report)]
        parts += ["\n".join(f"* {line}" for line in _remarks(report))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(report: Report) -> str:
    lines = [report.header, tuple("---" for _ in report.header), *report.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write(folder: Path, machine: Mapping[str, str], reports: list[Report]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for report in reports:
        content = {"machine": machine, **asdict(report)}
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (folder / f"{report.name}.json").write_text(text)
    (folder / "summary.md").write_text(markdown(machine, reports))
