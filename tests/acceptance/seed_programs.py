"""What each runnable example must lead to, by its place, and what in it is not run as it is printed."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from tests.acceptance.seed_documents import Block
from tests.acceptance.seed_scene import Delivered, Ran, Scene
from tests.server import HTTP

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Values = Mapping[str, str]


def nothing(_scene: Scene) -> Values:
    return {}


@dataclass(frozen=True)
class Program:
    """`check` judges what a run led to. `values` are documented ids -> those of an earlier step."""

    check: Callable[[Scene, Ran], None]
    values: Callable[[Scene], Values] = nothing


def task_ids(ran: Ran) -> list[str]:
    return [match[0] for match in ID.finditer(ran.out)]


# Seed 0


def index_was_submitted(scene: Scene, ran: Ran) -> None:
    assert ran.code == 0, ran
    (task_id,) = task_ids(ran)
    scene.reached(f"/indexed/api/task/{task_id}/status", "completed")


def index_is_completed(_scene: Scene, ran: Ran) -> None:
    assert (ran.statuses, ran.json["status"], ran.json["index"]) == ([200], "completed", 1), ran


# Seed 2


def portrait_was_submitted(scene: Scene, ran: Ran) -> None:
    assert ran.code == 0, ran
    (task_id,) = task_ids(ran)
    scene.reached(f"/hallo2/api/v1/tasks/{task_id}", "completed")


def film_was_saved(name: str) -> Callable[[Scene, Ran], None]:
    def check(_scene: Scene, ran: Ran) -> None:
        assert ran.code == 0, ran
        assert decoded_s(ran.folder / name) > 0

    return check


def portrait_values(scene: Scene) -> Values:
    return {"{task_id}": scene.portrait("completed")}


# Seed 3


def film_was_submitted(scene: Scene, ran: Ran) -> None:
    assert ran.code == 0, ran
    scene.reached(f"/creation/api/tasks/{task_ids(ran)[0]}", "completed")


# Seed 4


def named(shown: str, real: Callable[[Scene], str]) -> Callable[[Scene], Values]:
    return lambda scene: {shown: real(scene)}


def sound_was_extracted(scene: Scene, ran: Ran) -> None:
    assert (ran.code, ran.statuses, ran.json["task_id"]) == (0, [200], "extract-001"), ran
    sound_is_there(scene, "extract-001")


def sound_is_there(scene: Scene, task_id: str) -> None:
    """Completed, and its one file is the sound of the sample."""
    record = scene.server.wait(task_id)
    assert record["status"] == "completed", record
    (file,) = record["minio_files"]
    content = HTTP.get(file["download_url"]).raise_for_status().content
    assert (len(content), file["file_path"]) == (file["size"], record["result"]["audio_path"])
    assert abs(decoded_s(io.BytesIO(content)) - record["result"]["duration"]) < 0.1


def speech_was_heard(scene: Scene, ran: Ran) -> None:
    assert (ran.code, ran.statuses, ran.json["task_id"]) == (0, [200], "asr-001"), ran
    record = scene.server.wait("asr-001")
    assert record["status"] == "completed", record
    transcript_is_there(scene, record["result"])


def transcript_is_there(scene: Scene, result: dict[str, Any]) -> None:
    """The sample is English, which the documents call Chinese: what is heard then is the model's affair."""
    assert round(result["audio_duration"]) == 30
    transcript = scene.get(f"/v1/files/download/{result['segments_file']}").raise_for_status().json()
    assert len(transcript["segments"]) == result["segments_count"]
    assert result["engine"]["name"] == "whisper-base"


def text_was_looked_for(_scene: Scene, result: dict[str, Any]) -> None:
    """The sample is a portrait."""
    assert result["lines"] == [] or result["text"]


def task_calls_back(path: str, fits: Callable[[Scene, dict[str, Any]], None]) -> Callable[[Scene, Ran], None]:
    def check(scene: Scene, ran: Ran) -> None:
        assert ran.code == 0, ran
        task_id = re.findall(r'"task_id": ?"([^"]+)"|任务已创建: (\S+)', ran.out)[0]
        delivered: Delivered = scene.delivery("".join(task_id))
        assert (delivered.path, delivered.json["status"]) == (path, "completed"), delivered
        fits(scene, delivered.json["result"])

    return check


def shows_completed(_scene: Scene, ran: Ran) -> None:
    assert (ran.statuses, ran.json["task_id"], ran.json["status"]) == ([200], "extract-001", "completed"), ran


def retry_completes(scene: Scene, ran: Ran) -> None:
    assert (ran.statuses, ran.json["status"]) == ([200], "pending"), ran
    assert re.fullmatch(r"extract-001-retry-[0-9a-f]{8}", ran.json["task_id"])
    sound_is_there(scene, ran.json["task_id"])


