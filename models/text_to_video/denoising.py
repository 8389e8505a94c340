"""The denoising loop of a pipeline under watch: finished steps are told, a wish to stop is heard."""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor

from models.text_to_video.decode import gives_latents, watched
from models.text_to_video.presets import Clip, Guidance, Preset, call_arguments

_POLL_S = 0.005


class StepWatch:
    """Tells `report` how many steps are finished; it and `check` may raise out of the pipeline's loop.

    On a GPU the host hands out one step while another runs, so that the GPU never waits for it; only finished
    steps count, and a wish to stop is heard while the host waits.
    """

    def __init__(
        self, device: torch.device, steps: int, report: Callable[[int], None], check: Callable[[], None]
    ) -> None:
        self.ended_s = time.monotonic()
        self._device, self._steps = device, steps
        self._report, self._check = report, check
        self._handed_out = 0
        self._running: deque[torch.cuda.Event] = deque()

    def on_step_end(
        self, _pipeline: Any, _index: int, _timestep: Any, values: dict[str, Any]
    ) -> dict[str, Any]:
        """As `callback_on_step_end` of diffusers wants it."""
        self.step_ended()
        return values

    def step_ended(self) -> None:
        self._handed_out += 1
        if self._device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._running.append(event)
        self._wait(ahead=1 if self._handed_out < self._steps else 0)

    def finish(self) -> None:
        """Wait for what still runs."""
        if self._running:
            self._wait(ahead=0)

    def before_pass(self) -> None:
        """Called before each pass of the network; the first says that the text is encoded."""
        if self._handed_out:
            self._check()
        else:
            self._report(0)

    def _wait(self, ahead: int) -> None:
        while len(self._running) > ahead:
            while not self._running[0].query():  # type: ignore[no-untyped-call]
                self._check()
                time.sleep(_POLL_S)
            self._running.popleft()
        self.ended_s = time.monotonic()
        self._report(min(self._handed_out - len(self._running), self._steps))


class StepBar(AbstractContextManager["StepBar"]):
    """A pipeline's progress bar for pipelines without a step callback: each update is a step."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step

    def update(self, _steps: int = 1) -> None:
        self._on_step()

    def __exit__(self, *_: object) -> None:
        return None


def denoised(pipeline: Any, preset: Preset, clip: Clip, watch: StepWatch) -> Tensor:
    """Latents (1, C, T, h, w) where the pipeline `gives_latents`, else pictures (1, T, 3, H, W) in 0..1.

    The noise is drawn on the CPU: the same seed is the same noise on every device.
    """
    if preset.guidance is Guidance.GUIDER:
        pipeline.guider = pipeline.guider.new(guidance_scale=clip.guidance_scale)
    arguments = call_arguments(preset, clip) | {
        "prompt": clip.prompt,
        "negative_prompt": clip.negative_prompt,
        "generator": torch.Generator("cpu").manual_seed(clip.seed),
        "output_type": "latent" if gives_latents(pipeline) else "pt",
    }
    if "callback_on_step_end" in _names(pipeline):
        arguments["callback_on_step_end"] = watch.on_step_end
    else:
        pipeline.progress_bar = lambda *_, **__: StepBar(watch.step_ended)
    with ExitStack() as stack:
        for name in ("transformer", "transformer_2"):
            stack.enter_context(watched(getattr(pipeline, name, None), watch.before_pass))
        made = pipeline(**_accepted(pipeline, arguments)).frames
    watch.finish()
    return made


def _names(pipeline: Any) -> Collection[str]:
    """The arguments that the pipeline's call takes."""
    return inspect.signature(type(pipeline).__call__).parameters


def _accepted(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the pipeline's call has a name for; some say `frames` for `num_frames`."""
    known = {**arguments, "frames": arguments["num_frames"]}
    return {name: value for name, value in known.items() if name in _names(pipeline)}
