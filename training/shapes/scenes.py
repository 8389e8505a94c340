"""The clips that the embedded text-to-video model learns from: coloured shapes that move, drawn on demand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

SIDE_PX = 64
NUM_FRAMES = 17
FPS = 8
_SUPERSAMPLING = 3
_SUBPIXEL_BITS = 4
_COLOR_NOISE = 8  # of 255

COLORS = {
    "red": (220, 35, 35),
    "orange": (250, 140, 20),
    "yellow": (245, 225, 40),
    "green": (40, 165, 60),
    "cyan": (40, 215, 225),
    "blue": (40, 80, 225),
    "purple": (140, 50, 190),
    "pink": (250, 130, 190),
}
BACKGROUNDS = {
    "black": (12, 12, 12),
    "white": (243, 243, 243),
    "gray": (125, 125, 125),
    "brown": (110, 72, 42),
    "navy": (16, 24, 72),
}
RADIUS_PX = {"small": (8.0, 9.0), "medium": (10.5, 12.0), "large": (13.5, 15.0)}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
TURNABLE = ("square", "triangle", "star", "heart", "cross")
DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up_left": (-1, -1),
    "up_right": (1, -1),
    "down_left": (-1, 1),
    "down_right": (1, 1),
}
MOTIONS = (*DIRECTIONS, "circle", "bounce", "grow", "shrink", "rotate", "still")
BESIDE_ANOTHER = ("up", "down", "bounce", "grow", "shrink", "rotate", "still")
"""Motions that keep to one half of the picture."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene: what its caption may say of it."""

    color: str
    shape: str
    size: str
    motion: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two things (the first is the left one) on a plain background."""

    things: tuple[Thing, ...]
    background: str


def random_scene(rng: np.random.Generator, *, pair_share: float = 0.3) -> Scene:
    """A scene of one thing, or with a chance of `pair_share` of two."""
    background = str(rng.choice(list(BACKGROUNDS)))
    if rng.random() >= pair_share:
        return Scene((_random_thing(rng, MOTIONS, tuple(RADIUS_PX)),), background)
    pair = tuple(_random_thing(rng, BESIDE_ANOTHER, ("small", "medium")) for _ in range(2))
    return Scene(pair, background)


def _random_thing(rng: np.random.Generator, motions: tuple[str, ...], sizes: tuple[str, ...]) -> Thing:
    motion = str(rng.choice(motions))
    shape = str(rng.choice(TURNABLE if motion == "rotate" else SHAPES))
    size = "medium" if motion in ("grow", "shrink") else str(rng.choice(sizes))
    return Thing(str(rng.choice(list(COLORS))), shape, size, motion)


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """One clip of the scene, (17, 64, 64, 3) uint8; what the scene leaves open is drawn by lot."""
    clip = np.empty((NUM_FRAMES, SIDE_PX, SIDE_PX, 3), np.float32)
    clip[:] = _shade(BACKGROUNDS[scene.background], rng)
    for index, thing in enumerate(scene.things):
        coverage = _coverage(_placed(thing, _center_px(index, len(scene.things), rng), rng))
        clip += coverage[..., None] * (_shade(COLORS[thing.color], rng) - clip)
    return clip.round().astype(np.uint8)


def _shade(rgb: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.array(rgb) + rng.uniform(-_COLOR_NOISE, _COLOR_NOISE, 3), 0, 255).astype(np.float32)


def _center_px(index: int, num_things: int, rng: np.random.Generator) -> np.ndarray:
    """Where the middle of a thing's path lies (x, y)."""
    middle = SIDE_PX / 2
    x = middle if num_things == 1 else middle + (2 * index - 1) * SIDE_PX / 4
    reach = 5.0 if num_things == 1 else 1.5
    return np.array([x, middle]) + rng.uniform(-reach, reach, 2)