def running_was_cancelled(scene: Scene, ran: Ran) -> None:
    assert (ran.statuses, ran.json["status"]) == ([200], "cancelled"), ran
    assert scene.server.wait(ran.json["task_id"])["status"] == "cancelled"


def flow_reached_its_end(scene: Scene, ran: Ran) -> None:
    assert ran.code == 0, ran
    assert "任务ID: extract-001\n" in ran.out
    assert "任务完成！\n" in ran.out
    assert '"audio_path"' in ran.out
    sound_is_there(scene, "extract-001")


def all_three_complete(scene: Scene, ran: Ran) -> None:
    assert (ran.code, ran.statuses) == (0, [200] * 3), ran
    assert ran.out.endswith("所有任务已提交\n")
    for task_id in ("task1", "task2", "task3"):
        record = scene.server.wait(task_id)
        assert (record["status"], record["input_params"]["input_data"]["interval"]) == ("completed", 10)
        images = [file for file in record["minio_files"] if file["type"] == "image"]
        assert len(images) == record["result"]["keyframe_files_count"] > 0


def failed_was_retried(scene: Scene, ran: Ran) -> None:
    assert (ran.code, ran.statuses) == (0, [200, 200]), ran
    (new,) = re.findall(r"新任务ID: (\S+)", ran.out)
    assert new.startswith(f"{scene.failed()}-retry-")
    assert scene.server.wait(new)["status"] == "failed"  # it fails by its inputs


def decoded_s(source: Path | io.BytesIO) -> float:
    """The seconds of media that decode, to the end, in the first stream."""
    with av.open(str(source) if isinstance(source, Path) else source) as container:
        frames = deque(container.decode(container.streams[0]), maxlen=1)
    (last,) = frames
    step_s = last.samples / last.sample_rate if isinstance(last, av.AudioFrame) else 0.0
    return float(last.time) + step_s


PROGRAMS: Mapping[str, Program] = {
    "seed0:L36": Program(index_was_submitted),
    "seed0:L40": Program(index_was_submitted),
    "seed0:L82": Program(
        index_is_completed, named("550e8400-e29b-41d4-a716-446655440000", lambda scene: scene.indexed())
    ),
    "seed2:L87": Program(portrait_was_submitted),
    "seed2:L95": Program(portrait_was_submitted),
    "seed2:L204:1": Program(film_was_saved("video"), portrait_values),
    "seed2:L204:2": Program(film_was_saved("output.mp4"), portrait_values),
    "seed2:L295": Program(film_was_saved("output.mp4")),
    "seed2:L340": Program(film_was_saved("output.mp4")),
    "seed3:L140": Program(film_was_submitted),
    "seed3:L156": Program(film_was_submitted),
    "seed4:L109": Program(sound_was_extracted),
    "seed4:L124": Program(speech_was_heard),
    "seed4:L139": Program(task_calls_back("/api/callback", text_was_looked_for)),
    "seed4:L208": Program(shows_completed, named("extract-001", Scene.extracted)),
    "seed4:L302": Program(shows_completed, named("extract-001", Scene.extracted)),
    "seed4:L375": Program(retry_completes, named("extract-001", Scene.extracted)),
    "seed4:L431": Program(running_was_cancelled, named("extract-001", Scene.running)),
    # L124 has taken asr-001 for other inputs (a model_size), which is 409 by design.
    "seed4:L620": Program(
        task_calls_back("/api/task-callback", transcript_is_there),
        named("asr-001", lambda _: "asr-002"),
    ),
    "seed4:L671": Program(flow_reached_its_end),
    "seed4:L712": Program(all_three_complete),
    "seed4:L735": Program(task_calls_back("/callback", transcript_is_there)),
    "seed4:L763": Program(failed_was_retried, named("extract-001", Scene.failed)),
}

PARTS: Mapping[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    # The fence says bash; its second half is Python that goes on from the first example's session.
    "seed2:L204": (
        "# 使用 Python\n",
        (("bash", ""), ("python", "import requests\ntask_id = '{task_id}'\n")),
    ),
}
"""Fences with more than one language: where they part, and each part's language and what it presupposes."""


def runnable(block: Block) -> list[Block]:
    """The programs of a block: none, itself, or its parts, whose places end in :1 and :2."""
    if block.place not in PARTS:
        return [block] if block.place in PROGRAMS else []
    mark, kinds = PARTS[block.place]
    texts = zip(block.text.split(mark), kinds, strict=True)
    return [
        block.part(number, language, before + text)
        for number, (text, (language, before)) in enumerate(texts, start=1)
    ]
