"""Muon for kernels and matrices, AdamW for the rest: the fewest steps where compute is what is short.

Muon: K. Jordan, https://kellerjordan.github.io/posts/muon/; the same coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Momentum whose update has all singular values near one; convolution kernels count as (out, rest)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"])

    def _move(self, parameter: nn.Parameter, rate: float, decay: float) -> None:
        state = self.state[parameter]
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(parameter.grad, 1 - _MOMENTUM)
        ahead = torch.lerp(parameter.grad, momentum, _MOMENTUM).flatten(1)
        update = orthogonal(ahead).view_as(parameter)
        parameter.mul_(1 - rate * decay)
        parameter.add_(update, alpha=-rate * max(1, ahead.shape[0] / ahead.shape[1]) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix of unit singular values, roughly, by a quintic iteration in bfloat16."""
    x = matrix.bfloat16()
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = _A * x + (_B * square + _C * square @ square) @ x
    return (x.T if is_tall else x).to(matrix.dtype)


def optimizers(module: nn.Module, *, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for what has two dimensions or more, AdamW for gains, biases and what is looked up."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        is_matrix = parameter.dim() >= 2 and min(parameter.flatten(1).shape) > 1 and "scale_shift" not in name
        (matrices if is_matrix else rest).append(parameter)
    return [
        Muon(matrices, muon_rate),
        torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def set_rates(some: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Scale every learning rate to `share` of what it was made with."""
    for optimizer in some:
        for group in optimizer.param_groups:
            group.setdefault("peak_lr", group["lr"])
            group["lr"] = group["peak_lr"] * share


def rate_share(step: int, steps: int, *, warm_up: int = 50, decay_share: float = 0.4) -> float:
    """Trapezoid: a short rise, a plateau, a fall to zero over the last `decay_share` of the steps."""
    return min(1.0, (step + 1) / warm_up, (steps - step) / (steps * decay_share))
