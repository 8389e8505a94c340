"""How the server is asked for what each JSON block shows, and the requests that the documents print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.acceptance.seed_scene import NEVER_ENDS, Scene
from tests.acceptance.seed_shapes import differences
from tests.server import eventually

UNKNOWN = "no-such-task"


@dataclass(frozen=True)
class Shown:
    """`ask` makes the server answer what the block shows. `values` are documented texts -> ours."""

    ask: Callable[[Scene], httpx.Response]
    status: int = 200
    free: frozenset[str] = frozenset()
    values: Mapping[str, str] | None = None
    fits: Callable[[Any, Any], Iterable[str]] | None = None


def get(path: str, task_id: Callable[[Scene], str] = lambda _: UNKNOWN) -> Callable[[Scene], httpx.Response]:
    return lambda scene: scene.get(path.format(id=task_id(scene)))


def call(
    method: str, path: str, task_id: Callable[[Scene], str] = lambda _: UNKNOWN
) -> Callable[[Scene], httpx.Response]:
    return lambda scene: scene.call(method, path.format(id=task_id(scene)))


def post(path: str, **body: Any) -> Callable[[Scene], httpx.Response]:
    return lambda scene: scene.call("POST", path, json=body)


def fits_health(shown: Any, real: Any) -> Iterable[str]:
    """Both health answers of seed 2, whose machine has a GPU and a loaded model; ours may have neither."""
    if not real["gpu_available"]:
        assert (real["gpu_name"], real.get("gpu", {}).get("devices", [])) == (None, [])
        shown = shown | ({"gpu": {**shown["gpu"], "devices": []}} if "gpu" in shown else {"gpu_name": None})
    if not real.get("models_loaded"):
        shown = {key: [] if key == "models_loaded" else value for key, value in shown.items()}
    return differences(shown, real)


def fits_map(shown: Any, real: Any) -> Iterable[str]:
    """Tasks by their ids."""
    assert real["count"] == len(real["tasks"]) > 0
    (example,) = shown["tasks"].values()
    free = frozenset({"status"})
    for task_id, task in real["tasks"].items():
        assert task["task_id"] == task_id
        yield from differences(example, task, free, task_id)


def fits_supported(shown: Any, real: Any) -> Iterable[str]:
    """All that the document names, in its groups and order; models of this server's own come after."""
    ours, documented = real["supported_tasks"], shown["supported_tasks"]
    assert {service: ours.get(service) for service in documented} == documented
    assert list(ours)[: len(documented)] == list(documented)
    assert real["total_count"] == sum(map(len, ours.values()))
    return differences(shown | {"supported_tasks": {}}, real)


def bad_image(scene: Scene) -> httpx.Response:
    files = {"image_file": ("person.txt", b"text"), "audio_file": ("speech.wav", b"text")}
    return scene.call("POST", "/hallo2/api/v1/inference/hallo2", files=files)


def unhealthy(scene: Scene) -> httpx.Response:
    """The answer once the server has looked again: it keeps what it saw for a moment."""

    def failing() -> httpx.Response | None:
        answer = scene.get("/tasks/v1/tasks/health")
        return answer if answer.status_code != 200 else None

    with scene.broken_store():
        return eventually(failing)


def callback_body(scene: Scene) -> httpx.Response:
    return httpx.Response(200, json=scene.called_back()[1].json)


def completed_list(scene: Scene) -> httpx.Response:
    scene.indexed()
    return scene.get("/indexed/api/tasks?page=1&page_size=10&status=completed")


def film_list(scene: Scene) -> httpx.Response:
    scene.film()
    return scene.get("/creation/api/tasks/?skip=0&limit=10")


def portrait_list(scene: Scene) -> httpx.Response:
    scene.portrait("completed")
    return scene.get("/hallo2/api/v1/tasks")


def new_film(scene: Scene) -> str:
    return str(scene.submit_film().json()["task_id"])


def extract_again(scene: Scene) -> httpx.Response:
    inputs = {"video_path": "videos/input.mp4"}
    body = {"task_name": "ffmpeg.extract_audio", "task_id": "answer-001", "input_data": inputs}
    return scene.call("POST", "/tasks/v1/tasks", json=body)


def with_callback(scene: Scene) -> str:
    return scene.called_back()[0]


def idle(scene: Scene) -> str:
    return scene.once("running", scene.running)


INDEXED, HALLO2, CREATION, V1 = "/indexed/api", "/hallo2/api/v1", "/creation/api", "/tasks/v1/tasks"
NOT_FIXED = frozenset({"detail"})
UNKNOWN_ID = {"extract-001": UNKNOWN}

