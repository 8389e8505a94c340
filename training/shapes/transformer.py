"""Stage 3: the diffusion transformer, trained by flow matching on latents and captions made on the spot."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, UMT5EncoderModel

from training.shapes.autoencoder import LATENT_CHANNELS
from training.shapes.captions import caption
from training.shapes.optimizer import optimizers, rate_share, set_rates
from training.shapes.parallel import average_gradients
from training.shapes.scenes import Scene, scene_of
from training.shapes.wording import TEXT_DIM, embedded
from training.shapes.words import LANGUAGES

FLOW_SHIFT = 3.0
_MUON_RATE, _ADAM_RATE = 0.02, 2e-3
_UNCONDITIONAL_SHARE = 0.1
_EMA_DECAY = 0.995
_LOG_STEPS, _SAVE_STEPS = 20, 200


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
        return latents, embedded(self._encoder, self._tokenizer, [self._caption(index) for index in chosen])

    def _caption(self, index: int) -> str:
        if self._rng.random() < _UNCONDITIONAL_SHARE:
            return ""
        return caption(self._scenes[index], str(self._rng.choice(list(LANGUAGES))), self._rng).text


def train(rank: int, steps: int, batch: int, seed: int, folder: Path, product: str) -> None:
    """One worker's part of the training; the first worker saves the averaged weights as they come."""
    torch.manual_seed(seed)
    transformer = new_transformer()
    average = copy.deepcopy(transformer)
    torch.manual_seed(seed + 1 + rank)
    data = CaptionedLatents(folder, np.random.default_rng(seed + 1 + rank))
    steppers = optimizers(transformer, muon_rate=_MUON_RATE, adam_rate=_ADAM_RATE)
    parameters = list(transformer.parameters())
    for block in transformer.blocks:
        block.compile(dynamic=False)
    losses: list[tuple[int, float]] = []
    recent: list[float] = []
    for step in range(steps):
        loss = flow_loss(transformer, *data.draw(batch))
        transformer.zero_grad()
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        set_rates(steppers, rate_share(step, steps, warm_up=100))
        for stepper in steppers:
            stepper.step()
        recent.append(loss.item())
        if rank:
            continue
        _follow(average, transformer, min(_EMA_DECAY, (step + 1) / (step + 10)))
        if len(recent) == _LOG_STEPS:
            losses.append((step + 1, sum(recent) / _LOG_STEPS))
            recent.clear()
            print(f"transformer: step {step + 1}, loss {losses[-1][1]:.4f}", flush=True)
        if (step + 1) % _SAVE_STEPS == 0 or step + 1 == steps:
            average.save_pretrained(folder / product)
            (folder / f"{product}-losses.json").write_text(json.dumps(losses))


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    for kept, now in zip(average.parameters(), module.parameters(), strict=True):
        kept.lerp_(now, 1 - decay)
