"""The ways to remove noise: the published one, and two that need about half the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

# What the networks were trained for (NevermoreCY/hallo2: configs/inference/long_loopy.yaml at 120a907):
# v-prediction, and noise that at the last of 1,000 steps hides everything.
_NOISE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}
DEFAULT_SOLVER = "ddim"


@dataclass(frozen=True, slots=True)
class Solver:
    """A diffusers scheduler with its settings; `steps` are those it runs where a task does not say."""

    name: str
    scheduler: Any
    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    quality: str = ""
    """What a result says of it."""

    def begin(self, steps: int) -> Any:
        """A scheduler for one clip; its timesteps lie on the CPU, so that no step waits for the device."""
        scheduler = self.scheduler(**_NOISE, **self.settings)
        scheduler.set_timesteps(steps)
        return scheduler


_SHORTER = "Denoised with {}, a shorter way than the published 40 steps of DDIM: details may differ from it."
SOLVERS: Mapping[str, Solver] = {
    solver.name: solver
    for solver in (
        Solver("ddim", DDIMScheduler, 40, {"clip_sample": False}),
        Solver(
            "dpm++",
            DPMSolverMultistepScheduler,
            20,
            {"algorithm_type": "dpmsolver++", "solver_order": 2},
            _SHORTER.format("DPM-Solver++ (2M)"),
        ),
        Solver("unipc", UniPCMultistepScheduler, 20, {"solver_order": 2}, _SHORTER.format("UniPC")),
    )
}


def steps_of(solver: str, inference_steps: int | None) -> int:
    """The steps of a clip: what the task says, else what the solver is made for."""
    return SOLVERS[solver].steps if inference_steps is None else inference_steps
