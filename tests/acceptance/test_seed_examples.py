"""Every fenced example of the five contract documents, extracted from them and run against a real server.

Only hosts, file names and ids of an earlier step are replaced. Examples that call the server run twice: with
all dialects together on the root, and with their own alone below its prefix. What an example submits must
complete.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.acceptance.readme_curls import SUBMITS, curls, pasted
from tests.acceptance.seed_answers import ANSWERS, BODIES, FREE_TEXT, REQUESTS
from tests.acceptance.seed_browser import IMAGE_LOADS, VIDEO_PLAYS, page_in
from tests.acceptance.seed_documents import FOLDER, Block, blocks, count_of_fences, fields_of_seed_1
from tests.acceptance.seed_programs import PARTS, PROGRAMS, runnable
from tests.acceptance.seed_scene import FILM, PREFIXES, Ran, Scene, listening, program, scene_in
from tests.acceptance.seed_shapes import differences, documented
from tests.server import free_port

ALL = blocks()
RUNNABLE = [part for block in ALL for part in runnable(block)]
BY_PLACE = {block.place: block for block in ALL}
# What a page shows once its script has read the schema: an endpoint, and how it is written.
DOCUMENTS = {"/docs": (".opblock", "/health"), "/redoc": ("[data-section-id]", "health")}
HTML, CALLBACK_HEADERS, FLASK = "seed0:L147", "seed4:L586", "seed4:L636"

on_the_root_and_alone = pytest.mark.parametrize("is_alone", [False, True], ids=["root", "alone"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_in(tmp_path_factory.mktemp("seeds")) as scene:
        yield scene


def at(places: object) -> pytest.MarkDecorator:
    """One test for each of these places, in the order of the documents."""
    found = [block for block in ALL if block.place in places]  # type: ignore[operator]
    return pytest.mark.parametrize("block", found, ids=lambda block: block.id)


def base_of(block: Block, *, is_alone: bool) -> str:
    return PREFIXES[block.seed] if is_alone else ""


def test_every_block_is_in_exactly_one_table() -> None:
    tables = (PROGRAMS, PARTS, ANSWERS, REQUESTS, BODIES, FREE_TEXT, (HTML, CALLBACK_HEADERS, FLASK))
    listed = Counter(place for table in tables for place in table if place.count(":") == 1)
    assert listed == Counter(block.place for block in ALL)


def test_no_fence_is_missed() -> None:
    paths = sorted(FOLDER.glob("[0-9]-*.md"))
    counts = Counter(block.seed for block in ALL)
    assert [counts[number] for number in range(5)] == [count_of_fences(path) for path in paths]
    assert len(ALL) > 80


@on_the_root_and_alone
@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: block.id)
def test_program(scene: Scene, block: Block, is_alone: bool) -> None:
    example = PROGRAMS[block.place]
    ran = run(scene, block, scene.filled(block, base_of(block, is_alone=is_alone), example.values(scene)))
    example.check(scene, ran)


@at(ANSWERS)
def test_answer(scene: Scene, block: Block) -> None:
    shown = ANSWERS[block.place]
    text = block.text
    for theirs, ours in (shown.values or {}).items():
        text = text.replace(theirs, ours)
    answer = shown.ask(scene)
    assert answer.status_code == shown.status, answer.text
    fits = shown.fits or (lambda theirs, ours: differences(theirs, ours, shown.free))
    missed = list(fits(documented(text), answer.json()))
    assert not missed


@on_the_root_and_alone
@at(REQUESTS)
def test_request(scene: Scene, block: Block, is_alone: bool) -> None:
    sent = REQUESTS[block.place]
    line, *headers = scene.filled(block, "", sent.values(scene)).splitlines()
    method, path = line.split()
    answer = scene.call(method, base_of(block, is_alone=is_alone) + path, **sent.body(scene))
    assert answer.status_code == 200, answer.text
    for header in headers:
        name, _, value = header.partition(": ")
        assert answer.request.headers[name].startswith(value)


@on_the_root_and_alone
@at(BODIES)
def test_body(scene: Scene, block: Block, is_alone: bool) -> None:
    path = base_of(block, is_alone=is_alone) + BODIES[block.place]
    answer = scene.call("POST", path, json=documented(block.text))
    assert answer.status_code == 200, answer.text


@on_the_root_and_alone
def test_html(scene: Scene, is_alone: bool) -> None:
    """seed0:L147: the picture has pixels and the film plays, in a page of another origin."""
    browser = program("chromium", "chromium-browser", "google-chrome")
    block = BY_PLACE[HTML]
    film = scene.get(f"/indexed/api/task/{scene.indexed(FILM)}/result").json()["files"]
    image = scene.get(f"/indexed/api/task/{scene.indexed(1)}/result").json()["files"]
    names = {
        "{task_id}/file/result.jpg": f"{scene.indexed(1)}/file/{first(image, 'image')}",
        "{task_id}/file/output.mp4": f"{scene.indexed(FILM)}/file/{first(film, 'video')}",
    }
    html = scene.filled(block, base_of(block, is_alone=is_alone), names)
    with page_in(browser) as page:
        page.set_content(html)
        width, height = page.eval_on_selector("img", IMAGE_LOADS)
        played = page.eval_on_selector("video", VIDEO_PLAYS)
    assert (width > 0, height > 0) == (True, True)
    assert (played["readyState"] >= 2, played["currentTime"] > 0, played["width"] > 0) == (True,) * 3, played


def test_callback_headers(scene: Scene) -> None:
    """seed4:L586: the block lists headers, with a remark."""
    lines = [line.partition("#")[0].strip() for line in BY_PLACE[CALLBACK_HEADERS].text.splitlines()]
    headers = scene.called_back()[1].headers
    assert {line: headers[line.partition(":")[0].lower()] for line in lines} == {
        line: line.partition(": ")[2] for line in lines
    }


def test_flask_receiver(scene: Scene) -> None:
    """seed4:L636: the document's own receiver, on a free port, is told of a task."""
    port = free_port()
    script = scene.folder / "receiver.py"
    script.write_text(BY_PLACE[FLASK].text.replace("port=5000", f"port={port}"))
    with listening([sys.executable, "-u"], script, port) as printed:
        task_id = scene.extracted("told-flask", callback=f"http://127.0.0.1:{port}/api/task-callback")
        status = scene.reached(f"/v1/tasks/{task_id}/status", "completed")
        scene.callback_sent(task_id)
        text = printed.read_text()
    assert f"任务 {task_id} completed\n" in text
    assert f"'audio_path': '{status['result']['audio_path']}'" in text


