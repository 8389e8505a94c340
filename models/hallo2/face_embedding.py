"""Whose face it is, as 512 numbers: zeros, which Hallo2 takes too, or InsightFace's where that is accepted.

InsightFace's networks are for non-commercial research only, so having the file is not enough: an operator who
may use it puts a file named LICENCE_ACCEPTED beside it. Alignment and scaling are those of ArcFace
(arXiv 1801.07698; deepinsight/insightface, python-package/insightface/utils/face_align.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from models.face_topology import MOUTH_LEFT, MOUTH_RIGHT, NOSE_TIP, eye_centres
from models.faces import Face
from models.onnx_sessions import OnnxSession

EMBEDDING_SIZE = 512
ACCEPTANCE = "LICENCE_ACCEPTED"
_FOLDER, _NETWORK = "face_analysis/models", "glintr100.onnx"
_SIDE_PX = 112
# Where ArcFace wants the eyes, the tip of the nose and the corners of the mouth.
_PLACES_PX = np.array(
    ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
)


class FaceEmbedder(ABC):
    """Says whose face it is."""

    note: str
    """What a result says of it."""

    @abstractmethod
    def embed(self, picture: np.ndarray, face: Face, check: Callable[[], None]) -> np.ndarray:
        """(512,) float32 of a face in a (H, W, 3) uint8 RGB picture."""


class NullEmbedder(FaceEmbedder):
    """Zeros: the likeness comes from the reference picture alone."""

    def __init__(self, why: str = "") -> None:
        self.note = f"The face embedding is zeros: the likeness comes from the picture alone{why}."

    def embed(self, picture: np.ndarray, face: Face, check: Callable[[], None]) -> np.ndarray:  # noqa: ARG002 - the same for all
        return np.zeros(EMBEDDING_SIZE, np.float32)


class ArcFaceEmbedder(FaceEmbedder):
    """InsightFace's glintr100: not for commercial use."""

    note = "The face embedding is InsightFace's, which is not for commercial use."

    def __init__(self, session: OnnxSession) -> None:
        self._session = session

    def embed(self, picture: np.ndarray, face: Face, check: Callable[[], None]) -> np.ndarray:
        left_eye, right_eye = eye_centres(face.mesh_px)
        points = (left_eye, right_eye, *face.mesh_px[[NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT], :2])
        to_crop = similarity(np.array(points, np.float64), _PLACES_PX)
        crop = cv2.warpAffine(picture, to_crop, (_SIDE_PX, _SIDE_PX))  # (112, 112, 3)
        values = (crop.astype(np.float32).transpose(2, 0, 1)[None] - 127.5) / 127.5  # (1, 3, 112, 112)
        return self._session.run({next(iter(self._session.inputs)): values}, check)[0]


def load_face_embedder(folder: Path, *, device: str, threads: int) -> FaceEmbedder:
    """What lies in a Hallo2 folder and is accepted. Raises ModelNotReady for a broken network."""
    network = folder / _FOLDER / _NETWORK
    if not network.is_file():
        return NullEmbedder()
    if not network.with_name(ACCEPTANCE).exists():
        return NullEmbedder(f" ({_NETWORK} is there, but its licence is not accepted)")
    return ArcFaceEmbedder(OnnxSession(network, device=device, threads=threads))


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3): the shift, turn and scale that bring (N, 2) points nearest to others (least squares)."""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    from_middle, to_middle = source - source_mean, target - target_mean
    along = (from_middle * to_middle).sum()
    across = (from_middle[:, 0] * to_middle[:, 1] - from_middle[:, 1] * to_middle[:, 0]).sum()
    cos, sin = np.array((along, across)) / (from_middle**2).sum()
    turn = np.array(((cos, -sin), (sin, cos)))
    return np.column_stack((turn, target_mean - turn @ source_mean))
