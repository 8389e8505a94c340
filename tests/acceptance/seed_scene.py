"""One server with every dialect, the files that the documents name, and tasks in the states they show."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from models.media import ffmpeg_path
from tests.acceptance.seed_documents import Block
from tests.server import HTTP, PATIENCE_S, ServerProcess, eventually

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
PREFIXES = ("/indexed", "/flashvsr", "/hallo2", "/creation", "/tasks")
"""Where each document's API is served alone, by the document's number."""

"""An example that polls would poll for ever if the server were wrong."""

NEVER_ENDS, FILM = 901, 902
"""Indices of jobs for these tests: one that runs whenever it is asked for, and one that makes a film."""

FRAMES, SPEECH_S = 12, 4
"""Lengths of the clip that these tests upscale and the sound that they animate: they ask what comes back, not
how good it is. The sound is long enough to be met while it is animated.
"""

STORED_AS = {
    "videos/input.mp4": "bigbuckbunny.mp4",
    "v1.mp4": "carphone_distorted.mp4",
    "v2.mp4": "carphone_pristine.mp4",
    "v3.mp4": "bigbuckbunny.mp4",
    "audio/lecture.wav": "conversation.wav",
    "images/subtitle_region.png": "portrait.png",
}
"""The documents' file names in the bucket, and the sample that each one is."""

REQUIRED = os.environ.get("MEDIARAY_REQUIRE_BROWSER") == "1"


