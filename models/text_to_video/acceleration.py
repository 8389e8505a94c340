"""What makes denoising faster: the fastest installed attention, compiled blocks, caches between steps.

Imported when an engine loads: it needs torch and diffusers. Nothing here reaches for a network: diffusers'
`*_hub` attention names download kernels and are never used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor, nn

from models.engine import ModelNotReady

log = logging.getLogger(__name__)

NATIVE = "native"
_MAX_TIMED_TOKENS = 16_384  # ranks the kernels as more tokens do, in milliseconds and 100 MB
_REPETITIONS = 3
# How far a kernel's result may be from torch's own, as a share of its mean size: bfloat16 kernels differ by
# less than a hundredth, quantised ones by some hundredths.
_MAX_DIFFERENCE = 0.02


@dataclass(frozen=True, slots=True)
class _Backend:
    """A diffusers attention backend; `package` is what must be importable for it."""

    name: str
    package: str = ""
    takes_mask: bool = True


_BACKENDS = (
    _Backend(NATIVE),
    _Backend("_native_cudnn"),
    _Backend("_native_flash", takes_mask=False),
    _Backend("flash", "flash_attn", takes_mask=False),
    _Backend("_flash_3", "flash_attn_interface", takes_mask=False),
    _Backend("sage", "sageattention", takes_mask=False),
    _Backend("xformers", "xformers"),
)
# Networks that never pass a mask to attention; others get kernels that take one.
_WITHOUT_MASK = frozenset({"WanTransformer3DModel", "SkyReelsV2Transformer3DModel"})


@dataclass(frozen=True, slots=True)
class Attention:
    """The chosen backend, and the seconds of all that were timed and gave the right result."""

    name: str
    seconds: Mapping[str, float] = field(default_factory=dict)


def fastest_attention(networks: Sequence[nn.Module], device: torch.device, tokens: int) -> Attention:
    """Times what is installed on the shape of the networks' self-attention, and sets the fastest on them.

    A CPU has one backend, so nothing is timed there; nor where a network does not tell the shape.
    """
    names = attention_names(device, takes_mask=any(type(n).__name__ not in _WITHOUT_MASK for n in networks))
    if len(names) == 1:
        return Attention(names[0])
    config: Any = networks[0].config
    heads, width = config.get("num_attention_heads"), config.get("attention_head_dim")
    if not heads or not width:
        return Attention(NATIVE)
    shape = (1, min(tokens, _MAX_TIMED_TOKENS), heads, width)
    draw = torch.Generator(device).manual_seed(0)
    dtype = next(networks[0].parameters()).dtype
    query, key, value = (torch.randn(shape, generator=draw, device=device, dtype=dtype) for _ in range(3))
    seconds = timed_attention(names, query, key, value)
    chosen = min(seconds, key=seconds.__getitem__, default=NATIVE)
    for network in networks:
        network.set_attention_backend(chosen)  # type: ignore[operator]  # of diffusers' ModelMixin
    return Attention(chosen, seconds)


def attention_names(device: torch.device, *, takes_mask: bool) -> tuple[str, ...]:
    """The backends to try on a device, by what is importable."""
    if device.type != "cuda":
        return (NATIVE,)
    return tuple(
        backend.name
        for backend in _BACKENDS
        if (backend.takes_mask or not takes_mask)
        and (not backend.package or importlib.util.find_spec(backend.package) is not None)
    )


def timed_attention(names: Sequence[str], query: Tensor, key: Tensor, value: Tensor) -> dict[str, float]:
    """Seconds of one attention for each backend that runs here and agrees with torch's own.

    Tensors are (batch, tokens, heads, width).
    """
    expected = _attention(NATIVE, query, key, value)
    seconds: dict[str, float] = {}
    for name in names:
        try:
            found = _attention(name, query, key, value)
            difference = ((found - expected).abs().mean() / expected.abs().mean()).item()
            if not difference <= _MAX_DIFFERENCE:
                log.warning("attention %s differs by %.3f from torch's own: not used", name, difference)
                continue
            seconds[name] = _median_s(partial(_attention, name, query, key, value), query.device)
        except (RuntimeError, ValueError, TypeError, AssertionError, ImportError) as error:
            log.info("attention %s does not run here: %s", name, error)
    return seconds


def _attention(name: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with torch.inference_mode():
        return dispatch_attention_fn(query, key, value, backend=AttentionBackendName(name))


def _median_s(run: Callable[[], object], device: torch.device) -> float:
    times: list[float] = []
    for _ in range(_REPETITIONS):
        _finish(device)
        start_s = time.perf_counter()
        run()
        _finish(device)
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compile_blocks(
    networks: Sequence[nn.Module], warm: Callable[[], object], cache_folder: Path | None
) -> bool:
    """Compiles the repeated block of each network for the shapes that `warm` runs; true if it worked.

    One block is compiled and used for all layers (diffusers' regional compilation). What the compiler made is
    kept in `cache_folder` for the next process with the same torch and device. A network that cannot be
    compiled runs as before. Not for networks that are streamed or cached between steps: their hooks change.
    """
    file = _cache_file(cache_folder) if cache_folder is not None else None
    if file is not None and file.is_file():
        torch.compiler.load_cache_artifacts(file.read_bytes())
    try:
        for network in networks:
            network.compile_repeated_blocks(dynamic=False)  # type: ignore[operator]  # of diffusers' ModelMixin
        warm()
    except torch.OutOfMemoryError:
        _uncompile(networks)
        raise
    except (RuntimeError, ValueError) as error:
        log.warning("the network runs without compilation: %s", error)
        _uncompile(networks)
        return False
    if file is not None:
        _keep(file)
    return True


def _uncompile(networks: Sequence[nn.Module]) -> None:
    for network in networks:
        for module in network.modules():
            module._compiled_call_impl = None
    torch.compiler.reset()


def _cache_file(folder: Path) -> Path:
    """One file for each torch, diffusers and kind of device: code compiled for one is useless to another."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    key = hashlib.sha256(f"{torch.__version__} {diffusers.__version__} {device}".encode()).hexdigest()[:16]
    return folder / f"compiled-{key}.bin"


def _keep(file: Path) -> None:
    made = torch.compiler.save_cache_artifacts()
    if made is None:
        return
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(made[0])
        part.replace(file)
    except OSError as error:
        log.warning("what was compiled cannot be kept in %s: %s", file.parent, error)
        part.unlink(missing_ok=True)


def compile_cache_folder(models_dir: Path | None) -> Path:
    """Where compiled code is kept: beside the models where that can be written, else the user's cache."""
    if models_dir is not None and os.access(models_dir, os.W_OK):
        return models_dir / ".compiled"
    return Path.home() / ".cache" / "mediaray" / "compiled"


@dataclass(frozen=True, slots=True)
class StepCache:
    """A way to reuse what a network computed in the step before; `quality` is what a result says of it."""

    name: str
    quality: str
    config: Callable[[int, Sequence[float]], Any] | None = None


def _first_block(_steps: int, _ratios: Sequence[float]) -> Any:
    return FirstBlockCacheConfig(threshold=0.05)  # type: ignore[no-untyped-call]


def _mag(steps: int, ratios: Sequence[float]) -> Any:
    return MagCacheConfig(  # type: ignore[no-untyped-call]
        mag_ratios=list(ratios), num_inference_steps=steps
    )


CACHES: Mapping[str, StepCache] = {
    cache.name: cache
    for cache in (
        StepCache("exact", ""),
        StepCache(
            "first_block_cache",
            "Quality class near: made with FirstBlockCache (threshold 0.05), which skips a pass where the "
            "first block hardly changed; small details may differ from an exact run.",
            _first_block,
        ),
        StepCache(
            "mag_cache",
            "Quality class fast: made with MagCache (threshold 0.06, at most 3 skipped passes in a row), "
            "which skips by a curve measured beforehand; details and motion may differ from an exact run.",
            _mag,
        ),
    )
}


def check_cache(networks: Sequence[nn.Module], name: str, mag_ratios: Sequence[float]) -> None:
    """Raises ModelNotReady for a cache that these networks cannot have; call it when an engine loads."""
    if name not in CACHES:
        raise ModelNotReady(f"there is no cache {name!r}; there are {', '.join(CACHES)}")
    if CACHES[name].config is None:
        return
    if name == "mag_cache" and (not mag_ratios or len(networks) > 1):
        text = "mag_cache needs one network and the checkpoint's own mag_ratios in mediaray.json"
        raise ModelNotReady(f"{text} (diffusers' MagCacheConfig measures them with calibrate=True)")
    for network in networks:
        _check_cacheable(network, name)


def _check_cacheable(network: nn.Module, name: str) -> None:
    blocks = list(_blocks(network))
    try:
        for kind in {type(block) for block in blocks}:
            TransformerBlockRegistry.get(kind)
    except ValueError as error:
        raise ModelNotReady(f"{type(network).__name__} cannot have {name}: {error}") from error
    if len(blocks) < 2 or not hasattr(network, "enable_cache"):
        raise ModelNotReady(f"{type(network).__name__} cannot have {name}: it has no row of blocks")


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks that diffusers' caches hook."""
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList) and name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS:
            yield from child


@contextmanager
def step_cache(
    networks: Sequence[nn.Module], name: str, steps: int, mag_ratios: Sequence[float] = ()
) -> Iterator[None]:
    """Runs one generation with a cache; the networks are as before when it ends, however it ends."""
    config = CACHES[name].config
    if config is None:
        yield
        return
    with ExitStack() as stack:
        for network in networks:
            cacheable: Any = network  # a diffusers CacheMixin, as `check_cache` saw
            cacheable.enable_cache(config(steps, mag_ratios))
            stack.callback(cacheable.disable_cache)
        yield
