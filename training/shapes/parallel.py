"""Data-parallel training on the cores of one machine: one process a core, gradients averaged over gloo.

Two processes of one thread measured faster than one process of two threads: networks this small spend a
two-thread step on waiting at every layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing, nn


def spawn(work: Callable[..., None], num_workers: int, *arguments: object) -> None:
    """Run `work(rank, *arguments)` in `num_workers` processes that form one group, to their end."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder, "meeting")
        multiprocessing.spawn(_joined, (work, num_workers, meeting.as_uri(), arguments), num_workers)


def _joined(
    rank: int, work: Callable[..., None], num_workers: int, meeting: str, arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=num_workers)
    work(rank, *arguments)
    dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the group."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat.div_(dist.get_world_size())
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
