"""The command line: through typer's runner, and as the process a user starts."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from mediaray import LogLines, Progress, ProgressChange, StatusChange, TaskEnd, TaskView, cli, display
from mediaray.arguments import parse_inputs
from mediaray.values import model_view
from tests.client_server import World, serving

CREATED = {"task_id": "t-1", "status": "pending", "message": ""}
OUTPUT = {
    "file_path": "tasks/t-1/1/out.wav",
    "download_url": "/v1/files/download/tasks/t-1/1/out.wav",
    "size": 5,
}
DONE = {
    "status": "completed",
    "message": "任务执行成功",
    "result": {"duration": 1.5},
    "minio_files": [OUTPUT],
}

Run = Callable[..., Result]


@pytest.fixture
def world() -> World:
    return World(files={"tasks/t-1/1/out.wav": b"sound"})


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with serving(world) as base_url:
        yield base_url


@pytest.fixture
def run(url: str) -> Run:
    environment = {"MEDIARAY_URL": url, "MEDIARAY_API_KEY": "secret"}
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words], env=environment)


def test_submit_prints_the_id_alone_and_types_its_inputs(run, world, tmp_path):
    world.script("POST", "/v1/tasks", CREATED)
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"clip")
    result = run("submit", "x.y", f"video_path=@{clip}", "text=a=b", "n:=3", "--priority", 2, "--id", "t-1")
    assert (result.exit_code, result.stdout) == (0, "t-1\n")
    body = world.seen_on("POST", "/v1/tasks")[0].json
    key = body["input_data"].pop("video_path")
    assert world.files[key] == b"clip"
    assert body == {
        "task_name": "x.y",
        "task_id": "t-1",
        "priority": 2,
        "input_data": {"text": "a=b", "n": 3},
    }
    assert world.seen[-1].headers["authorization"] == "Bearer secret"


def test_a_folder_goes_like_a_file(run, world, tmp_path):
    world.script("POST", "/v1/tasks", CREATED)
    folder = tmp_path / "frames"
    (folder / "more").mkdir(parents=True)
    (folder / "more" / "1.jpg").write_bytes(b"jpeg")
    assert run("submit", "x.y", f"keyframe_dir=@{folder}/").exit_code == 0
    key = world.seen_on("POST", "/v1/tasks")[0].json["input_data"]["keyframe_dir"]
    assert world.files[f"{key}/more/1.jpg"] == b"jpeg"
    assert run("upload", folder, "--as", "videos/frames").stdout == "videos/frames\n"
    assert world.files["videos/frames/more/1.jpg"] == b"jpeg"


def test_submit_waits_and_downloads(run, world, tmp_path):
    world.script("POST", "/v1/tasks", CREATED)
    world.status("t-1", {"status": "pending"}, {"status": "running", "progress": {"fraction": 0.5}}, DONE)
    result = run("submit", "x.y", "--download", tmp_path / "new folder")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["t-1", str(tmp_path / "new folder" / "out.wav")]
    assert (tmp_path / "new folder" / "out.wav").read_bytes() == b"sound"


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        pytest.param("novalue", "none of key=text", id="no separator"),
        pytest.param("a=@/no/such/file", "no such file or folder", id="file missing"),
        pytest.param("a:={", "not JSON", id="bad JSON"),
        pytest.param("b=2", "given twice", id="twice"),
    ],
)
def test_a_wrong_input_word_is_a_usage_error_before_anything_is_sent(run, world, word, complaint):
    result = run("submit", "x.y", "b=1", word)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert world.seen == []


def test_input_words() -> None:
    words = ["a=1", "b:=1", "c:=[1, 2]", "d=x:=y", "e=", 'f:="@x"', "g=多\n行"]
    assert parse_inputs(words) == {
        "a": "1",
        "b": 1,
        "c": [1, 2],
        "d": "x:=y",
        "e": "",
        "f": "@x",
        "g": "多\n行",
    }


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        pytest.param(DONE, 0, "任务执行成功", id="completed"),
        pytest.param({"status": "failed", "result": {"error": "坏[了]"}}, 1, "坏[了]", id="failed"),
        pytest.param({"status": "cancelled"}, 1, "was cancelled", id="cancelled"),
    ],
)
def test_watch_tells_the_outcome_in_words_and_in_its_exit_code(run, world, answer, code, words):
    world.status("t-1", {"status": "running", "progress": {"done": 3, "total": 9, "unit": "frames"}}, answer)
    result = run("watch", "t-1")
    assert result.exit_code == code
    assert words in result.output
    assert "Traceback" not in result.output


WAITING = {"reason": "queue", "text": "2 tasks [of yours] are served before it"}
EVENTS = [
    ("status", {"status": "pending", "waiting": WAITING}),
    ("status", {"status": "running", "attempt": 1}),
    ("progress", {"stage": "encode", "done": 3, "total": 9, "unit": "frames", "fraction": 0.3}),
    ("log", {"lines": ["[info] first", "二"], "first": 0}),
    ("end", {"task_id": "t-1", **DONE}),
]


@pytest.mark.parametrize("words", [("watch", "t-1"), ("submit", "x.y", "--wait")], ids=["watch", "submit"])
def test_watching_tells_the_waiting_reason_and_with_logs_the_lines(run, world, words):
    world.script("POST", "/v1/tasks", CREATED)
    world.status("t-1", {"status": "running"})
    world.events["t-1"] = EVENTS
    plain = run(*words)
    assert plain.exit_code == 0
    assert "t-1 pending: 2 tasks [of yours] are served before it\nt-1 running\n" in plain.stderr
    assert "first" not in plain.output
    assert "[info] first\n二\n" in run(*words, "--logs").stderr


ETA = {"eta_s": 75, "eta_low_s": 65, "eta_high_s": 90}


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        pytest.param(
            ProgressChange(Progress("running", "encode", 3, 9, "frames", 0.3, **ETA)),
            ("t-1 encode", "3/9 frames, 1:05–1:30 left", " 30%"),
            id="progress",
        ),
        pytest.param(
            StatusChange("t-1", "pending", "", "", 0, WAITING, Progress("pending")),
            ("t-1 pending", "2 tasks [of yours] are served before it"),
            id="waiting",
        ),
        pytest.param(LogLines(("[a] line",), 0), ("[a] line\n", "t-1 pending"), id="log"),
        pytest.param(TaskEnd(TaskView("t-1", "failed")), ("t-1 failed",), id="end"),
    ],
)
def test_on_a_terminal_the_bar_shows_what_the_last_event_told(event, shown) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=200)
    with display.task_bar("t-1", with_logs=True, console=screen) as show:
        show(event)
    assert all(words in screen.file.getvalue() for words in shown)


def test_an_unknown_task_is_a_usage_error_without_a_bar(run):
    result = run("watch", "nobody")
    assert result.exit_code == 2
    assert "任务不存在" in result.stderr
    assert "pending" not in result.stderr


@pytest.mark.parametrize(
    ("code", "is_offered"), [("OUT_OF_MEMORY", True), ("INVALID_PARAMS", False)], ids=["lasting", "caller's"]
)
def test_a_retry_is_offered_where_it_can_help(run, world, code, is_offered):
    world.status("t-1", {"status": "failed", "result": {"error": "why", "error_code": code}})
    assert ("mediaray retry" in run("watch", "t-1").stderr) == is_offered


def test_nothing_is_drawn_where_no_file_moves(run, world):
    world.script("POST", "/v1/tasks", CREATED)
    assert run("submit", "x.y", "text=a").stderr == ""


def test_status_shows_progress_and_can_be_json(run, world):
    progress = {"done": 30, "total": 120, "unit": "frames", "stage": "encode", "fraction": 0.25, "eta_s": 75}
    world.status("t-1", {"status": "running", "progress": progress})
    assert "encode, 30/120 frames, 1:15 left" in run("status", "t-1").stdout
    assert json.loads(run("status", "t-1", "--json").stdout)["progress"]["done"] == 30


def test_status_lists_results_and_files_in_full(run, world):
    long_text = "[长] " * 60
    world.status("t-1", {**DONE, "result": {"text": long_text, "cue": {"end": None, "is_song": True}}})
    output = run("status", "t-1").stdout
    assert long_text.strip() in output
    assert 'cue: {"end": null, "is_song": true}' in output
    assert "tasks/t-1/1/out.wav (5 bytes)" in output


def test_cancel_and_retry(run, world):
    world.script(
        "DELETE", "/v1/tasks/t-1", {"task_id": "t-1", "status": "cancelled", "message": "任务已成功取消"}
    )
    world.script("POST", "/v1/tasks/t-1/retry", {**CREATED, "task_id": "t-1-retry-a1b2c3d4"})
    assert "cancelled" in run("cancel", "t-1").stdout
    assert run("retry", "t-1").stdout == "t-1-retry-a1b2c3d4\n"


def test_upload_and_download_by_key(run, world, tmp_path):
    source = tmp_path / "视频.mp4"
    source.write_bytes(b"clip")
    assert run("upload", source, "--as", "in/视频.mp4").stdout == "in/视频.mp4\n"
    assert run("download", "in/视频.mp4", "--to", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "视频.mp4").read_bytes() == b"clip"


def test_download_of_a_task_without_files_says_so(run, world, tmp_path):
    world.status("t-1", {"status": "running"})
    result = run("download", "t-1", "--to", tmp_path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no files" in result.stderr


NO_WEIGHTS = "weights are not installed: put model.bin, vocabulary.* into MEDIARAY_MODELS_DIR/asr/large-v3"
NO_CHAT = "no chat server is set: MEDIARAY_CHAT_URL names the one to ask"


def row(name: str, *engines: tuple[str, str, list[str]], needs_gpu: bool = False) -> dict[str, object]:
    """A model as the server shows it: its last engine runs, unless that lacks something, too."""
    shown = [
        {"name": name, "kind": kind, "missing": lacks, "needs_gpu": needs_gpu and kind == "full"}
        for name, kind, lacks in engines
    ]
    ready = not engines[-1][2]
    missing = [text for _, _, lacks in engines for text in lacks]
    engine = engines[-1][0] if ready else None
    return {"name": name, "engine": engine, "ready": ready, "missing": missing, "engines": shown}


MODELS = [
    *(row(f"ffmpeg.job_number_{number}", ("ffmpeg", "full", [])) for number in range(6)),
    row("faster_whisper.transcribe_audio", ("large-v3", "full", [NO_WEIGHTS]), ("base", "embedded", [])),
    row("wservice.correct_subtitles", ("chat", "full", [NO_CHAT]), ("rules", "embedded", [])),
    row("wservice.ai_optimize_subtitles", ("chat", "full", [NO_CHAT]), ("rules", "embedded", [])),
    row("flashvsr.upscale_video", ("flashvsr", "full", []), ("lanczos", "embedded", []), needs_gpu=True),
    row("hallo2.animate_portrait", ("hallo2", "full", ["no [weights] here"])),
    row("text_to_video.generate_video", ("wan", "full", ["no [weights] here"])),
]


def test_models_tells_which_engine_runs_and_then_what_others_lack(run, world):
    world.script("GET", "/v1/models", {"models": MODELS})
    table, not_ready, optional = run("models").stdout.split("\n\n")
    rows = [line.split() for line in table.splitlines()]
    assert rows[:2] == [["task", "engine", "ready"], ["ffmpeg.job_number_0", "ffmpeg", "yes"]]
    assert rows[7:9] == [
        ["faster_whisper.transcribe_audio", "base", "yes"],
        ["wservice.correct_subtitles", "rules", "yes"],
    ]
    assert rows[-1] == ["text_to_video.generate_video", "no"]
    assert not_ready.splitlines() == [
        "Not ready:",
        "  hallo2.animate_portrait, text_to_video.generate_video",
        "    no [weights] here",
    ]
    assert optional.splitlines() == [
        "Optional, as these run already; the engines they prefer lack:",
        "  faster_whisper.transcribe_audio",
        f"    large-v3 (full engine): {NO_WEIGHTS}",
        "  wservice.correct_subtitles, wservice.ai_optimize_subtitles",
        f"    chat (full engine): {NO_CHAT}",
        "  flashvsr.upscale_video",
        "    flashvsr (full engine): a GPU",
    ]


def test_on_a_terminal_of_80_columns_models_are_folded_not_cut(monkeypatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80, soft_wrap=True)
    monkeypatch.setattr(display, "out", screen)
    display.print_models([model_view(shown) for shown in MODELS])
    text = screen.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert len([line for line in text.splitlines() if line.split()[-1:] in (["yes"], ["no"])]) == len(MODELS)
    assert f"large-v3 (full engine): {NO_WEIGHTS}" in " ".join(text.split())


def test_list_is_a_table_that_nothing_cuts(run, world):
    long_id = "t" * 100
    tasks = [
        {"task_id": long_id, "task_name": "x.y", "status": "failed", "created_at": "2026-01-02T03:04:05"},
        {"task_id": "t-2", "task_name": "x.y", "status": "failed", "message": "坏[了]"},
    ]
    world.script("GET", "/v1/tasks", {"tasks": tasks, "next_cursor": None})
    lines = run("list", "--status", "failed", "--task", "x.y", "--limit", 2).stdout.splitlines()
    assert lines[1].split() == [long_id, "x.y", "failed", "2026-01-02T03:04:05"]
    assert lines[2].split() == ["t-2", "x.y", "failed", "坏[了]"]
    assert world.seen[0].query == "status=failed&task_name=x.y&limit=2"


def test_logs_are_printed_as_they_are(run, world):
    world.texts["/v1/tasks/t-1/logs"] = "[bold]第一行\nsecond\n".encode()
    assert run("logs", "t-1").stdout == "[bold]第一行\nsecond\n"
    run("logs", "t-1", "--tail", 5)
    assert world.seen[-1].query == "tail=5"


def test_deliveries_are_a_table_and_can_be_sent_again(run, world):
    tried = {"at": "2026-01-02T03:04:05", "status_code": None, "error": "timed out", "duration_s": 10}
    delivery = {"number": 1, "url": "https://h/x", "status": "failed", "num_tries": 9, "tries": [tried]}
    world.script("GET", "/v1/tasks/t-1/deliveries", {"deliveries": [delivery]})
    world.script("POST", "/v1/tasks/t-1/deliveries/1/replay", delivery)
    row = run("deliveries", "t-1").stdout.splitlines()[1]
    assert row.split() == ["1", "failed", "https://h/x", "9", "2026-01-02T03:04:05", "timed", "out"]
    assert run("deliveries", "t-1", "--replay", 1).exit_code == 0
    assert [seen.method for seen in world.seen[1:]] == ["POST", "GET"]


def test_a_callback_goes_along(run, world):
    world.script("POST", "/v1/tasks", CREATED)
    run("submit", "x.y", "--callback", "https://h/x")
    assert world.seen[0].json["callback"] == "https://h/x"


def test_a_refused_key_names_the_option_for_it(run, world):
    world.script("GET", "/v1/models", {"detail": "no key"}, status=401)
    result = run("models")
    assert result.exit_code == 2
    assert "--key" in result.stderr


def test_a_server_url_that_is_none_is_a_usage_error(run):
    result = run("--url", "localhost:8000", "models")
    assert result.exit_code == 2
    assert "not the URL of a server" in result.stderr


@pytest.mark.parametrize(
    ("words", "passed_on"),
    [
        pytest.param(
            ["serve", "--port", "9000", "--set", "diagnostics.slots=3"],
            ["serve", "--port", "9000", "--set", "diagnostics.slots=3"],
            id="serve",
        ),
        pytest.param(["serve"], ["serve"], id="serve with the server's own defaults"),
        pytest.param(["down"], ["down"], id="down"),
    ],
)
def test_serve_and_down_become_the_server_process(run, monkeypatch, words, passed_on):
    started: list[list[str]] = []
    monkeypatch.setattr(cli.os, "execv", lambda program, arguments: started.append(arguments))
    run(*words)
    assert started == [[sys.executable, "-m", "deployments.server", *passed_on]]


def test_serve_without_the_server_extra_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    result = run("serve")
    assert result.exit_code == 2
    assert "pip install 'mediaray[server]'" in result.stderr


def test_as_a_process(url, world, tmp_path: Path) -> None:
    world.script("POST", "/v1/tasks", CREATED)
    world.status("t-1", {"status": "running"}, DONE)
    command = [
        sys.executable,
        "-m",
        "mediaray",
        "--url",
        url,
        "submit",
        "x.y",
        "a=你好",
        "--download",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["t-1", str(tmp_path / "out.wav")]
    assert world.seen[0].json["input_data"] == {"a": "你好"}


@pytest.mark.parametrize("word", ["status", "watch"])
def test_no_server_is_one_line_with_the_next_step_and_no_traceback(word) -> None:
    with serving(World()) as url:
        pass
    environment = {**os.environ, "MEDIARAY_URL": url}
    command = [sys.executable, "-m", "mediaray", word, "t-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "mediaray serve" in done.stderr
