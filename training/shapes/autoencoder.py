"""Stage 1: the video autoencoder, 17 frames of 64x64 to a latent (48, 5, 4, 4) and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from training.shapes.optimizer import optimizers, rate_share, set_rates
from training.shapes.parallel import average_gradients
from training.shapes.scenes import Scene, draw, random_scene

LATENT_CHANNELS = 48
_KL_WEIGHT = 1e-6
_EDGE_WEIGHT = 4.0
_MUON_RATE, _ADAM_RATE = 0.02, 2e-3
_ENCODE_BATCH = 32
_SHORT_FRAMES, _SHORT_SHARE = 9, 0.75
"""Most steps see 9 of a clip's 17 frames: half the time, and the network's memory reaches no further."""


def new_autoencoder() -> AutoencoderKLWan:
    """Untrained, with latents that are not normalised yet."""
    return AutoencoderKLWan(
        base_dim=32,
        dim_mult=[1, 2, 3],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        z_dim=LATENT_CHANNELS,
        patch_size=4,
        in_channels=48,
        out_channels=48,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )


def as_video(clips: np.ndarray) -> Tensor:
    """(B, T, H, W, 3) uint8 to (B, 3, T, H, W) float32 in -1..1."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


def reconstruction_loss(autoencoder: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Absolute error, with more weight where the picture changes in space or time."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = autoencoder.encode(video).latent_dist
        rebuilt = autoencoder.decode(posterior.sample()).sample.float()
    error = (rebuilt - video).abs()
    kl = posterior.kl().mean()
    return (error * _edges(video)).mean() + _KL_WEIGHT * kl


def _edges(video: Tensor) -> Tensor:
    """(B, 1, T, H, W) weights from 1, larger at outlines."""
    gray = video.mean(dim=1, keepdim=True)
    near = gray - torch.nn.functional.avg_pool3d(gray, (3, 5, 5), 1, (1, 2, 2), count_include_pad=False)
    return 1 + _EDGE_WEIGHT * (near.abs() * 4).clamp_(max=1)


def random_clips(num_clips: int, rng: np.random.Generator) -> tuple[list[Scene], np.ndarray]:
    """Scenes and their clips, (B, 17, 64, 64, 3) uint8."""
    scenes = [random_scene(rng) for _ in range(num_clips)]
    return scenes, np.stack([draw(scene, rng) for scene in scenes])


def train(rank: int, steps: int, batch: int, seed: int, folder: Path, product: str) -> None:
    """One worker's part of the training; the first worker saves the model to `folder / product`."""
    torch.manual_seed(seed)
    autoencoder = _channels_last(new_autoencoder())
    torch.manual_seed(seed + rank)
    rng = np.random.default_rng(seed + rank)
    parameters = list(autoencoder.parameters())
    steppers = optimizers(autoencoder, muon_rate=_MUON_RATE, adam_rate=_ADAM_RATE)
    losses: list[tuple[int, float]] = []
    recent: list[float] = []
    for step in range(steps):
        clips = random_clips(batch, rng)[1]
        if step < steps * _SHORT_SHARE:
            start = int(rng.integers(clips.shape[1] - _SHORT_FRAMES + 1))
            clips = clips[:, start : start + _SHORT_FRAMES]
        loss = reconstruction_loss(autoencoder, as_video(clips))
        autoencoder.zero_grad()
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        set_rates(steppers, rate_share(step, steps))
        for stepper in steppers:
            stepper.step()
        recent.append(loss.item())
        if rank == 0 and len(recent) == 20:
            losses.append((step + 1, sum(recent) / 20))
            recent.clear()
            print(f"autoencoder: step {step + 1}, loss {losses[-1][1]:.4f}", flush=True)
    if rank == 0:
        autoencoder.save_pretrained(folder / product)
        (folder / f"{product}.json").write_text(json.dumps(losses))


def _channels_last(autoencoder: AutoencoderKLWan) -> AutoencoderKLWan:
    """With kernels laid out as the CPU's convolutions want them: a quarter less time a step."""
    for parameter in autoencoder.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)
    return autoencoder


@torch.no_grad()
def normalise(autoencoder: AutoencoderKLWan, latents: Tensor) -> None:
    """Write the mean and spread of the latents (N, 48, 5, 4, 4) into the configuration, for pipelines."""
    flat = latents.float().transpose(0, 1).flatten(1)
    autoencoder.register_to_config(
        latents_mean=flat.mean(dim=1).tolist(), latents_std=flat.std(dim=1).tolist()
    )


@torch.inference_mode()
def encode(rank: int, num_clips: int, seed: int, folder: Path) -> None:
    """One worker's clips as latents (N, 48, 5, 4, 4) float16, not normalised, with their scenes beside."""
    autoencoder = _channels_last(AutoencoderKLWan.from_pretrained(folder / "autoencoder"))
    rng = np.random.default_rng(seed + 1000 + rank)
    scenes: list[Scene] = []
    latents = torch.empty((num_clips, LATENT_CHANNELS, 5, 4, 4), dtype=torch.float16)
    while len(scenes) < num_clips:
        some, clips = random_clips(min(_ENCODE_BATCH, num_clips - len(scenes)), rng)
        with torch.autocast("cpu", torch.bfloat16):
            mode = autoencoder.encode(as_video(clips)).latent_dist.mode()
        latents[len(scenes) : len(scenes) + len(some)] = mode.half()
        scenes += some
    torch.save(latents, folder / f"latents-{rank}.pt")
    (folder / f"scenes-{rank}.json").write_text(json.dumps([asdict(scene) for scene in scenes]))
