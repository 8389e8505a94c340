"""What text-to-video refuses and takes at submit, by both HTTP APIs that lead to it."""

from __future__ import annotations

import json

import pytest
import pytest_asyncio

from tests.api_client import serving
from tests.tiny_models import with_tiny_engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = "text_to_video.generate_video"
PROMPT = "a red circle moves to the left"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory):
    async with serving(tmp_path_factory.mktemp("inputs"), with_tiny_engine(NAME)) as started:
        yield started


async def by_creation(server, inputs):
    return await post(server, "/creation/api/tasks/", inputs)


async def by_tasks(server, inputs):
    return await post(server, "/v1/tasks", {"task_name": NAME, "input_data": inputs})


async def post(server, path, body):
    """As JSON of Python's, which has NaN and Infinity."""
    headers = {"content-type": "application/json"}
    return await server.http.post(path, content=json.dumps(body), headers=headers)


BOTH = pytest.mark.parametrize("create", [by_creation, by_tasks], ids=["creation", "tasks"])

WRONG = {
    "no prompt": ("prompt", {"prompt": None}),
    "empty prompt": ("prompt", {"prompt": ""}),
    "blank prompt": ("prompt", {"prompt": " \r\n\u3000"}),
    "5,000 characters": ("prompt", {"prompt": "x" * 5_000}),
    "5,000 emoji": ("prompt", {"prompt": "🎬" * 5_000}),
    "NUL": ("prompt", {"prompt": "a red\x00 circle"}),
    "escape": ("prompt", {"prompt": "\x1b[31mred"}),
    "backspace alone": ("prompt", {"prompt": "\x08"}),
    "C1 control": ("prompt", {"prompt": "a \x9b31m circle"}),
    "NUL in what is not wanted": ("negative_prompt", {"negative_prompt": "\x00"}),
    "0 frames": ("num_frames", {"num_frames": 0}),
    "-1 frames": ("num_frames", {"num_frames": -1}),
    "10,000 frames": ("num_frames", {"num_frames": 10_000}),
    "half a frame": ("num_frames", {"num_frames": 8.5}),
    "no width": ("width", {"width": 0}),
    "negative width": ("width", {"width": -64}),
    "negative height": ("height", {"height": -1}),
    "large width": ("width", {"width": 2_049}),
    "large height": ("height", {"height": 100_000}),
    "huge height": ("height", {"height": 10**30}),
    "0 steps": ("num_inference_steps", {"num_inference_steps": 0}),
    "1,000 steps": ("num_inference_steps", {"num_inference_steps": 1_000}),
    "0 fps": ("fps", {"fps": 0}),
    "NaN guidance in words": ("guidance_scale", {"guidance_scale": "NaN"}),
    "infinite guidance in words": ("guidance_scale", {"guidance_scale": "-Infinity"}),
    "negative guidance": ("guidance_scale", {"guidance_scale": -1}),
    "guidance in a list": ("guidance_scale", {"guidance_scale": [1]}),
    "negative seed": ("seed", {"seed": -1}),
    "large seed": ("seed", {"seed": 2**63}),
    "unknown cache": ("cache", {"cache": "fast"}),
}


@BOTH
@pytest.mark.parametrize(("field", "wrong"), WRONG.values(), ids=WRONG.keys())
async def test_what_is_refused_names_its_field(server, create, field, wrong):
    before = await server.remains()
    answer = await create(server, {"prompt": PROMPT, **wrong})
    if create is by_creation:
        assert answer.status_code == 422
        problems = answer.json()["detail"]
        assert [problem["loc"] for problem in problems] == [["body", field]]
    else:
        assert answer.status_code == 400
        problems = answer.json()["error"]["details"]
        assert [problem["loc"] for problem in problems] == [[field]]
        assert field in answer.json()["detail"]
    assert len(answer.content) < 2_000  # a caller's own text does not come back
    assert await server.remains() == before


@BOTH
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")], ids=str)
async def test_numbers_that_json_has_not_are_no_body(server, create, number):
    answer = await create(server, {"prompt": PROMPT, "guidance_scale": number})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


@BOTH
async def test_half_a_character_is_no_text(server, create):
    answer = await create(server, {"prompt": "a \ud800circle"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


TAKEN = {
    "emoji": {"prompt": "🔴 红色 👨‍👩‍👧 圆形 向 左 🎬"},
    "lines and tabs": {"prompt": "a red\r\n\tcircle\f\v\x85"},
    "right to left": {"prompt": "دائرة حمراء \u202eabc"},
    "4,000 characters": {"prompt": "长" * 4_000},
    "odd sizes": {"prompt": PROMPT, "width": 333, "height": 335},
    "the limits": {
        "prompt": PROMPT, "negative_prompt": "", "width": 64, "height": 2_048, "num_frames": 1_024, "fps": 60,
        "num_inference_steps": 200, "guidance_scale": 0.0, "seed": 2**63 - 1,
    },
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("inputs", TAKEN.values(), ids=TAKEN.keys())
async def test_what_is_unusual_is_taken_as_it_is(server, create, inputs):
    answer = await create(server, inputs)
    assert answer.status_code == 200, answer.text
    task = await server.registry.get(answer.json()["task_id"])
    assert task.inputs == inputs
