"""What the command line shows: live bars on standard error, tables on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from typing import Any

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mediaray.events import LogLines, StatusChange, TaskEnd, TaskEvent
from mediaray.values import (
    COMPLETED,
    Delivery,
    Json,
    ModelView,
    Progress,
    TaskView,
    Transfer,
    TransferCallback,
)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

LONGEST_LINE_CHARS = 10_000

COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


def eta_text(progress: Progress) -> str:
    """Such as "1:05–1:30 left"; one time where the server gives one, or both ends look alike."""
    if progress.eta_low_s is not None and progress.eta_high_s is not None:
        ends_s = (progress.eta_low_s, progress.eta_high_s)
    elif progress.eta_s is not None:
        ends_s = (progress.eta_s, progress.eta_s)
    else:
        return ""
    return "–".join(dict.fromkeys(_clock_text(end_s) for end_s in ends_s)) + " left"


def _clock_text(time_s: float) -> str:
    minutes, seconds = divmod(round(time_s), 60)
    return f"{minutes}:{seconds:02d}"


def waiting_text(waiting: Json | None) -> str:
    """Why a task does not run yet, in the server's words."""
    return str((waiting or {}).get("text") or (waiting or {}).get("reason") or "")


def amount_text(progress: Progress) -> str:
    """Such as "120/300 frames": committed units, and of how many where that is known."""
    if not progress.unit:
        return ""
    total = f"/{progress.total:g}" if progress.total else ""
    return f"{progress.done:g}{total} {progress.unit}"


class TaskBar:
    """One task as a row; a spinner runs through its bar while the total is unknown.

    Where there is no terminal, so no bar either, each change of the status becomes a line.
    """

    def __init__(self, live: bars.Progress, task_id: str, with_logs: bool) -> None:
        self._live = live
        self._task_id = task_id
        self._with_logs = with_logs
        self._row = live.add_task(escape(f"{task_id} pending"), total=None, detail="")

    def show(self, event: TaskEvent) -> None:
        if isinstance(event, LogLines):
            self._log(event)
        elif isinstance(event, TaskEnd):
            self._end(event.view)
        elif isinstance(event, StatusChange):
            reason = waiting_text(event.waiting)
            if not self._live.console.is_terminal:
                self._line(f"{self._task_id} {event.status}" + (f": {reason}" if reason else ""))
            self._advance(event.progress, reason)
        else:
            self._advance(event.progress)

    def _log(self, event: LogLines) -> None:
        for line in event.lines if self._with_logs else ():
            self._line(line)

    def _line(self, text: str) -> None:
        self._live.console.print(text, markup=False)

    def _advance(self, progress: Progress, reason: str = "") -> None:
        words = (reason, amount_text(progress), eta_text(progress))
        self._live.update(
            self._row,
            description=escape(f"{self._task_id} {progress.stage or progress.status}"),
            total=None if progress.fraction is None else 1.0,
            completed=progress.fraction or 0.0,
            detail=escape(", ".join(word for word in words if word)),
        )

    def _end(self, view: TaskView) -> None:
        self._live.update(self._row, description=escape(f"{self._task_id} {view.status}"), detail="")
        if view.status == COMPLETED:
            self._live.update(self._row, total=1.0, completed=1.0)


@contextmanager
def task_bar(
    task_id: str, with_logs: bool = False, console: Console = err
) -> Iterator[Callable[[TaskEvent], None]]:
    """Shows a task's events as a live bar, with its log lines above the bar."""
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TextColumn("{task.fields[detail]}"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console) as live:
        yield TaskBar(live, task_id, with_logs).show


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
    with ExitStack() as stack:
        live = bars.Progress(*columns, console=err)
        rows: dict[str, bars.TaskID] = {}

        def show(transfer: Transfer) -> None:
            if not rows:
                stack.enter_context(live)  # not before: one without bars leaves an empty line
            if transfer.name not in rows:
                rows[transfer.name] = live.add_task(escape(transfer.name), total=transfer.total_bytes)
            live.update(rows[transfer.name], completed=transfer.done_bytes, total=transfer.total_bytes)

        yield show


