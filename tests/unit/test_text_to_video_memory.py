"""Text-to-video memory plans: the ladder at its boundaries, and pipelines laid out by a plan."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from models.engine import InvalidInput, PermanentFailure
from models.text_to_video import memory_plan
from models.text_to_video.memory_plan import (
    Geometry,
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
from tests.tiny_pipelines import tiny_wan

GIB = 2**30
# Wan2.1-14B in bfloat16: the published sizes of its folder.
WAN_14B = {"transformer": 28 * GIB, "text_encoder": 11 * GIB, "vae": GIB // 4}
CLIP = Clip(
    width_px=832, height_px=480, num_frames=81, fps=16, steps=50, guidance_scale=5.0, seed=0, prompt="a cat"
)
HD = replace(CLIP, width_px=1280, height_px=720)
LARGE = Geometry(width=5120, inner_width=13824, blocks=40)
LADDER = [
    MemoryPlan(),
    MemoryPlan(vae_tiling=True),
    MemoryPlan(vae_tiling=True, text_encoder=Placement.OFFLOADED),
    MemoryPlan(vae_tiling=True, text_encoder=Placement.OFFLOADED, offload=Offload.GROUP),
]


def rung(plan: MemoryPlan) -> int:
    return LADDER.index(
        MemoryPlan(vae_tiling=plan.vae_tiling, text_encoder=plan.text_encoder, offload=plan.offload)
    )


def planned(free_bytes: int, clip: Clip = CLIP, geometry: Geometry = LARGE) -> MemoryPlan:
    return plan_memory(WAN_14B, free_bytes, clip, geometry)


def least_free_bytes(needs_bytes: int) -> int:
    """The smallest device whose usable share is `needs_bytes`."""
    free = int(needs_bytes / memory_plan._USABLE_SHARE)
    return next(
        size for size in range(free - 2, free + 3) if int(size * memory_plan._USABLE_SHARE) >= needs_bytes
    )


def rungs(clip: Clip, geometry: Geometry) -> list[MemoryPlan]:
    """The plans in turn, each found on the largest device where the one before does not fit."""
    plans = [planned(10**15, clip, geometry)]
    while True:
        try:
            plans.append(planned(least_free_bytes(plans[-1].needs_bytes) - 1, clip, geometry))
        except (InvalidInput, PermanentFailure):
            return plans


# Pictures so large that decoding, not denoising, is the largest moment.
DECODE_HEAVY = Geometry(width=512, inner_width=512, blocks=40)


def test_each_rung_is_cheaper_and_taken_when_the_one_before_does_not_fit() -> None:
    plans = rungs(CLIP, DECODE_HEAVY)
    assert [rung(plan) for plan in plans] == [0, 1, 2, 3]
    needs = [plan.needs_bytes for plan in plans]
    assert needs == sorted(needs, reverse=True)
    for plan in plans:
        assert planned(least_free_bytes(plan.needs_bytes), CLIP, DECODE_HEAVY) == plan


def test_a_rung_that_saves_nothing_is_passed_over() -> None:
    """Denoising needs more than decoding, so tiles alone do not help."""
    assert [rung(plan) for plan in rungs(CLIP, LARGE)] == [0, 2, 3]


def test_an_80_gb_card_holds_the_14b_model_and_a_24_gb_card_streams_it() -> None:
    assert rung(planned(79 * GIB)) == 0
    assert rung(planned(24 * GIB)) == 3


def test_two_experts_of_14b_leave_no_room_for_the_text_encoder() -> None:
    experts = {**WAN_14B, "transformer_2": 28 * GIB}
    plan = plan_memory(experts, 79 * GIB, HD, LARGE)
    assert plan.text_encoder is Placement.OFFLOADED
    assert plan.offload is Offload.NONE


def test_the_ladder_ends() -> None:
    plan: MemoryPlan | None = MemoryPlan()
    seen = []
    while plan is not None:
        seen.append(plan)
        plan = degraded(plan)
    assert seen == LADDER


def test_main_memory_is_never_offloaded_to_itself() -> None:
    plan = degraded(MemoryPlan(can_offload=False))
    assert plan == MemoryPlan(can_offload=False, vae_tiling=True)
    assert plan is not None
    assert degraded(plan) is None


def test_words_say_what_is_slower() -> None:
    assert MemoryPlan().words == ""
    assert LADDER[1].words == "the VAE decodes in tiles"
    assert LADDER[3].words.count(",") == 2


def test_weights_that_do_not_fit_name_both_figures() -> None:
    with pytest.raises(
        PermanentFailure, match=r"weights alone need [0-9.]+ GiB; the device has 0.9 GiB for it"
    ):
        planned(GIB)


def test_a_clip_that_does_not_fit_names_its_size_and_the_field() -> None:
    cheapest = rungs(CLIP, LARGE)[-1]
    with pytest.raises(
        InvalidInput, match=r"81 frames of 832x480 need [0-9.]+ GiB; .* fewer frames"
    ) as refused:
        planned(least_free_bytes(cheapest.needs_bytes) - 1)
    assert refused.value.field == "num_frames"


def test_tokens_are_those_of_the_published_table() -> None:
    """32,760 tokens for 480x832x81, 75,600 for 720x1280x81 (Wan2.1)."""
    assert Geometry().tokens(CLIP) == 32_760
    assert Geometry().tokens(HD) == 75_600


@pytest.fixture
def pipeline() -> Any:
    return tiny_wan()


def test_geometry_is_read_from_the_pipeline(pipeline: Any) -> None:
    geometry = geometry_of(pipeline)
    assert geometry == Geometry(
        vae_side=8, vae_frames=4, patch=(1, 2, 2), width=24, inner_width=32, blocks=2, decoder_channels=3,
        decoder_side=1, decoded_frames=4, tile_px=256 * 256, number_bytes=4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "layers", "vae", "expected"),
    [
        (
            diffusers.LTXVideoTransformer3DModel,
            {},
            diffusers.AutoencoderKLLTXVideo,
            {"vae_side": 32, "vae_frames": 8, "patch": (1, 1, 1), "width": 2048, "decoder_side": 4},
        ),
        (
            diffusers.CogVideoXTransformer3DModel,
            {},
            diffusers.AutoencoderKLCogVideoX,
            {"vae_side": 8, "vae_frames": 4, "patch": (1, 2, 2), "width": 1920, "decoded_frames": 8},
        ),
        (
            diffusers.HunyuanVideo15Transformer3DModel,
            {"num_refiner_layers": 1},
            diffusers.AutoencoderKLHunyuanVideo15,
            {"vae_side": 16, "vae_frames": 4, "patch": (1, 1, 1), "width": 2048, "decoded_frames": None},
        ),
    ],
    ids=["ltx", "cogvideox", "hunyuanvideo-1.5"],
)
def test_geometry_of_other_families(network: Any, layers: Any, vae: Any, expected: dict[str, Any]) -> None:
    with torch.device("meta"):
        pipeline = SimpleNamespace(transformer=network(num_layers=1, **layers), vae=vae())
    geometry = geometry_of(pipeline, passes=2)
    assert {name: getattr(geometry, name) for name in expected} == expected
    assert (geometry.passes, geometry.inner_width) == (2, 4 * geometry.width)


def test_component_bytes_are_those_of_the_weights(pipeline: Any) -> None:
    sizes = component_bytes_of(pipeline)
    assert set(sizes) == {"text_encoder", "transformer", "vae"}
    assert sizes["vae"] == 4 * sum(weight.numel() for weight in pipeline.vae.parameters())


def latents(pipeline: Any) -> torch.Tensor:
    made = pipeline(
        prompt="a red circle", negative_prompt="", width=64, height=64, num_frames=5, num_inference_steps=2,
        generator=torch.Generator().manual_seed(0), output_type="latent", max_sequence_length=16,
    )  # fmt: skip
    return made.frames


def test_a_cheaper_plan_gives_the_same_latents(pipeline: Any) -> None:
    """Down the ladder on one pipeline, as after running out of memory."""
    device = torch.device("cpu")
    pipeline.set_progress_bar_config(disable=True)
    expected = latents(pipeline)
    for plan in LADDER:
        apply_plan(pipeline, plan, device)
        assert pipeline.vae.use_tiling == plan.vae_tiling
        assert torch.equal(latents(pipeline), expected)
    hooked = [hasattr(module, "_diffusers_hook") for module in (pipeline.transformer, pipeline.vae)]
    assert hooked == [True, False]
