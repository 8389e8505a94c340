"""The embedded text-to-video model, scored on captions in wordings that it was not trained on."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from models.engine import EngineKind
from models.media import probe
from models.site import Site, resources_of
from models.video_streams import decode_video
from models.zoo.text_to_video import MODELS
from tests.run_context import LocalRunContext
from training.shapes.held_out import held_out_captions
from training.shapes.measure import read_video

(MODEL,) = MODELS
SPEC = next(spec for spec in MODEL.engines if spec.kind is EngineKind.EMBEDDED)
LEAST = {"color": 0.90, "shape": 0.80, "motion": 0.85}


@pytest.fixture(scope="module")
def engine():
    engine = SPEC.make()
    engine.load(resources_of(SPEC, Site(), device="cpu", threads=1))
    return engine


@pytest.fixture
def generate(engine, tmp_path):
    """The result of one prompt; 64 pixels are the model's own, which spare the upscaler."""

    def run(prompt, *, name="one", side_px=64, **inputs):
        context = LocalRunContext(tmp_path / name, task_id=name)
        asked = MODEL.inputs(prompt=prompt, width=side_px, height=side_px, **inputs)
        return engine.run(asked, context).values

    return run


def pictures(result):
    return np.stack([frame for frame, _ in decode_video(result["video_path"])])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_held_out_captions_are_drawn_as_they_say(language, generate, subtests):
    right, things = Counter(), 0
    captions = [told for told in held_out_captions() if told.language == language]
    for number, told in enumerate(captions):
        video = pictures(generate(told.text, name=f"{language}-{number}", seed=number))
        seen, background = read_video(video, len(told.scene.things))
        right["background"] += background == told.scene.background
        things += len(seen)
        for thing, found in zip(told.scene.things, seen, strict=True):
            right.update(q for q in LEAST if getattr(thing, q) == getattr(found, q))
    shares = {quality: right[quality] / things for quality in LEAST}
    right_background = right["background"] / len(captions)
    print(f"\n{language}: {shares}, background {right_background:.2f}, {things} things")  # noqa: T201 - the scores
    for quality, least in LEAST.items():
        with subtests.test(quality):
            assert shares[quality] >= least


def test_the_seed_decides_the_video(generate):
    digests = [
        hashlib.sha256(pictures(generate("a red star", name=str(run), seed=seed)).tobytes()).hexdigest()
        for run, seed in enumerate((7, 7, 8))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    "prompt", ["Två katter dansar 🐈🐈 på taket", "a photo of the Eiffel tower at night"]
)
def test_what_the_model_does_not_know_still_gives_a_video_and_a_word_about_it(generate, prompt):
    result = generate(prompt)
    assert probe(result["video_path"]).video is not None
    assert any("shapes" in note for note in result["notes"])


def test_the_video_is_shown_enlarged_for_browsers(generate):
    result = generate("a blue heart spinning on white", side_px=384)
    video = probe(result["video_path"]).video
    assert (video.width_px, video.height_px, video.num_frames) == (384, 384, 17)
    assert (result["num_frames"], result["fps"], result["duration"]) == (17, 8, 2.125)
    assert pictures(result).std() > 10
