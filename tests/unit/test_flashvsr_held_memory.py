"""The memory plan against what the published networks hold, counted tensor by tensor on the meta device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional as F

from models.flashvsr.color import adain
from models.flashvsr.geometry import AHEAD_FRAMES, Canvas, chunk_frames
from models.flashvsr.memory_plan import FreeBytes, MemoryPlan, pixel_bytes, plan_memory, smaller_plan
from models.flashvsr.networks import FlashVsrNetworks
from models.flashvsr.pipeline import Finish, Recipe, Restorer, Span, enlarged
from models.flashvsr.stage_clock import StageClock
from models.networks import flashvsr_transformer as transformer_module
from models.networks.flashvsr_attention import kept_lists
from models.networks.flashvsr_config import FULL
from models.networks.flashvsr_decoder import TinyDecoder
from models.networks.flashvsr_projector import Projector
from models.networks.flashvsr_transformer import FlashVsrTransformer
from tests.held_memory import HeldMemory

META = torch.device("meta")
LAYERS = 2
CONFIG = replace(FULL, layers=LAYERS)  # layers differ in nothing; what each of them keeps is in the plan


def like_the_kernel(queries: Tensor, _keys: Tensor, _values: Tensor, kept: Tensor, windows: Tensor) -> Tensor:
    kept_lists(kept, windows)
    return torch.empty_like(queries)


def networks(*, has_vae: bool) -> FlashVsrNetworks:
    with META:
        transformer, projector, decoder = FlashVsrTransformer(CONFIG), Projector(CONFIG), TinyDecoder(CONFIG)
        vae = AutoencoderKLWan() if has_vae else None
        prompt = torch.empty(1, CONFIG.text_tokens, CONFIG.text_width, dtype=torch.bfloat16)
    for module in (transformer, projector, decoder, *([vae] if vae else [])):
        module.to(torch.bfloat16).requires_grad_(False).eval()
    projector.arrange()
    decoder.arrange()
    return FlashVsrNetworks(
        transformer=transformer,
        projector=projector,
        decoder=decoder,
        vae=vae,
        prompt=prompt,
        version="v1.1",
        config=CONFIG,
    )


def peaks(canvas: Canvas, plan: MemoryPlan, *, has_vae: bool, num_chunks: int) -> list[int]:
    """The most bytes held beside the weights in each chunk of a stream."""
    recipe = Recipe(seed=0, sparse_ratio=2.0, local_range=11, is_full=has_vae)
    made_of = networks(has_vae=has_vae)
    found = []
    with HeldMemory() as memory, torch.no_grad():
        for module in (made_of.transformer, made_of.projector, made_of.decoder, made_of.vae):
            memory.leave_out(module)
        restorer = Restorer(made_of, plan, recipe, Span(), StageClock(META))
        finish = Finish(canvas, (canvas.picture_width_px, canvas.picture_height_px), adain)
        for number in range(num_chunks):
            memory.peak_bytes = 0
            run_chunk(number, canvas, restorer, finish)
            found.append(memory.peak_bytes)
    return found


def run_chunk(number: int, canvas: Canvas, restorer: Restorer, finish: Finish) -> None:
    """As a film does."""
    num_frames = chunk_frames(number) + (0 if number else AHEAD_FRAMES)
    source = (num_frames, canvas.height_px // 4, canvas.width_px // 4, 3)
    frames = torch.empty(source, dtype=torch.uint8, device=META)
    clip = enlarged(frames, canvas, torch.bfloat16, lambda some: some.float().div_(255))
    noise = torch.empty(
        *(1, CONFIG.latent_channels, 2 if number else 6, canvas.height_px // 8, canvas.width_px // 8),
        dtype=torch.bfloat16,
        device=META,
    )
    made = restorer.push(number, clip, noise, lambda: None)
    assert made is not None
    finish.frames(*made)
    torch.isfinite(made[0]).all()


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that spells nothing out, as a GPU's kernels do not."""
    monkeypatch.setattr(transformer_module, "BACKENDS", {"gathered": like_the_kernel})
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda queries, *_: torch.empty_like(queries))


PROMPT_BYTES = 2 * LAYERS * CONFIG.text_tokens * CONFIG.width * 2
CASES = (
    *(((width, height), "tiny") for width, height in ((128, 128), (768, 512), (1408, 768), (7680, 4352))),
    *(((width, height), "full") for width, height in ((256, 128), (2560, 1536))),
)


@pytest.mark.parametrize(("size_px", "variant"), CASES, ids=str)
def test_the_plan_covers_what_the_networks_hold(size_px: tuple[int, int], variant: str) -> None:
    has_vae = variant == "full"
    canvas, pixel = Canvas(*size_px, *size_px), pixel_bytes(CONFIG, number_bytes=2, has_vae=has_vae)
    plan = plan_memory(canvas, pixel, FreeBytes(device=10**13))
    found = peaks(canvas, plan, has_vae=has_vae, num_chunks=2)
    held = max(found) - PROMPT_BYTES
    print(f"{size_px}: {held / canvas.area_px:.0f} of {plan.device_bytes / canvas.area_px:.0f} bytes a pixel")  # noqa: T201 - the figure
    assert held <= plan.device_bytes <= 1.3 * held + 200e6


def test_tiles_are_covered_too() -> None:
    canvas, pixel = Canvas(2560, 1536, 2560, 1536), pixel_bytes(CONFIG, number_bytes=2, has_vae=False)
    whole = plan_memory(canvas, pixel, FreeBytes(device=10**13))
    plan = smaller_plan(canvas, whole, pixel, FreeBytes(device=10**13))
    assert plan is not None
    assert len(plan.grid.tiles) > 1
    held = max(peaks(canvas, plan, has_vae=False, num_chunks=2)) - PROMPT_BYTES
    assert held <= plan.device_bytes <= 1.3 * held + 200e6


def test_memory_is_the_same_however_long_a_clip_is() -> None:
    canvas = Canvas(256, 128, 256, 128)
    plan = plan_memory(canvas, pixel_bytes(CONFIG, number_bytes=2, has_vae=False), FreeBytes(device=10**13))
    found = peaks(canvas, plan, has_vae=False, num_chunks=6)
    assert len(set(found[2:])) == 1
