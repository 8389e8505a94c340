"""How a canvas is cut so that the network fits a device: arithmetic only, no torch.

What a pixel of the network's canvas takes, with the published widths and bfloat16:

| | bytes | why |
|---|---|---|
| keys and values | 4,368 | 2 x 1,536 wide x (30 layers x 3 slices + 1) of 2 frames, a token for 256 pixels |
| caches of projector and tiny decoder | 380 | what their convolutions and memory blocks saw last |
| work on a tile | 1,792 | 7 frames of the tiny decoder's 128 channels at full size: the most that is held |
| frames of a chunk | 690 | of the whole canvas, whatever the tiles |

A small tile takes more for each pixel, as the decoder then works on several frames at once: no more than 3.5
times what one of its calls may give, and no more than a chunk's 24 frames come to. What the published
networks hold was counted tensor by tensor (tests/unit/test_flashvsr_held_memory.py): the sums here cover it
by 5 to 30 %, which is for what libraries take while an operation lasts. None of it depends on how long the
video is.

Every tile has caches of its own. They stay on the device, or, where that is too small, wait in main memory
between chunks ("parked"): each chunk moves them there and back, 9.5 KB a pixel, at some 6 GB/s from memory
that is not pinned, where the network takes 0.16 microseconds a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.engine import InvalidInput, ModelNotReady, PermanentFailure
from models.flashvsr.geometry import Canvas, Grid, canvas_of, grids_of
from models.networks.flashvsr_config import DECODER_CALL_VALUES, TOKEN_SIDE_PX, FlashVsrConfig

# What an allocator loses to blocks of the wrong size, and libraries to their workspaces.
_USABLE_SHARE = 0.9
_SLICES, _SLICE_FRAMES = 3, 2  # that each of the transformer's layers keeps; all layers share one slice more
_PROJECTOR_CACHE_FRAMES = 2
_PROJECTOR_CHANNELS = 3 * TOKEN_SIDE_PX**2
_FRAMES_OF_ONE = 7  # full-size features that the tiny decoder holds where it works on one frame
_COPIES_OF_MANY = 3.5  # of several frames' features, where it works on those
# Of the Wan VAE's decoder, for each of its narrowest width: two frames before each convolution, 7 of them at
# full size, 6 at half with twice the width, 14 at a quarter with 4 times; and 30 frames at work.
_VAE_CACHE_BY_WIDTH = 2 * (7 + 6 * 2 / 4 + 14 * 4 / 16)
_VAE_WORK_BY_WIDTH = 30
_CHUNK_FRAMES_SEEN, _CHUNK_FRAMES_MADE, _FRAMES_IN_WORK = 25, 21, 24  # the last: 3 copies of 8 frames
_CHUNK_FRAMES_DECODED = 24
_PARKING_COST = 10
_SHARE_AFTER_FAILURE = 0.75  # of what did not fit


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelBytes:
    """What a pixel takes: of each tile's caches, of the tile at work, and of the whole canvas's frames.

    A small tile takes `burst` at work, as far as that comes to no more than `most_of_burst`.
    """

    cached: int
    work: int
    frames: int
    burst: int = 0
    most_of_burst: int = 0

    def at_work(self, area_px: int) -> int:
        """What a tile takes beside its caches."""
        return max(self.work * area_px, min(self.burst * area_px, self.most_of_burst))


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeBytes:
    """What a task may take beside the weights. `host` 0: there is no other memory to park caches in."""

    device: int
    host: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The tiles of a canvas, whether their caches wait in main memory, and what both memories must hold."""

    grid: Grid
    is_parked: bool
    device_bytes: int
    host_bytes: int

    @property
    def words(self) -> str:
        """What is not as it would be with enough memory; empty for one tile."""
        count, grid = len(self.grid.tiles), self.grid
        tiles = f"in {count} tiles of {grid.tile_width_px}x{grid.tile_height_px} pixels" if count > 1 else ""
        parked = "caches wait in main memory between chunks" if self.is_parked else ""
        return ", ".join(part for part in (tiles, parked) if part)

    @property
    def _cost(self) -> int:
        return self.grid.area_px * (_PARKING_COST if self.is_parked else 1)


