"""From a picture file to what Hallo2 needs of it; kept for the next task with the same picture."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.audio_streams import of_field
from models.engine import InvalidInput
from models.faces import Face, FaceFinder
from models.hallo2.face_embedding import FaceEmbedder
from models.hallo2.pipeline import Look
from models.hallo2.regions import Regions, Square, regions_of, square_around
from models.networks.hallo2 import RegionMasks
from models.pictures import read_picture

MAX_YAW_DEG = 30.0  # what Hallo2 was trained on
_FIELD = "image_path"
_KEPT = 8


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A face to animate; `notes` say what a caller should know of the picture."""

    look: Look
    notes: tuple[str, ...]


class PortraitReader:
    """Finds the face, cuts the square, makes the masks; remembers the last pictures by their content."""

    def __init__(self, finder: FaceFinder, embedder: FaceEmbedder, side_px: int) -> None:
        self._finder, self._embedder, self._side_px = finder, embedder, side_px
        self._known: OrderedDict[str, Portrait] = OrderedDict()

    def read(self, path: Path, *, use_cache: bool, check: Callable[[], None]) -> Portrait:
        """Raises InvalidInput for what is no picture and for one without a face."""
        digest = file_digest(path)
        if use_cache and digest in self._known:
            self._known.move_to_end(digest)
            return self._known[digest]
        with of_field(_FIELD):
            picture = read_picture(path)
        check()
        portrait = self._portrait(picture, check)
        self._known[digest] = portrait
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return portrait

    def _portrait(self, picture: np.ndarray, check: Callable[[], None]) -> Portrait:
        faces = self._finder.find(picture)
        if not faces:
            text = (
                "no face was found in the picture: use a photograph of one person who looks into the camera"
            )
            raise InvalidInput(text, field=_FIELD)
        face = faces[0]
        square = square_around(face, picture)
        regions = regions_of(square.points(face.mesh_px, self._side_px), self._side_px)
        look = Look(
            picture=_as_tensor(square.picture(picture, self._side_px)),
            face_box=torch.from_numpy(regions.face_box),
            masks=_masks(regions),
            embedding=torch.from_numpy(self._embedder.embed(picture, face, check)),
        )
        return Portrait(look, (*_notes(faces, square, picture), self._embedder.note))


def file_digest(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_tensor(picture: np.ndarray) -> Tensor:
    """(3, H, W) float32 of -1..1 from (H, W, 3) uint8."""
    return torch.from_numpy(picture.astype(np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


def _masks(regions: Regions) -> RegionMasks:
    full, face, lip = (
        tuple(torch.from_numpy(mask).flatten() for mask in masks)
        for masks in (regions.background, regions.face, regions.lips)
    )
    return RegionMasks(full=full, face=face, lip=lip)


def _notes(faces: list[Face], square: Square, picture: np.ndarray) -> list[str]:
    notes = []
    if len(faces) > 1:
        notes.append(f"The picture shows {len(faces)} faces: the largest was animated.")
    if abs(faces[0].yaw_deg) > MAX_YAW_DEG:
        notes.append(
            "The face looks to the side: Hallo2 was trained on frontal faces, so quality is limited."
        )
    if picture.shape[:2] != (square.side_px, square.side_px):
        notes.append(
            f"Hallo2 draws squares: the {square.side_px}x{square.side_px} px around the face were taken."
        )
    return notes
