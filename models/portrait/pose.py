"""One frame's pose of a talking portrait: what the sound decides and the renderer draws."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pose:
    """The face at one moment. The default is a face at rest: mouth closed, eyes as in the picture.

    `opening`: 0 is closed (the lips meet even where the picture smiles with open lips), 1 wide open.
    `spread`: -1 rounded as for u, o and w; 0 relaxed; 1 wide as for i, e and s.
    `blink`: 0 eyes as in the picture, 1 shut.
    `shift_x`, `shift_y`: the head's way right and down, as fractions of the face's width.
    `roll_deg`: the head's turn in the picture's plane, clockwise as seen.
    """

    opening: float = 0.0
    spread: float = 0.0
    blink: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    roll_deg: float = 0.0
