"""Stage 1: the video autoencoder, 17 frames of 64x64 to a latent (48, 5, 4, 4) and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from training.shapes.diary import Diary
from training.shapes.optimizer import optimizers, rate_share, set_rates
from training.shapes.parallel import average_gradients
from training.shapes.scenes import SIDE_PX, Scene, draw, random_scene

LATENT_CHANNELS = 48
_KL_WEIGHT = 1e-6
_EDGE_WEIGHT = 4.0
_MUON_RATE, _ADAM_RATE = 0.02, 2e-3
_POLISH_JITTER = 0.1
_CROP_PX, _CROP_SHARE = 32, 0.85
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


def reconstruction_loss(autoencoder: AutoencoderKLWan, video: Tensor, jitter: float = 0.0) -> Tensor:
    """Absolute error, with more weight where the picture changes in space or time.

    `jitter` is how much noise the latents get, as a share of their spread.
    """
    with torch.autocast("cpu", torch.bfloat16):
        posterior = autoencoder.encode(video).latent_dist
        latents = posterior.sample()
        if jitter:
            spread = torch.tensor(autoencoder.config.latents_std)[:, None, None, None]
            latents = latents + jitter * spread * torch.randn_like(latents)
        rebuilt = autoencoder.decode(latents).sample.float()
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
    """One worker's part of the first training, on whole pictures; worker 0 saves to `folder / product`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + rank)

    def clips(progress: float) -> np.ndarray:
        some = random_clips(batch, rng)[1]
        return _cut(some, rng) if progress < _SHORT_SHARE else some

    _train(new_autoencoder(), rank, steps, seed, clips, folder / product)


def sharpen(rank: int, steps: int, batch: int, seed: int, start: Path, product: Path) -> None:
    """One worker's part of the second training, on crops at the things' outlines.

    A crop costs a quarter of a picture and has nothing but what is hard: four times the lesson per second.
    """
    rng = np.random.default_rng(seed + rank)

    def clips(progress: float) -> np.ndarray:
        if progress > _CROP_SHARE:
            return random_clips(batch // 8, rng)[1]
        return np.stack([_crop(clip, rng) for clip in _cut(random_clips(batch, rng)[1], rng)])

    _train(AutoencoderKLWan.from_pretrained(start), rank, steps, seed, clips, product)


def polish(rank: int, steps: int, batch: int, seed: int, start: Path, product: Path) -> None:
    """One worker's part of the third training, of the decoder alone: latents stay what they are.

    They get noise here, since those that the transformer makes are not quite those of the encoder.
    """
    rng = np.random.default_rng(seed + rank)
    autoencoder = AutoencoderKLWan.from_pretrained(start)
    for part in (autoencoder.encoder, autoencoder.quant_conv):
        part.requires_grad_(False)

    def clips(_progress: float) -> np.ndarray:
        return np.stack([_crop(clip, rng) for clip in _cut(random_clips(batch, rng)[1], rng)])

    _train(autoencoder, rank, steps, seed, clips, product, jitter=_POLISH_JITTER)


def _train(  # noqa: PLR0913 - one loop for three trainings
    autoencoder: AutoencoderKLWan,
    rank: int,
    steps: int,
    seed: int,
    clips: Callable[[float], np.ndarray],
    product: Path,
    *,
    jitter: float = 0.0,
) -> None:
    """`clips` gives a batch for a progress of 0..1."""
    torch.manual_seed(seed + rank)
    parameters = list(_channels_last(autoencoder).parameters())
    steppers = optimizers(autoencoder, muon_rate=_MUON_RATE, adam_rate=_ADAM_RATE)
    diary = Diary(product) if rank == 0 else None
    for step in range(steps):
        loss = reconstruction_loss(autoencoder, as_video(clips(step / steps)), jitter)
        autoencoder.zero_grad()
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        set_rates(steppers, rate_share(step, steps))
        for stepper in steppers:
            stepper.step()
        if diary is not None:
            diary.note(step + 1, loss.item())
    if diary is not None:
        diary.save(autoencoder)


def _cut(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """9 successive frames of (B, 17, H, W, 3)."""
    start = int(rng.integers(clips.shape[1] - _SHORT_FRAMES + 1))
    return clips[:, start : start + _SHORT_FRAMES]


def _crop(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, 32, 32, 3) of (T, 64, 64, 3) around a random pixel of a thing."""
    is_thing = np.abs(clip[0].astype(int) - clip[0, 0, 0]).sum(axis=-1) > 60  # (64, 64)
    rows, columns = np.nonzero(is_thing) if is_thing.any() else ([SIDE_PX // 2], [SIDE_PX // 2])
    chosen = int(rng.integers(len(rows)))
    shift = rng.integers(-_CROP_PX // 4, _CROP_PX // 4 + 1, 2)
    top, left = np.clip(
        np.array([rows[chosen], columns[chosen]]) + shift - _CROP_PX // 2, 0, SIDE_PX - _CROP_PX
    )
    return clip[:, top : top + _CROP_PX, left : left + _CROP_PX]


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
    autoencoder = _channels_last(AutoencoderKLWan.from_pretrained(folder / "sharpened"))
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
