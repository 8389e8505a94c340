"""Text-to-video acceleration on real networks: attention choice, compile fallback, caches between steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from models.engine import Cancelled, ModelNotReady
from models.text_to_video.acceleration import (
    CACHES,
    attention_names,
    check_cache,
    compile_blocks,
    compile_cache_folder,
    fastest_attention,
    step_cache,
    timed_attention,
)
from models.text_to_video.presets import PRESETS, scheduler_settings
from tests.tiny_pipelines import tiny_wan

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STEPS = 24  # so many that neighbours are alike to FirstBlockCache
COMPILES = pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's own


@pytest.fixture(scope="module")
def pipeline() -> Any:
    made = tiny_wan()
    made.set_progress_bar_config(disable=True)
    return made


def generated(pipeline: Any) -> torch.Tensor:
    made = pipeline(
        prompt="a red circle", negative_prompt="", width=64, height=64, num_frames=5,
        num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0), output_type="latent",
        max_sequence_length=16,
    )  # fmt: skip
    return made.frames


@pytest.fixture(scope="module")
def exact(pipeline: Any) -> torch.Tensor:
    return generated(pipeline)


@pytest.fixture
def passes(pipeline: Any) -> Iterator[list[int]]:
    """How often the last block has run: a cache skips it."""
    counted = [0]

    def count(*_: object) -> None:
        counted[0] += 1

    handle = pipeline.transformer.blocks[-1].ffn.register_forward_hook(count)
    yield counted
    handle.remove()


def test_a_cpu_has_one_attention_and_nothing_is_timed(pipeline: Any) -> None:
    chosen = fastest_attention([pipeline.transformer], CPU, 4096)
    assert (chosen.name, dict(chosen.seconds)) == ("native", {})


def test_what_is_not_installed_or_would_be_downloaded_is_no_candidate() -> None:
    names = attention_names(CUDA, takes_mask=False)
    assert {"native", "_native_cudnn", "_native_flash"} <= set(names)
    assert not any("hub" in name for name in names)
    assert not {"flash", "_flash_3", "sage"} & set(names)


def test_networks_with_masks_get_only_kernels_that_take_them() -> None:
    assert "_native_flash" not in attention_names(CUDA, takes_mask=True)


def test_timing_keeps_the_backends_that_run_here() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 32, 2, 16, generator=draw) for _ in range(3))
    seconds = timed_attention(["native", "flash", "_native_math", "_native_cudnn"], query, key, value)
    assert set(seconds) == {"native", "_native_math"}
    assert all(value > 0 for value in seconds.values())


def test_a_backend_whose_result_is_not_a_number_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    query = torch.full((1, 4, 1, 8), float("nan"))
    assert timed_attention(["_native_math"], query, query, query) == {}
    assert "not used" in caplog.text


def test_exact_changes_nothing(pipeline: Any, exact: torch.Tensor, passes: list[int]) -> None:
    with step_cache([pipeline.transformer], "exact", STEPS):
        assert torch.equal(generated(pipeline), exact)
    assert passes == [2 * STEPS]
    assert CACHES["exact"].quality == ""


@pytest.mark.parametrize("name", ["first_block_cache", "mag_cache"])
def test_a_cache_skips_passes_stays_near_and_is_gone_afterwards(
    name: str, pipeline: Any, exact: torch.Tensor, passes: list[int]
) -> None:
    check_cache([pipeline.transformer], name, [1.0] * STEPS)
    with step_cache([pipeline.transformer], name, STEPS, [1.0] * STEPS):
        near = generated(pipeline)
    assert passes[0] < 2 * STEPS
    assert not torch.equal(near, exact)
    assert ((near - exact).norm() / exact.norm()).item() < 0.1
    assert not pipeline.transformer.is_cache_enabled
    assert torch.equal(generated(pipeline), exact)
    assert "Quality class" in CACHES[name].quality


def test_a_cache_is_gone_after_a_generation_that_failed(pipeline: Any, exact: torch.Tensor) -> None:
    def cancelled() -> None:
        with step_cache([pipeline.transformer], "first_block_cache", STEPS):
            generated(pipeline)
            raise Cancelled

    with pytest.raises(Cancelled):
        cancelled()
    assert not pipeline.transformer.is_cache_enabled
    assert torch.equal(generated(pipeline), exact)


@pytest.mark.parametrize(
    ("name", "ratios", "copies", "words"),
    [
        ("fast", (), 1, "no cache 'fast'"),
        ("mag_cache", (), 1, "mag_ratios"),
        ("mag_cache", (1.0, 1.0), 2, "one network"),
    ],
    ids=["unknown", "no ratios", "two experts"],
)
def test_a_cache_that_cannot_be_is_refused_at_load(
    name: str, ratios: tuple[float, ...], copies: int, words: str, pipeline: Any
) -> None:
    with pytest.raises(ModelNotReady, match=words):
        check_cache([pipeline.transformer] * copies, name, ratios)


def test_a_network_without_cacheable_blocks_is_refused_at_load(pipeline: Any) -> None:
    with pytest.raises(ModelNotReady, match="AutoencoderKLWan cannot have first_block_cache"):
        check_cache([pipeline.vae], "first_block_cache", ())


@COMPILES
def test_a_network_that_cannot_be_compiled_runs_as_before(
    pipeline: Any, exact: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warm() -> None:
        raise RuntimeError("no compiler on this machine")

    assert not compile_blocks([pipeline.transformer], warm, tmp_path)
    assert "without compilation: no compiler" in caplog.text
    assert torch.equal(generated(pipeline), exact)
    assert list(tmp_path.iterdir()) == []


@COMPILES
def test_out_of_memory_while_compiling_is_not_hidden(pipeline: Any, exact: torch.Tensor) -> None:
    def warm() -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        compile_blocks([pipeline.transformer], warm, None)
    assert torch.equal(generated(pipeline), exact)


def test_compiled_code_is_kept_beside_the_models_where_that_can_be_written(tmp_path: Path) -> None:
    assert compile_cache_folder(tmp_path) == tmp_path / ".compiled"
    for other in (None, tmp_path / "missing"):
        assert compile_cache_folder(other) == Path.home() / ".cache" / "mediaray" / "compiled"


def test_the_distilled_schedule_is_four_euler_steps() -> None:
    """UniPC with the preset's settings goes where Euler goes from 1000, 750, 500 and 250, shifted by 5."""
    preset = next(preset for preset in PRESETS if preset.name == "wan2.1-distilled-4-step")
    usual = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    unipc = UniPCMultistepScheduler.from_config(usual.config, **scheduler_settings(preset, usual.config))
    sigmas = [1.0, 0.75, 0.5, 0.25]
    euler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    unipc.set_timesteps(preset.steps)
    euler.set_timesteps(sigmas=sigmas)
    assert unipc.sigmas.tolist() == pytest.approx(euler.sigmas.tolist(), abs=1e-3)
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(1, 4, generator=draw)
    velocities = torch.randn(4, 1, 4, generator=draw)
    ends = []
    for scheduler in (unipc, euler):
        sample = start
        for velocity, timestep in zip(velocities, scheduler.timesteps, strict=True):
            sample = scheduler.step(velocity, timestep, sample, return_dict=False)[0]
        ends.append(sample)
    assert torch.allclose(ends[0], ends[1], atol=2e-2)