def _placed(thing: Thing, center_px: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The outline in every frame, (17, N, 2) in pixels."""
    time = np.linspace(0, 1, NUM_FRAMES)
    radius_px = rng.uniform(*RADIUS_PX[thing.size])
    shift_px, scale, turn = _path(thing.motion, time, rng)
    outline = OUTLINES[thing.shape]()  # (N, 2)
    cos, sin = np.cos(turn), np.sin(turn)
    turned = np.stack(  # (17, N, 2)
        [
            np.outer(cos, outline[:, 0]) - np.outer(sin, outline[:, 1]),
            np.outer(sin, outline[:, 0]) + np.outer(cos, outline[:, 1]),
        ],
        axis=-1,
    )
    return turned * (radius_px * scale)[:, None, None] + (center_px + shift_px)[:, None, :]


def _path(
    motion: str, time: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift (17, 2) in pixels, scale (17,) and clockwise turn (17,) in radians at each time in 0..1."""
    shift_px, scale, turn = np.zeros((time.size, 2)), np.ones_like(time), np.zeros_like(time)
    if motion in DIRECTIONS:
        direction = np.array(DIRECTIONS[motion], float)
        reach_px = rng.uniform(28, 34) / np.linalg.norm(direction) ** 0.6
        shift_px = np.outer(time - 0.5, direction * reach_px)
    elif motion == "circle":
        angle = 2 * math.pi * (time + rng.random())
        shift_px = rng.uniform(12, 15) * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    elif motion == "bounce":
        height = np.abs(np.sin(2 * math.pi * (time + rng.uniform(0, 0.5))))
        shift_px[:, 1] = rng.uniform(22, 27) * (0.5 - height)
    elif motion in ("grow", "shrink"):
        low, high = rng.uniform(0.4, 0.5), rng.uniform(1.35, 1.5)
        scale = low + (high - low) * (time if motion == "grow" else 1 - time)
    elif motion == "rotate":
        turn = time * rng.uniform(0.9, 1.1) * math.pi
    return shift_px, scale, turn


def _coverage(outlines: np.ndarray) -> np.ndarray:
    """How much of each pixel the outlines cover, (17, 64, 64) float32 in 0..1."""
    side = SIDE_PX * _SUPERSAMPLING
    points = np.round((outlines * _SUPERSAMPLING - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
    canvas = np.zeros((NUM_FRAMES, side, side), np.uint8)
    for picture, polygon in zip(canvas, points, strict=True):
        cv2.fillPoly(picture, [polygon], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    blocks = canvas.reshape(NUM_FRAMES, SIDE_PX, _SUPERSAMPLING, SIDE_PX, _SUPERSAMPLING)
    return blocks.mean(axis=(2, 4), dtype=np.float32) / 255


def _regular(corners: int, radius: float, start_turns: float) -> np.ndarray:
    angle = 2 * math.pi * (np.arange(corners) / corners + start_turns)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _star() -> np.ndarray:
    points = np.empty((10, 2))
    points[::2] = _regular(5, 1.3, -0.25)
    points[1::2] = _regular(5, 0.52, -0.15)
    return points


def _heart() -> np.ndarray:
    angle = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    x = 16 * np.sin(angle) ** 3
    y = -(13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle))
    return np.stack([x, y], axis=-1) / 14.5


def _cross() -> np.ndarray:
    arm, half = 1.12, 0.36
    quarter = np.array([(half, -arm), (half, -half), (arm, -half)])
    points = []
    for _ in range(4):
        points.append(quarter)
        quarter = quarter @ np.array([[0, 1], [-1, 0]])
    return np.concatenate(points)


OUTLINES: dict[str, Callable[[], np.ndarray]] = {
    "circle": lambda: _regular(40, 1.0, 0),
    "square": lambda: _regular(4, 0.92 * math.sqrt(2), 0.125),
    "triangle": lambda: _regular(3, 1.25, -0.25),
    "star": _star,
    "heart": _heart,
    "cross": _cross,
}
"""Outlines around (0, 0) with y downwards, of about the same area, as functions of no argument."""


def scene_of(told: dict[str, Any]) -> Scene:
    """A scene from what `dataclasses.asdict` made of it."""
    return Scene(tuple(Thing(**thing) for thing in told["things"]), told["background"])
