"""The command line `mediaray`: run a server, and use one."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mediaray import display, keys_command
from mediaray.arguments import parse_inputs
from mediaray.calls import DEFAULT_URL
from mediaray.client import Client
from mediaray.errors import (
    ApiError,
    MediarayError,
    ServerUnavailable,
    TaskCancelled,
    TaskFailed,
    WaitTimeout,
)
from mediaray.events import TaskEnd, TaskEvent
from mediaray.values import TaskView, TransferCallback
from mediaray.watching import settled

FAILURE, USAGE, INTERRUPTED = 1, 2, 130
CALLERS_FAULT = "INVALID_PARAMS"
"""The server's code for a failure that would only be repeated."""
RETRY_S = 3.0
"""A person at a terminal wants to hear soon that no server answers; waiting for a task is patient."""


class Commands(TyperGroup):
    """The edge where errors become one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MediarayError as error:
            display.complain(str(error), next_step(error))
            raise typer.Exit(exit_code(error)) from error
        except OSError as error:
            display.complain(f"{error.strerror}: {error.filename}" if error.filename else str(error))
            raise typer.Exit(FAILURE) from error


def exit_code(error: MediarayError) -> int:
    return USAGE if isinstance(error, ApiError) and 400 <= error.status < 500 else FAILURE


def next_step(error: MediarayError) -> str:
    """What a person can do about it; empty where the error says all."""
    if isinstance(error, ServerUnavailable):
        return "start one with `mediaray serve`, or name yours with --url or MEDIARAY_URL"
    if isinstance(error, ApiError) and error.status in (401, 403):
        return "give your key with --key or MEDIARAY_API_KEY"
    if isinstance(error, TaskFailed) and error.code == CALLERS_FAULT:
        return ""
    if isinstance(error, TaskFailed | TaskCancelled):
        return f"try it again with `mediaray retry {error.task_id}`"
    if isinstance(error, WaitTimeout):
        return f"watch it with `mediaray watch {error.task_id}`"
    return ""


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Generative-media tasks on a mediaray server: submit, watch, cancel, download.",
)
app.add_typer(keys_command.app, name="keys")


@app.callback()
def connect(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="MEDIARAY_URL", help="The server.")] = DEFAULT_URL,
    key: Annotated[str, typer.Option(envvar="MEDIARAY_API_KEY", help="API key.", show_default=False)] = "",
) -> None:
    try:
        context.obj = context.with_resource(Client(url, key or None, retry_s=RETRY_S))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error


TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]
WithLogs = Annotated[bool, typer.Option("--logs", help="Wait, and show what the task logs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=PASS_ON)
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8000")] = None,
) -> None:
    """Run a server until interrupted. Further options go to `python -m deployments.server serve`."""
    named = {"--host": host, "--port": port}
    words = [word for name, value in named.items() if value is not None for word in (name, str(value))]
    _become_server(["serve", *words, *context.args])


@app.command(context_settings=PASS_ON)
def down(context: typer.Context) -> None:
    """Stop the server on this machine; accepted tasks stay recorded and go on at the next start."""
    _become_server(["down", *context.args])


def _become_server(words: list[str]) -> None:
    """Replace this process, so that signals reach the server itself."""
    if importlib.util.find_spec("ray") is None:
        display.complain("the server is not installed here", "pip install 'mediaray[server]'")
        raise typer.Exit(USAGE)
    os.execv(sys.executable, [sys.executable, "-m", "deployments.server", *words])  # noqa: S606 - no shell


@app.command()
def submit(  # noqa: PLR0913, PLR0917 - each parameter is an option on the command line
    context: typer.Context,
    task_name: Annotated[str, typer.Argument(help="Such as ffmpeg.extract_audio; see `mediaray models`.")],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE…", show_default=False)] = None,
    task_id: Annotated[str | None, typer.Option("--id", help="Choose the task's id.")] = None,
    priority: Annotated[int, typer.Option(help="Higher runs earlier.")] = 0,
    callback: Annotated[str | None, typer.Option(metavar="URL", help="Called when the task ends.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show a bar until the task is final.")] = False,
    with_logs: WithLogs = False,
    download_to: Annotated[
        Path | None, typer.Option("--download", metavar="DIR", help="Wait, then fetch the outputs.")
    ] = None,
) -> None:
    """Submit a task; prints its id.

    Inputs: `key=text`, `key=@local/path` (file or folder, uploaded first), `key:=json` (numbers, lists, …).

    Example: mediaray submit ffmpeg.extract_audio video_path=@talk.mp4 sample_rate:=16000 --download out
    """
    try:
        values = parse_inputs(inputs or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="KEY=VALUE") from error
    client: Client = context.obj
    with display.transfer_bars() as show:
        values = {name: _uploaded(client, value, show) for name, value in values.items()}
    view = client.submit(task_name, values, task_id=task_id, priority=priority, callback=callback)
    display.out.print(view.id, markup=False)
    if wait or with_logs or download_to:
        view = _watch(client, view.id, with_logs)
    if download_to:
        _download(client, view, download_to)


def _uploaded(client: Client, value: Any, show: TransferCallback) -> Any:
    return client.upload(value, on_progress=show).path if isinstance(value, Path) else value


@app.command()
def status(context: typer.Context, task_id: TaskId, as_json: AsJson = False) -> None:
    """Show a task once."""
    view: TaskView = context.obj.status(task_id)
    if as_json:
        text = json.dumps(dataclasses.asdict(view), ensure_ascii=False, indent=2)
        display.out.print(text, markup=False)
    else:
        display.print_task(view)


@app.command()
def watch(context: typer.Context, task_id: TaskId, with_logs: WithLogs = False) -> None:
    """Show a live bar until the task is final. Exit code: 0 completed, 1 failed or cancelled, 2 usage."""
    context.obj.status(task_id)  # no such task, or no server: said now, before a bar that waits patiently
    display.print_task(_watch(context.obj, task_id, with_logs))


def _watch(client: Client, task_id: str, with_logs: bool) -> TaskView:
    try:
        with display.task_bar(task_id, with_logs) as show, closing(client.events(task_id)) as events:
            view = _last_view(events, show)
    except KeyboardInterrupt:
        display.complain("no longer watching; the task goes on", f"mediaray watch {task_id}")
        raise typer.Exit(INTERRUPTED) from None
    return settled(view)


def _last_view(events: Iterable[TaskEvent], show: Callable[[TaskEvent], None]) -> TaskView:
    for event in events:
        show(event)
        if isinstance(event, TaskEnd):
            return event.view
    raise AssertionError("events end with a TaskEnd")


@app.command()
def logs(
    context: typer.Context,
    task_id: TaskId,
    tail: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the newest N lines.")] = None,
) -> None:
    """Print the lines that the task wrote; `watch --logs` follows them."""
    for line in context.obj.logs(task_id, tail):
        display.out.print(line, markup=False)


@app.command("list")
def list_tasks(
    context: typer.Context,
    status: Annotated[str | None, typer.Option(help="Such as pending or failed.")] = None,
    task_name: Annotated[str | None, typer.Option("--task", metavar="NAME", help="Only this task.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """List your tasks, newest first."""
    display.print_tasks(context.obj.list(status=status, task_name=task_name, limit=limit))


@app.command()
def deliveries(
    context: typer.Context,
    task_id: TaskId,
    replay: Annotated[int | None, typer.Option(metavar="N", help="First send delivery N again.")] = None,
) -> None:
    """List the callbacks of a task and how they went."""
    if replay is not None:
        context.obj.replay_delivery(task_id, replay)
    display.print_deliveries(context.obj.deliveries(task_id))


@app.command()
def cancel(context: typer.Context, task_id: TaskId) -> None:
    """Stop a waiting or running task."""
    display.print_task(context.obj.cancel(task_id))


@app.command()
def retry(context: typer.Context, task_id: TaskId) -> None:
    """Submit a finished task again; prints the new id."""
    display.out.print(context.obj.retry(task_id).id, markup=False)


@app.command()
def upload(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(exists=True, help="A local file or folder.")],
    file_path: Annotated[str | None, typer.Option("--as", metavar="KEY", help="Its object key.")] = None,
) -> None:
    """Store a file, or all files of a folder, on the server; prints the key, which inputs can name."""
    with display.transfer_bars() as show:
        stored = context.obj.upload(path, file_path, on_progress=show)
    display.out.print(stored.path, markup=False)


@app.command()
def download(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A task's id, an object key with a slash in it, or a URL.")],
    target: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder for the files.")] = Path(),
) -> None:
    """Fetch a task's outputs, or one file; continues an interrupted download, checks its sha256."""
    client: Client = context.obj
    _download(client, source if "/" in source else client.status(source), target)


def _download(client: Client, source: TaskView | str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with display.transfer_bars() as show:
        paths = client.download(source, folder, on_progress=show)
    if not paths:
        display.err.print("the task has no files", markup=False)
    for path in paths:
        display.out.print(str(path), markup=False)


@app.command()
def models(context: typer.Context) -> None:
    """List what the server can run, with which engine, and what is missing."""
    display.print_models(context.obj.models())


def main() -> None:
    app(prog_name="mediaray")
