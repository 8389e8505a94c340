"""A long prompt as scenes: by a real chat server on loopback, and on through the engine to one video."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.chat import Chat, Patience
from models.engine import Cancelled, Endpoint
from models.site import Site, resources_of
from models.text_to_video.presets import MAX_SEED, Clip
from models.text_to_video.storyboard import (
    BadAnswer,
    Storyboard,
    is_long,
    read_scenes,
    scene_writer,
    storyboard,
)
from models.video_streams import decode_video
from models.zoo.text_to_video import MAX_PROMPT_CHARS, MODELS, GenerateInputs
from tests.chat_server import ChatServer, Reply, chat_server, completion
from tests.run_context import LocalRunContext
from tests.tiny_pipelines import NUM_FRAMES, SIDE_PX, save_tiny_wan

LONG = (
    "A red circle moves to the left over a white ground until it has left the picture on its far side. "
    "A blue square then falls down from the upper edge, bounces twice and stays where it is. At last a green "
    "star grows in the middle and turns around slowly."
)
CHINESE = "红色的圆形在白色的背景上向左移动，直到离开画面。" * 2 + "然后绿色的星星在中间慢慢变大并且旋转。"
SCENES = ["a red circle moves to the left", "a blue square moves down", "a green star over white"]
QUICK = Patience(connect_s=1, answer_s=5, tries=2, pause_s=0.01)
FULL = MODELS[0].engines[0]
STEPS = 2


def clip(prompt: str = LONG, num_frames: int = NUM_FRAMES, seed: int = 7) -> Clip:
    return Clip(
        width_px=64, height_px=64, num_frames=num_frames, fps=8, steps=2, guidance_scale=3.0, seed=seed,
        prompt=prompt,
    )  # fmt: skip


def scenes(*texts: Any) -> Reply:
    return completion(json.dumps({"scenes": texts}))


def in_turn(*replies: Reply) -> Callable[[dict[str, Any]], Reply]:
    left = list(replies)
    return lambda _request: left.pop(0)


def planned(server_url: str, root: Path, asked: Clip) -> Storyboard:
    return storyboard(asked, Chat(server_url, "small", "key", QUICK), LocalRunContext(root))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        pytest.param(LONG, True, id="three sentences"),
        pytest.param(CHINESE, True, id="Chinese, 67 characters"),
        pytest.param(LONG.replace(".", ","), False, id="one long sentence"),
        pytest.param("A red circle. A blue square. A green star.", False, id="short sentences"),
        pytest.param("x" * 300 + "...", False, id="one sentence and dots"),
        pytest.param("a 3.5 m high tree " * 20, False, id="a point inside a number"),
        pytest.param("a" * 197 + ". b", True, id="200 characters"),
        pytest.param("a" * 196 + ". b", False, id="199 characters"),
    ],
)
def test_which_prompts_are_long(prompt: str, expected: bool) -> None:
    assert is_long(prompt) is expected


def test_scenes_are_the_servers_in_order_with_seeds_that_follow(tmp_path: Path) -> None:
    with chat_server(lambda _: scenes(*SCENES)) as server:
        made = planned(server.url, tmp_path, clip())
    assert made.scenes == [{"prompt": text, "seed": 7 + at} for at, text in enumerate(SCENES)]
    assert {(one.width_px, one.num_frames, one.steps) for one in made.clips} == {(64, NUM_FRAMES, 2)}
    assert made.notes == (f"small split the long prompt into 3 scenes of {NUM_FRAMES} frames.",)
    assert made.seconds["storyboard"] > 0
    assert server.questions == [{"prompt": LONG}]


def test_the_largest_seed_has_followers(tmp_path: Path) -> None:
    with chat_server(lambda _: scenes(*SCENES)) as server:
        made = planned(server.url, tmp_path, clip(seed=MAX_SEED))
    assert [one.seed for one in made.clips] == [MAX_SEED, 0, 1]


@pytest.mark.parametrize(
    "asked", [clip("A red circle. It moves."), clip(num_frames=1)], ids=["a short prompt", "a picture"]
)
def test_what_needs_no_scenes_is_not_asked_about(tmp_path: Path, asked: Clip) -> None:
    with chat_server(lambda _: scenes(*SCENES)) as server:
        assert planned(server.url, tmp_path, asked) == Storyboard((asked,))
    assert server.requests == []


def test_without_a_server_a_long_prompt_is_one_scene(tmp_path: Path) -> None:
    context = LocalRunContext(tmp_path)
    assert scene_writer({}) is None
    assert storyboard(clip(), None, context) == Storyboard((clip(),))
    assert context.reports == []


def test_one_scene_keeps_the_callers_words(tmp_path: Path) -> None:
    with chat_server(lambda _: scenes("something else")) as server:
        made = planned(server.url, tmp_path, clip())
    assert (made.clips, made.notes) == ((clip(),), ())


WRONG = {
    "no JSON": "Here are your scenes: one, two",
    "empty": "",
    "a bare text": '"one"',
    "another form": '{"shots": ["one", "two"]}',
    "more than asked": '{"scenes": ["one", "two"], "title": "x"}',
    "no list": '{"scenes": "one"}',
    "no scene": '{"scenes": []}',
    "seven": json.dumps({"scenes": ["x"] * 7}),
    "an empty scene": '{"scenes": ["one", " \\n"]}',
    "a number": '{"scenes": ["one", 2]}',
    "null": '{"scenes": ["one", null]}',
    "objects": '{"scenes": [{"text": "one"}]}',
    "too long a scene": json.dumps({"scenes": ["one", "x" * (MAX_PROMPT_CHARS + 1)]}),
    "a control character": '{"scenes": ["one", "t\\u0000wo"]}',
    "half a character": '{"scenes": ["one", "t\\ud800wo"]}',
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
def test_answers_that_are_no_scenes_are_refused(answer: str) -> None:
    with pytest.raises(BadAnswer):
        read_scenes(answer)


@pytest.mark.parametrize(
    "answer",
    ['{"scenes": ["a  b\\n", "c"]}', '<think>{"a": 1}</think>\n```json\n{"scenes": ["a b", "c"]}\n```'],
    ids=["spaces", "thoughts and a fence"],
)
def test_answers_that_are_scenes(answer: str) -> None:
    assert read_scenes(answer) == ("a b", "c")


def test_a_wrong_answer_is_asked_for_again_with_what_was_wrong(tmp_path: Path) -> None:
    with chat_server(in_turn(scenes("one", ""), scenes("one", "two"))) as server:
        made = planned(server.url, tmp_path, clip())
    assert [one.prompt for one in made.clips] == ["one", "two"]
    first, second = server.requests
    assert second["messages"][:-1] == first["messages"]
    assert second["messages"][-1]["content"] == "Your last answer was refused: a scene is empty"
    assert second["seed"] != first["seed"]


def test_a_second_wrong_answer_is_the_last(tmp_path: Path) -> None:
    with chat_server(in_turn(scenes(), completion("sorry"))) as server:
        made = planned(server.url, tmp_path, clip())
    assert made.clips == (clip(),)
    (note,) = made.notes
    assert "not split into scenes" in note
    assert "2 answers of the chat server were unusable" in note


@pytest.mark.parametrize("status", [401, 404, 500, 503, 302])
def test_a_server_that_refuses_costs_no_task(tmp_path: Path, status: int) -> None:
    with chat_server(lambda _: (status, {"Location": "http://127.0.0.1/"}, b"{}")) as server:
        made = planned(server.url, tmp_path, clip())
    assert made.clips == (clip(),)
    (note,) = made.notes
    assert "not split into scenes" in note
    assert "MEDIARAY_CHAT" in note


def test_a_server_that_is_down_costs_no_task(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = planned(f"http://127.0.0.1:{port}/v1", tmp_path, clip())
    assert made.clips == (clip(),)
    assert "cannot be reached" in made.notes[0]


def test_a_cancel_does_not_wait_for_the_answer(tmp_path: Path) -> None:
    context = LocalRunContext(tmp_path)
    with chat_server(lambda _: scenes(*SCENES)) as server:
        server.hold = threading.Event()
        waiter = threading.Thread(target=lambda: (server.asked.wait(), context.cancel()))
        waiter.start()
        with pytest.raises(Cancelled):
            storyboard(clip(), Chat(server.url, "small", "", QUICK), context)
        waiter.join()


# Through the engine


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with chat_server(lambda _: scenes(*SCENES)) as started:
        yield started


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, server: ChatServer) -> Any:
    """The full engine of a site whose operator set a chat server."""
    models_dir = tmp_path_factory.mktemp("models")
    save_tiny_wan(models_dir / "text_to_video" / "tiny-wan")
    site = Site(models_dir, endpoints={"chat": Endpoint(server.url, "small", "key")})
    made = FULL.make()
    made.load(resources_of(FULL, site, device="cpu", threads=1))
    return made


def run(engine: Any, context: LocalRunContext, prompt: str = LONG, **changes: Any) -> dict[str, Any]:
    usual = {
        "width": SIDE_PX, "height": SIDE_PX, "num_frames": NUM_FRAMES, "fps": 8, "seed": 7,
        "num_inference_steps": STEPS, "guidance_scale": 3.0,
    }  # fmt: skip
    return dict(engine.run(GenerateInputs(prompt=prompt, **usual | changes), context).values)


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame for frame, _ in decode_video(path)]).astype(float)


def test_scenes_are_one_video_each_as_if_made_alone(engine: Any, server: ChatServer, tmp_path: Path) -> None:
    server.reply = lambda _: scenes(*SCENES)
    context = LocalRunContext(tmp_path / "all")
    values = run(engine, context)
    assert values["prompt"] == LONG
    assert values["scenes"] == [{"prompt": text, "seed": 7 + at} for at, text in enumerate(SCENES)]
    assert (values["num_frames"], values["duration"]) == (3 * NUM_FRAMES, 3 * NUM_FRAMES / 8)
    assert [note for note in values["notes"] if "3 scenes of 9 frames" in note]
    assert values["stage_seconds"]["storyboard"] > 0
    assert [path.name for path in context.output_dir.iterdir()] == ["video.mp4"]
    joined = frames_of(values["video_path"]).reshape(3, NUM_FRAMES, SIDE_PX, SIDE_PX, 3)
    alone = [
        frames_of(run(engine, LocalRunContext(tmp_path / text), text, seed=7 + at)["video_path"])
        for at, text in enumerate(SCENES)
    ]
    for at, scene in enumerate(joined):
        distances = [float(np.mean((scene - other) ** 2)) for other in alone]
        assert distances[at] < 100  # H.264 of noise costs some
        assert all(far > 5 * distances[at] for number, far in enumerate(distances) if number != at)


def test_progress_counts_over_all_scenes(engine: Any, server: ChatServer, tmp_path: Path) -> None:
    server.reply = lambda _: scenes(*SCENES)
    context = LocalRunContext(tmp_path)
    run(engine, context)
    stages = {
        stage: [(report.done, report.total) for report in reports]
        for stage, reports in groupby(context.reports, lambda report: report.stage)
    }
    assert list(stages) == ["storyboard", "encode", "denoise", "decode"]
    assert {done for done, _ in stages["denoise"]} == set(range(3 * STEPS + 1))
    for stage, total in {"denoise": 3 * STEPS, "decode": 3 * NUM_FRAMES}.items():
        assert {of for _, of in stages[stage]} == {total}
        assert stages[stage][-1] == (total, total)
        assert stages[stage] == sorted(stages[stage])


def test_a_cancel_in_the_second_scene_leaves_nothing(engine: Any, server: ChatServer, tmp_path: Path) -> None:
    server.reply = lambda _: scenes(*SCENES)
    context = LocalRunContext(tmp_path, cancel_at=STEPS + 1)
    with pytest.raises(Cancelled):
        run(engine, context)
    assert (context.reports[-1].stage, context.reports[-1].done) == ("denoise", STEPS + 1)
    assert not list(context.output_dir.iterdir())


def test_a_server_in_trouble_gives_the_video_that_none_gives(
    engine: Any, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply = lambda _: (401, {}, b"{}")
    values = run(engine, LocalRunContext(tmp_path / "trouble"))
    assert values["scenes"] == [{"prompt": LONG, "seed": 7}]
    assert [note for note in values["notes"] if "MEDIARAY_CHAT_API_KEY is refused" in note]
    monkeypatch.setattr(engine, "_chat", None)
    plain = run(engine, LocalRunContext(tmp_path / "plain"))
    assert np.array_equal(frames_of(values["video_path"]), frames_of(plain["video_path"]))
    assert (plain["scenes"], plain["num_frames"]) == (values["scenes"], NUM_FRAMES)
    assert "storyboard" not in plain["stage_seconds"]