@on_the_root_and_alone
def test_fields_of_seed_1(scene: Scene, is_alone: bool) -> None:
    """Document 1 has no fences: its endpoints in order, and every field that it names."""
    fields, base = fields_of_seed_1(), "/flashvsr/api" if is_alone else "/api"
    file = ("input.mp4", (scene.folder / "input.mp4").read_bytes())
    created = scene.call("POST", f"{base}/tasks/", files={"file": file})
    assert created.status_code == 201, created.text
    path = f"{base}/tasks/{created.json()['id']}"
    ended = scene.reached(path, "completed")
    progress = scene.get(f"{path}/progress").json()
    listed = scene.get(f"{base}/tasks/?page=1&page_size=20&status=completed").json()
    answers = {
        "TaskParameters": [created.json()["parameters"], ended["parameters"]],
        "TaskResponse": [created.json(), ended, *listed["tasks"]],
        "TaskProgressResponse": [progress],
    }
    assert fields.schemas.keys() == answers.keys()
    for schema, real in answers.items():
        assert all(one.keys() >= set(fields.schemas[schema]) for one in real), schema
    defaults = {name: json.loads(text) for name, text in fields.defaults.items()}
    assert (len(defaults), {name: ended["parameters"][name] for name in defaults}) == (6, defaults)
    assert (scene.call("DELETE", path).status_code, scene.get(path).status_code) == (204, 404)


@on_the_root_and_alone
def test_system_status_of_seed_1(scene: Scene, is_alone: bool) -> None:
    real = scene.get(f"{'/flashvsr' if is_alone else ''}/api/system/status").json()
    for key, inner in fields_of_seed_1().system.items():
        if key == "gpu_info" and not real["gpu_available"]:
            assert real[key] is None
        else:
            assert not set(inner) - real[key].keys() if inner else isinstance(real[key], bool)


@pytest.mark.parametrize("base", ["", "/hallo2"], ids=["root", "alone"])
@pytest.mark.parametrize("path", DOCUMENTS)
def test_interactive_documents_of_seed_2(scene: Scene, path: str, base: str) -> None:
    """They show an endpoint in a browser that reaches this server alone, in either slash form."""
    browser = program("chromium", "chromium-browser", "google-chrome")
    shown, its_like = DOCUMENTS[path]
    asked: list[str] = []
    with page_in(browser) as page:
        page.on("requestfinished", lambda request: asked.append(request.url))
        for address in (f"{scene.server.url}{base}{path}", f"{scene.server.url}{base}{path}/"):
            page.goto(address)
            page.locator(shown).filter(has_text=its_like).first.wait_for()
    assert not [url for url in asked if not url.startswith((scene.server.url, "data:", "blob:"))]


def run(scene: Scene, block: Block, text: str) -> Ran:
    if block.language == "bash":
        program("curl")
        program("jq")
        return scene.run([program("bash")], ".sh", text)
    if block.language == "python":
        return scene.run([sys.executable, "-u"], ".py", text)
    assert block.language == "javascript"
    return scene.run([program("node")], ".mjs", text)


def first(files: list[dict[str, str]], kind: str) -> str:
    return next(file["filename"] for file in files if file["type"] == kind)


@pytest.mark.parametrize("name", ["keyframe_dir", "keyframe_minio_url"])
def test_the_frames_of_one_task_are_the_input_of_the_next(scene: Scene, name: str) -> None:
    """Document 4 shows results with a folder's key and its URL: both name the folder."""
    inputs = {"video_path": "videos/input.mp4", "keyframe_sample_count": 3}
    task_id = scene.once("frames", lambda: scene.server.submit("ffmpeg.extract_keyframes", inputs))
    frames = scene.server.wait(task_id)["result"]
    reader = scene.server.submit("paddleocr.perform_ocr", {"keyframe_dir": frames[name]})
    record = scene.server.wait(reader)
    assert record["status"] == "completed", record
    path = f"/v1/files/download/{record['result']['ocr_results_path']}"
    text = scene.get(path).raise_for_status().text
    assert all(key.rpartition("/")[2] in text for key in frames["keyframe_uploaded_files"])


def test_every_curl_of_readme_works_when_pasted(scene: Scene) -> None:
    """README is no contract document, but what it shows must work as those do, beside the same server."""
    program("curl")
    answers = {command: pasted(scene.server, command) for command in curls()}
    for dialect, path in SUBMITS.items():
        (answer,) = [answer for command, answer in answers.items() if re.search(path, command)]
        assert answer.get("task_id") or answer.get("id"), (dialect, answer)
    assert scene.server.wait("sound-1")["status"] == "completed"