ANSWERS: Mapping[str, Shown] = {
    "seed0:L27": Shown(call("POST", f"{INDEXED}/inference?index=1")),
    "seed0:L61": Shown(get(f"{INDEXED}/task/{{id}}/status", Scene.indexed)),
    "seed0:L98": Shown(get(f"{INDEXED}/task/{{id}}/result", Scene.indexed)),
    "seed0:L122": Shown(get(f"{INDEXED}/task/{{id}}/result", lambda scene: scene.indexed(NEVER_ENDS))),
    "seed0:L173": Shown(completed_list),
    "seed0:L202": Shown(get(f"{INDEXED}/system/status")),
    "seed0:L223": Shown(get(f"{INDEXED}/health")),
    "seed0:L243": Shown(get(f"{INDEXED}/task/{{id}}/status"), 404, free=NOT_FIXED),
    "seed2:L28": Shown(get("/hallo2/health"), fits=fits_health),
    "seed2:L43": Shown(get(f"{HALLO2}/health"), fits=fits_health),
    "seed2:L113": Shown(Scene.submit_portrait),
    "seed2:L124": Shown(bad_image, 400),
    "seed2:L153": Shown(post(f"{HALLO2}/inference/hallo2/config", guidance_scale=3.5)),
    "seed2:L171": Shown(
        get(f"{HALLO2}/tasks/{{id}}", lambda scene: scene.portrait("processing", "completed")),
        free=frozenset({"status"}),
    ),
    "seed2:L220": Shown(
        call("POST", f"{HALLO2}/tasks/{{id}}/logs", lambda scene: scene.portrait("completed"))
    ),
    "seed2:L233": Shown(call("DELETE", f"{HALLO2}/tasks/{{id}}", lambda scene: scene.portrait("processing"))),
    "seed2:L242": Shown(
        call("DELETE", f"{HALLO2}/tasks/{{id}}", lambda scene: scene.portrait("completed")), 400
    ),
    "seed2:L255": Shown(portrait_list, fits=fits_map),
    "seed2:L275": Shown(get(f"{HALLO2}/tasks/{{id}}"), 404, free=NOT_FIXED),
    "seed3:L17": Shown(get("/creation/health")),
    "seed3:L40": Shown(Scene.submit_film),
    "seed3:L69": Shown(get(f"{CREATION}/tasks/{{id}}", Scene.film)),
    "seed3:L93": Shown(film_list),
    "seed3:L120": Shown(call("DELETE", f"{CREATION}/tasks/{{id}}", new_film)),
    "seed4:L155": Shown(extract_again),
    "seed4:L166": Shown(post(V1, task_name="", input_data={}), 400),
    "seed4:L173": Shown(post(V1, task_name="ffmpeg.extract_audio", callback="no url", input_data={}), 400),
    "seed4:L215": Shown(get(f"{V1}/{{id}}/status", idle)),
    "seed4:L227": Shown(get(f"{V1}/{{id}}/status", with_callback)),
    "seed4:L253": Shown(get(f"{V1}/{{id}}/status", Scene.failed)),
    "seed4:L281": Shown(get(f"{V1}/{{id}}/status"), 404, values=UNKNOWN_ID),
    "seed4:L308": Shown(get(f"{V1}/{{id}}/result", with_callback)),
    "seed4:L381": Shown(call("POST", f"{V1}/{{id}}/retry", Scene.extracted)),
    "seed4:L397": Shown(call("POST", f"{V1}/{{id}}/retry", idle), 400),
    "seed4:L404": Shown(call("POST", f"{V1}/{{id}}/retry"), 404, values=UNKNOWN_ID),
    "seed4:L438": Shown(call("DELETE", f"{V1}/{{id}}", Scene.running)),
    "seed4:L449": Shown(call("DELETE", f"{V1}/{{id}}", Scene.extracted), 400),
    "seed4:L456": Shown(call("DELETE", f"{V1}/{{id}}"), 404, values=UNKNOWN_ID),
    "seed4:L478": Shown(get(f"{V1}/health")),
    "seed4:L488": Shown(unhealthy, 503),
    "seed4:L510": Shown(get(f"{V1}/supported-tasks"), fits=fits_supported),
    "seed4:L592": Shown(callback_body),
}
"""Every JSON block that shows an answer."""


@dataclass(frozen=True)
class Sent:
    """A request that a document prints. `values` fill its placeholders, `body` is what goes with it."""

    values: Callable[[Scene], Mapping[str, str]] = lambda _: {}
    body: Callable[[Scene], Mapping[str, Any]] = lambda _: {}


def indexed_id(scene: Scene) -> Mapping[str, str]:
    return {"{task_id}": scene.indexed()}


def indexed_file(scene: Scene) -> Mapping[str, str]:
    task_id = scene.indexed()
    file = scene.get(f"{INDEXED}/task/{task_id}/result").json()["files"][0]
    return {"{task_id}": task_id, "{filename}": file["filename"]}


def portrait_id(*words: str) -> Callable[[Scene], Mapping[str, str]]:
    return lambda scene: {"{task_id}": scene.portrait(*words)}


def portrait_form(scene: Scene) -> Mapping[str, Any]:
    return {"files": scene.portrait_files()}


REQUESTS: Mapping[str, Sent] = {
    "seed0:L18": Sent(lambda _: {"{序号}": "1"}),
    "seed0:L56": Sent(indexed_id),
    "seed0:L93": Sent(indexed_id),
    "seed0:L138": Sent(indexed_file),
    "seed0:L162": Sent(),
    "seed0:L197": Sent(),
    "seed0:L218": Sent(),
    "seed2:L23": Sent(),
    "seed2:L38": Sent(),
    "seed2:L73": Sent(body=portrait_form),
    "seed2:L138": Sent(body=lambda _: {"json": {"inference_steps": 25}}),
    "seed2:L163": Sent(portrait_id("completed")),
    "seed2:L191": Sent(portrait_id("completed")),
    "seed2:L215": Sent(portrait_id("completed")),
    "seed2:L228": Sent(portrait_id("processing")),
    "seed2:L250": Sent(),
}
"""Every block that is a request line, perhaps with a Content-Type."""

BODIES: Mapping[str, str] = {
    "seed2:L144": "/api/v1/inference/hallo2/config",
    "seed3:L33": "/api/tasks/",
}
"""Every JSON block that is the body of a POST, and the path it goes to."""

FREE_TEXT: Mapping[str, str] = {
    "seed0:L234": "the order in which a web page calls the endpoints, in prose; test_html goes it",
    "seed2:L131": "a 500: no request makes a sound server answer it; its shape is that of every error",
    "seed4:L75": "a drawing of the statuses; tests/unit/test_task.py has every pair of status and event",
    "seed4:L180": "a 500: no request makes a sound server answer it; its shape is that of every error",
}
"""Every block that nothing can be asked about, and why."""