def pixel_bytes(config: FlashVsrConfig, *, number_bytes: int, has_vae: bool) -> PixelBytes:
    """For networks of these sizes and this precision; `has_vae`: the variant `full`."""
    token_px = TOKEN_SIDE_PX**2
    keys = 2 * config.width * (_SLICES * config.layers + 1) * _SLICE_FRAMES / token_px
    projector = _PROJECTOR_CACHE_FRAMES * (_PROJECTOR_CHANNELS + config.projector_widths[0]) / token_px
    decoder = 3 * sum(
        width / 4**shift for width, shift in zip(config.decoder_widths, (3, 2, 1), strict=False)
    )
    work, burst = (
        _FRAMES_OF_ONE * config.decoder_widths[-1],
        _CHUNK_FRAMES_DECODED * config.decoder_widths[-1],
    )
    if has_vae:
        decoder, work, burst = (
            config.vae_width * _VAE_CACHE_BY_WIDTH,
            config.vae_width * _VAE_WORK_BY_WIDTH,
            0,
        )
    frames = 3 * (_CHUNK_FRAMES_SEEN * number_bytes + (_CHUNK_FRAMES_MADE + _FRAMES_IN_WORK) * 4)
    return PixelBytes(
        cached=round((keys + projector + decoder) * number_bytes),
        work=work * number_bytes,
        frames=frames,
        burst=round(_COPIES_OF_MANY * burst * number_bytes),
        most_of_burst=round(_COPIES_OF_MANY * DECODER_CALL_VALUES * number_bytes),
    )


def plan_memory(canvas: Canvas, pixel: PixelBytes, free: FreeBytes) -> MemoryPlan:
    """The quickest plan that fits.

    Raises InvalidInput where only a smaller picture would fit, PermanentFailure where not even the smallest
    tile does; both say the figures that decided.
    """
    plans = [
        _plan(canvas, grid, pixel, is_parked=is_parked)
        for grid in grids_of(canvas)
        for is_parked in ((False, True) if free.host else (False,))
    ]
    fitting = [plan for plan in plans if _fits(plan, free)]
    if fitting:
        return min(fitting, key=lambda plan: (plan._cost, plan.device_bytes))
    raise _too_large(canvas, plans, pixel, free)


def smaller_plan(canvas: Canvas, failed: MemoryPlan, pixel: PixelBytes, free: FreeBytes) -> MemoryPlan | None:
    """A plan after one that ran out of memory; None where there is none that takes much less."""
    less_bytes = int(failed.device_bytes * _SHARE_AFTER_FAILURE / _USABLE_SHARE)
    try:
        return plan_memory(canvas, pixel, FreeBytes(device=min(less_bytes, free.device), host=free.host))
    except (InvalidInput, PermanentFailure):
        return None


def check_device(weight_bytes: int, pixel: PixelBytes, total_bytes: int) -> None:
    """Raises ModelNotReady where a device cannot hold the weights and the smallest canvas beside them."""
    smallest = canvas_of(1, 1, 1)
    needs = weight_bytes + pixel.at_work(smallest.area_px)
    needs += smallest.area_px * (pixel.cached + pixel.frames)
    if needs > total_bytes * _USABLE_SHARE:
        text = f"FlashVSR needs {_gib(needs)} of GPU memory for its weights and the smallest picture"
        raise ModelNotReady(f"{text}; this GPU has {_gib(total_bytes)}, of which 90 % can be used")


def _plan(canvas: Canvas, grid: Grid, pixel: PixelBytes, *, is_parked: bool) -> MemoryPlan:
    cached = pixel.cached * grid.area_px
    at_work = pixel.at_work(grid.tile_area_px) + pixel.frames * canvas.area_px
    if not is_parked:
        return MemoryPlan(grid=grid, is_parked=False, device_bytes=at_work + cached, host_bytes=0)
    device_bytes = at_work + pixel.cached * grid.tile_area_px
    return MemoryPlan(grid=grid, is_parked=True, device_bytes=device_bytes, host_bytes=cached)


def _fits(plan: MemoryPlan, free: FreeBytes) -> bool:
    is_host_enough = not plan.host_bytes or plan.host_bytes <= free.host * _USABLE_SHARE
    return plan.device_bytes <= free.device * _USABLE_SHARE and is_host_enough


def _too_large(canvas: Canvas, plans: list[MemoryPlan], pixel: PixelBytes, free: FreeBytes) -> Exception:
    usable_bytes = int(free.device * _USABLE_SHARE)
    on_device = [plan for plan in plans if plan.device_bytes <= usable_bytes]
    least = min(on_device or plans, key=lambda plan: plan.host_bytes if on_device else plan.device_bytes)
    grid = least.grid
    tile = f"{grid.tile_width_px}x{grid.tile_height_px}"
    size = f"a picture of {canvas.width_px}x{canvas.height_px} in tiles of {tile}"
    if on_device:
        text = f"{size} needs {_gib(least.host_bytes)} of main memory for the caches of its tiles"
        text = f"{text}; {_gib(int(free.host * _USABLE_SHARE))} can be used"
        return InvalidInput(f"{text}: choose a smaller scale or preprocess_width", field="scale")
    text = f"{size} needs {_gib(least.device_bytes)} of device memory beside the weights"
    text = f"{text}; {_gib(usable_bytes)} can be used"
    smallest_px = min(plan.grid.tile_area_px for plan in plans)
    if pixel.cached * smallest_px + pixel.at_work(smallest_px) > usable_bytes:
        return PermanentFailure(f"{text}: not even the smallest tile fits")
    return InvalidInput(f"{text}: choose a smaller scale or preprocess_width", field="scale")


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