def program(*names: str) -> str:
    """The first of these programs on PATH; skips the test without one, or fails it where CI requires them."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        text = f"no {' or '.join(names)} on PATH; scripts/browser.sh installs what it can"
        (pytest.fail if REQUIRED else pytest.skip)(text)
    return found or ""


@dataclass(frozen=True)
class Delivered:
    """One callback as it arrived; header names are lower case."""

    path: str
    headers: Mapping[str, str]
    json: dict[str, Any]


@dataclass(frozen=True)
class Ran:
    """An example's end. `statuses` are of curl's answers, in order."""

    out: str
    err: str
    code: int
    folder: Path

    @property
    def json(self) -> Any:
        return httpx.Response(200, text=self.out).json()

    @property
    def statuses(self) -> list[int]:
        return [int(line.removeprefix("HTTP ")) for line in self.err.splitlines() if line.startswith("HTTP ")]


@dataclass
class Scene:
    """What the examples meet. `receiver` is the origin that stands for the documents' your-domain.com."""

    server: ServerProcess
    folder: Path
    receiver: str
    delivered: list[Delivered]
    made: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, **request: Any) -> httpx.Response:
        return HTTP.request(method, f"{self.server.url}{path}", timeout=60, **request)

    def get(self, path: str) -> httpx.Response:
        return self.call("GET", path)

    def filled(self, block: Block, base: str, values: Mapping[str, str]) -> str:
        """The block's text with our hosts and, where `values` has them, ids and file names."""
        text = re.sub(r"http://localhost:800[01]", self.server.url + base, block.text)
        text = text.replace("https://your-domain.com", self.receiver)
        for shown, real in values.items():
            assert shown in text, f"{block.id} does not name {shown}"
            text = text.replace(shown, real)
        return text

    def once(self, name: str, make: Callable[[], str]) -> str:
        """The id that `make` returned the first time."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def echo(self, **inputs: Any) -> str:
        return self.server.submit("diagnostics.echo", inputs, f"echo-{uuid.uuid4().hex[:8]}")

    def running(self) -> str:
        task_id = self.echo(sleep_s=3600)
        self.server.wait(task_id, "running")
        return task_id

    def failed(self) -> str:
        return self.once("failed", lambda: self._ended(self.echo(fail="GPU内存不足，无法加载模型"), "failed"))

    def extracted(self, task_id: str = "extract-001", **body: Any) -> str:
        """A completed task of the first example's, by any id."""
        inputs = {"video_path": "videos/input.mp4", "audio_format": "wav", "sample_rate": 16000}
        body |= {"task_name": "ffmpeg.extract_audio", "task_id": task_id, "input_data": inputs}
        answer = self.call("POST", "/v1/tasks", json=body)
        assert answer.status_code == 200, answer.text
        return self._ended(task_id, "completed")

    def called_back(self) -> tuple[str, Delivered]:
        """A completed task with a callback, and what arrived."""
        task_id = self.once(
            "called back", lambda: self.extracted("with-callback", callback=f"{self.receiver}/shown")
        )
        return task_id, self.delivery(task_id)

    def delivery(self, task_id: str) -> Delivered:
        def arrived() -> list[Delivered]:
            return [one for one in self.delivered if one.json["task_id"] == task_id]

        return eventually(arrived)[0]

    def callback_sent(self, task_id: str) -> None:
        path = f"/v1/tasks/{task_id}/status"
        eventually(lambda: self.get(path).json()["callback_status"] == "sent")

    def indexed(self, index: int = 1) -> str:
        """A job of the catalogue that has ended; NEVER_ENDS runs."""
        wanted = "processing" if index == NEVER_ENDS else "completed"

        def make() -> str:
            answer = self.call("POST", f"/indexed/api/inference?index={index}")
            task_id = str(answer.json()["task_id"])
            path = f"/indexed/api/task/{task_id}/status"
            self.reached(path, wanted)
            return task_id

        return self.once(f"index {index}", make)

    def portrait_files(self) -> dict[str, tuple[str, bytes]]:
        names = {"image_file": "person.jpg", "audio_file": "speech.wav"}
        return {field: (name, (self.folder / name).read_bytes()) for field, name in names.items()}

    def submit_portrait(self) -> httpx.Response:
        return self.call("POST", "/hallo2/api/v1/inference/hallo2", files=self.portrait_files())

    def portrait(self, *words: str) -> str:
        """A talking portrait that has one of these statuses, or has ended."""

        def make() -> str:
            return str(self.submit_portrait().json()["task_id"])

        task_id = self.once("portrait", make) if "completed" in words else make()
        self.reached(f"/hallo2/api/v1/tasks/{task_id}", *words)
        return task_id

    def submit_film(self) -> httpx.Response:
        return self.call("POST", "/creation/api/tasks/", json={"prompt": "制作一段关于森林探险的短视频"})

    def film(self) -> str:
        """A completed text-to-video task."""

        def make() -> str:
            task_id = str(self.submit_film().json()["task_id"])
            self.reached(f"/creation/api/tasks/{task_id}", "completed")
            return task_id

        return self.once("film", make)

    def reached(self, path: str, *words: str) -> dict[str, Any]:
        """The answer of a status path once it says one of `words`, or is final, which must be one of them."""
        final = ("completed", "failed", "cancelled")

        def there() -> dict[str, Any]:
            body: dict[str, Any] = self.get(path).json()
            return body if body["status"] in (*words, *final) else {}

        body = eventually(there)
        assert body["status"] in words, body
        return body

    @contextmanager
    def broken_store(self) -> Iterator[None]:
        """The artifact store's folder is gone and cannot be made again."""
        folder = self.server.data_dir / "artifacts"
        aside = folder.with_name("aside")
        folder.rename(aside)
        folder.write_bytes(b"")
        try:
            yield
        finally:
            folder.unlink()
            aside.rename(folder)

    def run(self, command: list[str], suffix: str, text: str) -> Ran:
        """Run an example as a file of its own, in an own folder beside copies of the files it names."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        for path in self.folder.iterdir():
            if path.is_file():
                (folder / path.name).symlink_to(path)
        script = folder / f"example{suffix}"
        script.write_text(text)
        # curl tells each answer's status on stderr: what the example itself prints and reads stays as it is.
        (folder / ".curlrc").write_text('silent\nwrite-out = "%{stderr}HTTP %{http_code}\\n"\n')
        env = os.environ | {"CURL_HOME": str(folder), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, str(script)],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        return Ran(done.stdout, done.stderr, done.returncode, folder)

    def _ended(self, task_id: str, word: str) -> str:
        record = self.server.wait(task_id)
        assert record["status"] == word, record
        return task_id


@contextmanager
def scene_in(folder: Path) -> Iterator[Scene]:
    """A server on a fresh data folder, a receiver of callbacks, and the documents' files."""
    delivered: list[Delivered] = []
    files = folder / "files"
    files.mkdir()
    server = ServerProcess(
        folder / "data",
        sets=["diagnostics.min_replicas=1", "flashvsr.min_replicas=1"],
        show_diagnostics="true",
        callback_allow_cidrs="127.0.0.0/8",
        catalog=str(_catalog(files / "jobs.yaml")),
    )
    Image.open(SAMPLES / "portrait.png").convert("RGB").save(files / "person.jpg")
    talk = ["-i", str(SAMPLES / "conversation.wav"), "-t", str(SPEECH_S)]
    subprocess.run([ffmpeg_path(), "-v", "error", *talk, str(files / "speech.wav")], check=True)
    cut = ["-i", str(SAMPLES / "carphone_distorted.mp4"), "-frames:v", str(FRAMES), "-pix_fmt", "yuv420p"]
    subprocess.run([ffmpeg_path(), "-v", "error", *cut, str(files / "input.mp4")], check=True)
    server.start()
    try:
        for key, sample in STORED_AS.items():
            server.upload(SAMPLES / sample, key)
        with _receiver(delivered) as origin:
            yield Scene(server, files, origin, delivered)
    finally:
        server.stop()


def _catalog(path: Path) -> Path:
    """The job catalogue that ships, over a folder of ours, and the jobs of these tests."""
    content = yaml.safe_load((ROOT / "api" / "jobs.yaml").read_text())
    content["root"] = str(path.parent)
    for sample in SAMPLES.glob("*.mp4"):
        shutil.copyfile(sample, path.parent / sample.name)
    content["jobs"][NEVER_ENDS] = {"task": "diagnostics.echo", "inputs": {"sleep_s": 3600}}
    content["jobs"][FILM] = {"task": "flashvsr.upscale_video", "inputs": {"video_path": "input.mp4"}}
    path.write_text(yaml.safe_dump(content))
    return path


@contextmanager
def _receiver(delivered: list[Delivered]) -> Iterator[str]:
    class Recorder(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            delivered.append(Delivered(self.path, headers, httpx.Response(200, content=body).json()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{receiver.server_address[1]}"
        finally:
            receiver.shutdown()
            thread.join()


@contextmanager
def listening(command: list[str], script: Path, port: int) -> Iterator[Path]:
    """An example that is a server, once it listens; the path of what it prints."""
    printed = script.with_suffix(".out")
    with printed.open("wb") as out:
        process = subprocess.Popen([*command, str(script)], stdout=out, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: _answers(process, port))
        yield printed
    finally:
        process.terminate()
        process.wait()


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
