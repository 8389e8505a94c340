"""The files of the embedded text-to-video model, pinned; written by training/shapes/ship.py."""

from __future__ import annotations

from models.weights import WeightFile

_FILES = (
    ("model_index.json", 497, "fd2a3affb15952ef459688600fc6b2dabb7a5fe1f5d24460a999625de1129ffe"),
    (
        "scheduler/scheduler_config.json",
        883,
        "2e579a73ae8dc38a5b75e6ebb5d639e962fe527e1804f64f248dbdfba8212a00",
    ),
    ("text_encoder/config.json", 729, "2781336c05ac8739924428308a0a222d873a7df0cb3340db6a93d4d7903a0e86"),
    (
        "text_encoder/model.safetensors",
        1188176,
        "b3c1b65b757fc99c415cb87b61cacefa02084a01c2192992664d325335dc92b6",
    ),
    ("tokenizer/tokenizer.json", 44273, "2fcf34b912ab06d4f86bb547f9cf6c639ae561effcc1b8bb85f5c2d90cac6444"),
    (
        "tokenizer/tokenizer_config.json",
        408,
        "d768feec884275237b5452833c80b3a6ab4c33be2be6f793ba7a233b1e16e536",
    ),
    ("transformer/config.json", 482, "7e794747a08874d8800d4656b53dcfc86499eea1d70611261e0b82d50f7129ec"),
    (
        "transformer/diffusion_pytorch_model.safetensors",
        11457624,
        "95db6e83c6724a561463991ef2e143721260f98a99b3c66cdb79117933417931",
    ),
    ("vae/config.json", 2851, "4522ff15a47acae84dd7e86ecbdcb562523d951135b03269d15fd4fa4f3c30e9"),
    (
        "vae/diffusion_pytorch_model.safetensors",
        9827720,
        "7f831bf39751b0def11091cfb8e201bb32129df78035427d0fe96ce8297818a6",
    ),
)
SHAPES_WEIGHTS = tuple(
    WeightFile(f"text_to_video/shapes/{path}", sha256, size_bytes, is_shipped=True)
    for path, size_bytes, sha256 in _FILES
)
