"""The last stage: the diffusion transformer, by flow matching on latents and captions made on the spot."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, UMT5EncoderModel

from training.shapes.autoencoder import LATENT_CHANNELS
from training.shapes.captions import caption
from training.shapes.diary import Diary
from training.shapes.optimizer import optimizers, rate_share, set_rates
from training.shapes.parallel import average_gradients
from training.shapes.scenes import Scene, scene_of
from training.shapes.wording import MAX_TOKENS, TEXT_DIM, embedded
from training.shapes.words import LANGUAGES

FLOW_SHIFT = 3.0
_MUON_RATE, _ADAM_RATE = 0.02, 2e-3
_UNCONDITIONAL_SHARE = 0.1
_EMA_DECAY = 0.99
_SAVE_STEPS = 150


def new_transformer() -> WanTransformer3DModel:
    """80 tokens a clip: 5 x 4 x 4 positions of the latent."""
    return WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=6,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=128,
        ffn_dim=768,
        num_layers=9,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )


def noise_levels(batch: int) -> Tensor:
    """(B,) in 0..1: logit-normal, shifted towards noise as the sampler's are."""
    level = torch.randn(batch).sigmoid()
    return FLOW_SHIFT * level / (1 + (FLOW_SHIFT - 1) * level)


def flow_loss(transformer: WanTransformer3DModel, latents: Tensor, text: Tensor) -> Tensor:
    """Squared error of the velocity from data to noise at a random level."""
    noise = torch.randn_like(latents)
    level = noise_levels(latents.shape[0])
    share = level[:, None, None, None, None]
    # The CPU's fused attention takes half of a step for its gradient; plain matrix products take a tenth.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        velocity = transformer(
            hidden_states=(1 - share) * latents + share * noise,  # (B, 48, 5, 4, 4)
            timestep=level * 1000,
            encoder_hidden_states=text,  # (B, 48 tokens, 128)
            return_dict=False,
        )[0]
    return (velocity.float() - (noise - latents)).square().mean()


class CaptionedLatents:
    """The encoded clips of `folder`, captioned anew at every draw; some captions are empty, for guidance."""

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        config = AutoencoderKLWan.load_config(folder / "vae")
        self._mean = torch.tensor(config["latents_mean"])[:, None, None, None]
        self._std = torch.tensor(config["latents_std"])[:, None, None, None]
        self._latents = torch.load(folder / "latents.pt", mmap=True)
        self._scenes: list[Scene] = [
            scene_of(told) for told in json.loads((folder / "scenes.json").read_text())
        ]
        self._tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self._encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()
        self._rng = rng

    @torch.no_grad()
    def draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """Normalised latents (B, 48, 5, 4, 4) and text embeddings (B, 48, 128)."""
        chosen = self._rng.integers(len(self._scenes), size=batch)
        latents = (self._latents[torch.from_numpy(chosen)].float() - self._mean) / self._std
        texts = [self._caption(index) for index in chosen]
        with torch.autocast("cpu", torch.bfloat16):
            states = embedded(self._encoder, self._tokenizer, texts, is_padded_to_longest=True)
        return latents, F.pad(states.float(), (0, 0, 0, MAX_TOKENS - states.shape[1]))

    def _caption(self, index: int) -> str:
        if self._rng.random() < _UNCONDITIONAL_SHARE:
            return ""
        return caption(self._scenes[index], str(self._rng.choice(list(LANGUAGES))), self._rng).text


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training: from the weights of `start` (None: from nothing) to those of `product`.

    The learning rate falls to nothing over the last `decay_share` of the steps.
    """

    product: str
    start: str | None
    steps: int
    decay_share: float


def train(rank: int, phase: Phase, batch: int, seed: int, folder: Path) -> None:
    """One worker's part of a phase; the first worker saves the averaged weights as they come."""
    torch.manual_seed(seed)
    transformer: Any = new_transformer()
    if phase.start is not None:
        transformer = WanTransformer3DModel.from_pretrained(folder / phase.start).train()
    average = copy.deepcopy(transformer)
    torch.manual_seed(seed + 1 + rank)
    data = CaptionedLatents(folder, np.random.default_rng(seed + 1 + rank))
    steppers = optimizers(transformer, muon_rate=_MUON_RATE, adam_rate=_ADAM_RATE)
    parameters = list(transformer.parameters())
    for block in transformer.blocks:
        block.compile(dynamic=False)
    diary = Diary(folder / phase.product) if rank == 0 else None
    for step in range(phase.steps):
        loss = flow_loss(transformer, *data.draw(batch))
        transformer.zero_grad()
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        set_rates(steppers, rate_share(step, phase.steps, decay_share=phase.decay_share))
        for stepper in steppers:
            stepper.step()
        if diary is not None:
            _follow(average, transformer, min(_EMA_DECAY, (step + 1) / (step + 10)))
            diary.note(step + 1, loss.item())
            if (step + 1) % _SAVE_STEPS == 0 or step + 1 == phase.steps:
                diary.save(average)


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    for kept, now in zip(average.parameters(), module.parameters(), strict=True):
        kept.lerp_(now, 1 - decay)