def print_task(view: TaskView) -> None:
    """The task, its result and its files, one fact a line."""
    colour = COLOURS.get(view.status, "default")
    out.print(f"{escape(view.id)}  [{colour}]{view.status}[/]  {escape(view.message)}")
    if view.progress and view.status == "running":
        words = (view.progress.stage, amount_text(view.progress), eta_text(view.progress))
        out.print(escape("  " + ", ".join(word for word in words if word)))
    if waiting := waiting_text(view.waiting):
        out.print(escape(f"  {waiting}"))
    for key, value in (view.result or {}).items():
        out.print(escape(f"  {key}: {_value_text(value)}"))
    for file in view.files:
        out.print(escape(f"  file {file.path} ({file.size_bytes} bytes)"))


def _value_text(value: Any) -> str:
    """A text as it is, everything else as JSON, so that it can be given to `key:=` of a submit."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def print_models(models: Sequence[ModelView]) -> None:
    """What runs each task; below, why some cannot run, and dimmed what the engines they prefer lack."""
    table = Table("task", "engine", "ready", box=None)
    for model in models:
        ready = "[green]yes[/]" if model.is_ready else "[red]no[/]"
        table.add_row(escape(model.name), escape(model.engine), ready)
    _print(table)
    lacking = [(model.name, text) for model in models if not model.is_ready for text in model.missing]
    _print_notes("Not ready:", lacking, "default")
    optional = [note for model in models if model.is_ready for note in _preferred_engines(model)]
    _print_notes("Optional, as these run already; the engines they prefer lack:", optional, "dim")


def _preferred_engines(model: ModelView) -> Iterator[tuple[str, str]]:
    """The engines that would go before the one that runs, and what each lacks."""
    for engine in takewhile(lambda engine: engine.name != model.engine, model.engines):
        lacks = engine.missing or (("a GPU",) if engine.needs_gpu else ())
        yield model.name, f"{engine.name} ({engine.kind} engine): {'; '.join(lacks)}"


def _print_notes(title: str, notes: Iterable[tuple[str, str]], style: str) -> None:
    """One paragraph for each text, which names all tasks that it is about."""
    tasks: dict[str, list[str]] = {}
    for task, text in notes:
        tasks.setdefault(text, []).append(task)
    if tasks:
        _print(Text(f"\n{title}", style))
    for text, names in tasks.items():
        _print(Padding(Text(", ".join(names), style), (0, 0, 0, 2), expand=False))
        _print(Padding(Text(text, style), (0, 0, 0, 4), expand=False))


def print_tasks(views: Iterable[TaskView]) -> None:
    table = Table("id", "task", "status", "created", "message", box=None)
    for view in views:
        status = f"[{COLOURS.get(view.status, 'default')}]{view.status}[/]"
        table.add_row(escape(view.id), escape(view.name), status, view.created_at, escape(view.message))
    _print(table)


def print_deliveries(deliveries: Iterable[Delivery]) -> None:
    table = Table("number", "status", "url", "tries", "last try", "next try", box=None)
    for delivery in deliveries:
        last = delivery.tries[-1] if delivery.tries else None
        outcome = f"{last.at} {last.status_code or last.error}" if last else ""
        cells = (str(delivery.number), delivery.status, escape(delivery.url), str(delivery.num_tries))
        table.add_row(*cells, escape(outcome), delivery.next_try_at)
    _print(table)


def _print(shown: RenderableType) -> None:
    """Nothing is cut or folded where no terminal limits the width: other programs read it."""
    console = out if out.is_terminal else Console(width=LONGEST_LINE_CHARS, highlight=False)
    console.print(shown, soft_wrap=False)


def complain(message: str, next_step: str = "") -> None:
    """One line on standard error: what is wrong, then what to do about it."""
    err.print(f"[red]error:[/] {escape(message)}" + (f" [dim]→[/] {escape(next_step)}" if next_step else ""))
