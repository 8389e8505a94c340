"""What the command line shows: live bars on standard error, tables on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mediaray.values import (
    COMPLETED,
    ModelView,
    Progress,
    ProgressCallback,
    TaskView,
    Transfer,
    TransferCallback,
)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


def eta_text(eta_s: float | None) -> str:
    if eta_s is None:
        return ""
    minutes, seconds = divmod(round(eta_s), 60)
    return f"{minutes}:{seconds:02d} left"


def amount_text(progress: Progress) -> str:
    """Such as "120/300 frames": committed units, and of how many where that is known."""
    if not progress.unit:
        return ""
    total = f"/{progress.total:g}" if progress.total else ""
    return f"{progress.done:g}{total} {progress.unit}"


@contextmanager
def task_bar(task_id: str) -> Iterator[ProgressCallback]:
    """A bar for one task; a spinner runs through it while the total is unknown."""
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TextColumn("{task.fields[detail]}"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=err) as live:
        row = live.add_task(escape(f"{task_id} pending"), total=None, detail="")

        def show(progress: Progress) -> None:
            words = (amount_text(progress), eta_text(progress.eta_s))
            is_done = progress.status == COMPLETED
            live.update(
                row,
                description=escape(
                    f"{task_id} {progress.status if is_done else progress.stage or progress.status}"
                ),
                total=1.0 if is_done or progress.fraction is not None else None,
                completed=1.0 if is_done else progress.fraction or 0.0,
                detail="" if is_done else escape(", ".join(word for word in words if word)),
            )

        yield show


@contextmanager
def transfer_bars() -> Iterator[TransferCallback]:
    """One bar for each file that moves."""
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=err) as live:
        rows: dict[str, bars.TaskID] = {}

        def show(transfer: Transfer) -> None:
            if transfer.name not in rows:
                rows[transfer.name] = live.add_task(escape(transfer.name), total=transfer.total_bytes)
            live.update(rows[transfer.name], completed=transfer.done_bytes, total=transfer.total_bytes)

        yield show


def print_task(view: TaskView) -> None:
    """The task, its result and its files, one fact a line."""
    colour = COLOURS.get(view.status, "default")
    out.print(f"{escape(view.id)}  [{colour}]{view.status}[/]  {escape(view.message)}")
    if view.progress and view.status == "running":
        words = (view.progress.stage, amount_text(view.progress), eta_text(view.progress.eta_s))
        out.print(escape("  " + ", ".join(word for word in words if word)))
    for key, value in (view.result or {}).items():
        out.print(escape(f"  {key}: {value}"))
    for file in view.files:
        out.print(escape(f"  file {file.path} ({file.size_bytes} bytes)"))


def print_models(models: Iterable[ModelView]) -> None:
    table = Table("task", "engine", "ready", "missing", box=None)
    for model in models:
        ready = "[green]yes[/]" if model.is_ready else "[red]no[/]"
        table.add_row(escape(model.name), escape(model.engine), ready, escape("; ".join(model.missing)))
    out.print(table)


def complain(message: str, next_step: str = "") -> None:
    """One line on standard error: what is wrong, then what to do about it."""
    err.print(f"[red]error:[/] {escape(message)}" + (f" [dim]→[/] {escape(next_step)}" if next_step else ""))
