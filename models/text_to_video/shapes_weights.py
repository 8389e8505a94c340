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
    ("text_encoder/config.json", 729, "01152a5984ac0f7779a0e4caf83543a982eabce04f8be766524832efb0dbd881"),
    (
        "text_encoder/model.safetensors",
        1152848,
        "ec819b5f4b7fbc31d80a0736608af66c2430b62266726ea852a17084581d9ed9",
    ),
    ("tokenizer/tokenizer.json", 36401, "14e6a931241c1409b539906be633762fef9e805f08ad4376c54d047e91eb5d75"),
    (
        "tokenizer/tokenizer_config.json",
        408,
        "d768feec884275237b5452833c80b3a6ab4c33be2be6f793ba7a233b1e16e536",
    ),
    ("transformer/config.json", 482, "7e794747a08874d8800d4656b53dcfc86499eea1d70611261e0b82d50f7129ec"),
    (
        "transformer/diffusion_pytorch_model.safetensors",
        11457624,
        "5c638aeb9d78fbf766edf72874c878e9d908827ccd5398703620ad2253c725c4",
    ),
    ("vae/config.json", 2844, "ee1b3785048885adbb95548fc850e7bb5b17c3b853e1ce1ff98982d4b3726be7"),
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
