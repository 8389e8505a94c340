"""The demo: a private server, a few tasks over HTTP, their files under demo-output/."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import av
import httpx
from PIL import Image
from rich.console import Console
from rich.table import Column, Table

from mediaray import Client

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"
OUTPUT = ROOT / "demo-output"
READY_S = 120.0
PREVIEW_HEIGHT_PX = 576
SHOWN_CUES = 4

console = Console()


Results = dict[str, dict[str, Any]]
"""What tasks answered, by their names."""


@dataclass(frozen=True, slots=True)
class From:
    """An input that is a value of an earlier task's result."""

    task: str
    name: str


@dataclass(frozen=True, slots=True)
class Job:
    """One task of the demo."""

    task: str
    inputs: dict[str, Any]


CLIP = SAMPLES / "carphone_pristine.mp4"
UPSCALE = "flashvsr.upscale_video"
TRANSCRIBE, DIARISE = "faster_whisper.transcribe_audio", "pyannote_audio.diarize_speakers"
SUBTITLES = "wservice.generate_subtitle_files"
SPEAK = "indextts.generate_speech"
SENTENCE = "Every task that this server accepts is on disk before you hear of it."
PROMPT = "A red star moves to the right on a black background."
JOBS = (
    Job(UPSCALE, {"video_path": CLIP, "scale": 4.0}),
    Job("ffmpeg.extract_audio", {"video_path": SAMPLES / "bigbuckbunny.mp4", "audio_format": "wav"}),
    Job(TRANSCRIBE, {"audio_path": SAMPLES / "conversation.wav", "language": "en"}),
    Job(DIARISE, {"audio_path": SAMPLES / "conversation.wav"}),
    Job(
        SUBTITLES,
        {
            "segments_file": From(TRANSCRIBE, "segments_file"),
            "diarization_file": From(DIARISE, "diarization_file"),
            "output_filename": "conversation",
        },
    ),
    Job(SPEAK, {"text": SENTENCE, "language": "en"}),
    Job(
        "hallo2.animate_portrait",
        {"image_path": SAMPLES / "portrait.png", "audio_path": From(SPEAK, "audio_path")},
    ),
    Job("text_to_video.generate_video", {"prompt": PROMPT, "seed": 5}),
)


def main() -> int:
    OUTPUT.mkdir(exist_ok=True)
    header = f"task and its files in {OUTPUT.relative_to(ROOT)}/"
    table = Table(Column(header, overflow="fold"), "engine", "seconds")
    results: Results = {}
    with server() as url, Client(url) as client:
        for job in JOBS:
            table.add_row(*run(client, job, results))
    before_after(CLIP, file_of(results[UPSCALE]["video_path"]), OUTPUT / "before-after.png")
    console.print(table)
    console.print(f"before and after, side by side: {(OUTPUT / 'before-after.png').relative_to(ROOT)}")
    show_subtitles(file_of(results[SUBTITLES]["subtitle_files"]["with_speakers"]))
    return 0


def file_of(key: str) -> Path:
    """Where the file of a result lies; other files beside it may be those of an earlier demo."""
    return OUTPUT / PurePosixPath(key).name


@contextmanager
def server() -> Iterator[str]:
    """A server of our own with an empty data folder, on a free port, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mediaray-demo-") as folder:
        port = free_port()
        log_path = Path(folder) / "server.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deployments.server", "serve", "--port", str(port)],
                env=os.environ | {"MEDIARAY_DATA_DIR": f"{folder}/data", "MEDIARAY_HTTP_HOST": "127.0.0.1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(url, process, log_path)
            yield url
        finally:
            process.terminate()
            process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline_s = time.monotonic() + READY_S
    with console.status("starting a private server"):
        while not is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline_s:
                console.print(log_path.read_text(errors="replace")[-4000:])
                raise SystemExit("the server did not start; its log is above")
            time.sleep(0.2)


def is_ready(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/readyz", timeout=10).is_success
    return False


def run(client: Client, job: Job, results: Results) -> tuple[str, str, str]:
    """Submit, watch, download; a row of the table. `results` are those of the tasks so far."""
    begin_s = time.monotonic()
    inputs = {
        name: results[value.task][value.name] if isinstance(value, From) else value
        for name, value in job.inputs.items()
    }
    with console.status(job.task) as status:
        task = client.submit(job.task, inputs)

        def show(progress: Any) -> None:
            share = "" if progress.fraction is None else f" {progress.fraction:.0%}"
            status.update(f"{job.task} {progress.stage}{share}")

        done = client.wait(task.id, on_progress=show)
        seconds = time.monotonic() - begin_s
        files = client.download(done, f"{OUTPUT}/")
    results[job.task] = done.result or {}
    engine = results[job.task]["engine"]
    names = "".join(f"\n  {file.relative_to(OUTPUT)}" for file in files)
    return job.task + names, f"{engine['name']}\n({engine['kind']})", f"{seconds:.1f}"


def show_subtitles(path: Path) -> None:
    """The first lines of an SRT file."""
    console.print(f"\nwho speaks, in {path.relative_to(ROOT)}:")
    cues = path.read_text(encoding="utf-8").split("\n\n")[:SHOWN_CUES]
    for cue in cues:
        _, span, *lines = cue.splitlines()
        console.print(f"  {span.partition(' --> ')[0]}  {' '.join(lines)}", markup=False, highlight=False)


def before_after(before: Path, after: Path, output: Path) -> None:
    """The middle frame of both videos at the same height, side by side."""
    pictures = [middle_frame(path) for path in (before, after)]
    scaled = [
        picture.resize(
            (round(picture.width * PREVIEW_HEIGHT_PX / picture.height), PREVIEW_HEIGHT_PX),
            Image.Resampling.NEAREST,
        )
        for picture in pictures
    ]
    canvas = Image.new("RGB", (sum(picture.width for picture in scaled), PREVIEW_HEIGHT_PX))
    left_px = 0
    for picture in scaled:
        canvas.paste(picture, (left_px, 0))
        left_px += picture.width
    canvas.save(output)


def middle_frame(path: Path) -> Image.Image:
    with av.open(str(path)) as container:
        frames = [frame for frame in container.decode(video=0)]
        return frames[len(frames) // 2].to_image()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
