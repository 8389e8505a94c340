"""The meter of the embedded text-to-video model on clips whose content is known; its captions and scenes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from training.shapes.captions import caption
from training.shapes.held_out import held_out_captions
from training.shapes.measure import read_video
from training.shapes.scenes import (
    BACKGROUNDS,
    COLORS,
    MOTIONS,
    NUM_FRAMES,
    SHAPES,
    SIDE_PX,
    draw,
    random_scene,
)
from training.shapes.words import LANGUAGES

QUALITIES = ("color", "shape", "motion")


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(11)


def test_drawn_clips_are_read_right(rng):
    right, num_things = Counter(), 0
    for _ in range(80):
        scene = random_scene(rng)
        seen, background = read_video(draw(scene, rng), len(scene.things))
        right["background"] += background == scene.background
        for thing, found in zip(scene.things, seen, strict=True):
            num_things += 1
            right.update(q for q in QUALITIES if getattr(thing, q) == getattr(found, q))
    assert right["background"] >= 0.98 * 80
    assert {q: right[q] >= 0.98 * num_things for q in QUALITIES} == dict.fromkeys(QUALITIES, True)


def test_a_blank_video_shows_nothing():
    seen, background = read_video(np.full((NUM_FRAMES, SIDE_PX, SIDE_PX, 3), 243, np.uint8), 1)
    assert background == "white"
    assert [(thing.shape, thing.motion) for thing in seen] == [("", "")]


def test_the_same_seed_draws_the_same_clip():
    clips = [draw(random_scene(rng), rng) for rng in map(np.random.default_rng, (3, 3, 4))]
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_held_out_wording_is_trained_on(language, rng):
    trained = {wording(caption(random_scene(rng), language, rng).text, language) for _ in range(20_000)}
    held_out = [told.text for told in held_out_captions() if told.language == language]
    assert len(held_out) == 30
    assert [text for text in held_out if wording(text, language) in trained] == []


def test_the_held_out_captions_ask_for_every_quality():
    things = [thing for told in held_out_captions() for thing in told.scene.things]
    assert {thing.color for thing in things} == set(COLORS)
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.motion for thing in things} == set(MOTIONS)
    assert {told.scene.background for told in held_out_captions()} == set(BACKGROUNDS)


def wording(text: str, language: str) -> str:
    """A caption without its words for colours, shapes, sizes and backgrounds, which no wording can avoid."""
    words = LANGUAGES[language]
    known = [
        word
        for group in (words.colors, words.shapes, words.sizes, words.backgrounds)
        for some in group.values()
        for word in some
    ]
    plain = text.lower()
    for word in sorted(known, key=len, reverse=True):
        plain = plain.replace(word, "_")
    return plain.strip(" .。")
