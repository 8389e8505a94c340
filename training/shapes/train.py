"""Trains the embedded text-to-video model from nothing, stage by stage.

    python -m training.shapes.train RUN_FOLDER [STAGE ...]

Each stage leaves its files in RUN_FOLDER and is skipped when they are there; named stages run alone.
docs/shapes-model.md tells machine, times, losses and scores of the weights that ship.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel

from training.shapes import autoencoder as autoencoders
from training.shapes import transformer as transformers
from training.shapes import wording
from training.shapes.parallel import spawn

SEED = 20261122
NUM_WORKERS = 2
TEXT_STEPS, TEXT_BATCH = 1_500, 64
AUTOENCODER_STEPS, AUTOENCODER_BATCH = 1_000, 8  # a worker
SHARPEN_STEPS, SHARPEN_BATCH = 600, 32
POLISH_STEPS, POLISH_BATCH = 300, 32
NUM_CLIPS = 30_000
TRANSFORMER_BATCH = 64  # a worker
FIRST = transformers.Phase("transformer", None, steps=600, decay_share=1e-3)
SECOND = transformers.Phase("annealed", "transformer", steps=450, decay_share=1.0)
LAST = transformers.Phase("settled", "annealed", steps=750, decay_share=0.6)


def train_wording(folder: Path) -> None:
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    tokenizer = wording.new_tokenizer(rng)
    encoder = wording.new_encoder(tokenizer)
    history = wording.train_encoder(encoder, tokenizer, rng, steps=TEXT_STEPS, batch=TEXT_BATCH)
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder")
    (folder / "wording.json").write_text(json.dumps(history))


def train_autoencoder(folder: Path) -> None:
    spawn(autoencoders.train, NUM_WORKERS, AUTOENCODER_STEPS, AUTOENCODER_BATCH, SEED, folder, "autoencoder")


def sharpen_autoencoder(folder: Path) -> None:
    start, product = folder / "autoencoder", folder / "sharpened"
    spawn(autoencoders.sharpen, NUM_WORKERS, SHARPEN_STEPS, SHARPEN_BATCH, SEED + 1, start, product)


def encode_clips(folder: Path) -> None:
    autoencoder = AutoencoderKLWan.from_pretrained(folder / "sharpened")
    spawn(autoencoders.encode, NUM_WORKERS, NUM_CLIPS // NUM_WORKERS, SEED, folder)
    parts = [torch.load(folder / f"latents-{rank}.pt") for rank in range(NUM_WORKERS)]
    latents = torch.cat(parts)
    autoencoders.normalise(autoencoder, latents)
    autoencoder.save_pretrained(folder / "vae")
    torch.save(latents, folder / "latents.pt")
    told = (json.loads((folder / f"scenes-{rank}.json").read_text()) for rank in range(NUM_WORKERS))
    (folder / "scenes.json").write_text(json.dumps(list(chain.from_iterable(told))))


def train_transformer(folder: Path) -> None:
    spawn(transformers.train, NUM_WORKERS, FIRST, TRANSFORMER_BATCH, SEED, folder)


def anneal_transformer(folder: Path) -> None:
    spawn(transformers.train, NUM_WORKERS, SECOND, TRANSFORMER_BATCH, SEED + 100, folder)


def settle_transformer(folder: Path) -> None:
    spawn(transformers.train, NUM_WORKERS, LAST, TRANSFORMER_BATCH, SEED + 200, folder)


def polish_decoder(folder: Path) -> None:
    start, product = folder / "vae", folder / "polished"
    spawn(autoencoders.polish, NUM_WORKERS, POLISH_STEPS, POLISH_BATCH, SEED + 2, start, product)


def assemble(folder: Path) -> None:
    """The pipeline's folder as it ships, in half precision."""
    pipeline = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        vae=AutoencoderKLWan.from_pretrained(folder / "polished"),
        transformer=WanTransformer3DModel.from_pretrained(folder / LAST.product),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            num_train_timesteps=1000,
            flow_shift=transformers.FLOW_SHIFT,
        ),
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder / "pipeline", safe_serialization=True)


STAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "wording": ("wording.json", train_wording),
    "autoencoder": ("autoencoder.json", train_autoencoder),
    "sharpen": ("sharpened.json", sharpen_autoencoder),
    "latents": ("scenes.json", encode_clips),
    "transformer": ("transformer.json", train_transformer),
    "anneal": ("annealed.json", anneal_transformer),
    "settle": ("settled.json", settle_transformer),
    "polish": ("polished.json", polish_decoder),
    "assemble": ("pipeline/model_index.json", assemble),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("stages", nargs="*", metavar="STAGE")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.stages or STAGES:
        product, stage = STAGES[name]
        if (options.folder / product).exists():
            continue
        started_s = time.monotonic()
        stage(options.folder)
        print(f"{name}: {time.monotonic() - started_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
