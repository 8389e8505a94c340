"""How a loaded pipeline lies in memory, and the second chance of a clip that did not fit."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import psutil
import torch

from models.engine import OutOfMemory
from models.memory_errors import first_line, memory_errors, out_of_memory
from models.text_to_video.memory_plan import (
    MemoryPlan,
    Offload,
    Placement,
    apply_plan,
    component_bytes_of,
    degraded,
    geometry_of,
    plan_memory,
)
from models.text_to_video.presets import Clip

T = TypeVar("T")


class Layout:
    """A pipeline on a device. What was once offloaded stays so: it did not fit, and may not again."""

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self.plan: MemoryPlan | None = None
        self._pipeline, self._device = pipeline, device
        self._component_bytes = component_bytes_of(pipeline)

    def fit(self, clip: Clip, *, passes: int = 1) -> MemoryPlan:
        """Lay the pipeline out for `clip`; `passes` is how often the network's batch holds it.

        Raises InvalidInput or PermanentFailure with the deciding figure, OutOfMemory when others took it.
        """
        wanted = plan_memory(
            self._component_bytes,
            self._free_bytes(),
            clip,
            geometry_of(self._pipeline, passes=passes),
            can_offload=self._device.type != "cpu",
        )
        with memory_errors():
            return self._apply(wanted)

    def degrade(self, *, for_decode: bool) -> MemoryPlan | None:
        """Free what is free and lay out by the next cheaper plan that helps; None when there is none."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        cheaper = degraded(self.plan) if self.plan is not None else None
        if cheaper is None or self.plan is None:
            return None
        if not for_decode and not self.plan.vae_tiling:  # tiles alone do nothing for the network
            cheaper = degraded(cheaper) or cheaper
        with memory_errors():
            return self._apply(cheaper)

    def _apply(self, wanted: MemoryPlan) -> MemoryPlan:
        plan = _no_dearer(wanted, self.plan)
        apply_plan(self._pipeline, plan, self._device)
        self.plan = plan
        return plan

    def _free_bytes(self) -> int:
        """What the device would have without this pipeline."""
        if self._device.type == "cuda":
            return torch.cuda.mem_get_info(self._device)[0] + torch.cuda.memory_reserved(self._device)
        return int(psutil.virtual_memory().available) + sum(self._component_bytes.values())


class SecondChance:
    """Runs the parts of one task; the first that runs out of memory runs again under a cheaper plan."""

    def __init__(self, layout: Layout) -> None:
        self.notes: list[str] = []
        self._layout = layout

    def run(self, work: Callable[[], T], *, for_decode: bool = False) -> T:
        """Raises OutOfMemory for the second time, and when there is no cheaper plan."""
        try:
            return work()
        except torch.OutOfMemoryError as error:
            if self.notes:
                raise out_of_memory(error) from error
            reason = first_line(error)
        # Not inside `except`: the error's frames hold the tensors that are in the way.
        plan = self._layout.degrade(for_decode=for_decode)
        if plan is None:
            raise OutOfMemory(f"out of memory, and no cheaper plan is left: {reason}")
        self.notes.append(f"Out of memory at first, so it was done again with less: {plan.words}.")
        return self.run(work, for_decode=for_decode)


def _no_dearer(plan: MemoryPlan, current: MemoryPlan | None) -> MemoryPlan:
    if current is None:
        return plan
    if current.text_encoder is Placement.OFFLOADED:
        plan = replace(plan, text_encoder=Placement.OFFLOADED)
    return replace(plan, offload=Offload.GROUP) if current.offload is Offload.GROUP else plan
