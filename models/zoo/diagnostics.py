"""diagnostics.echo: gives back what it was given, for health checks, benchmarks and drills."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models.engine import (
    Engine,
    EngineKind,
    EngineSpec,
    ModelSpec,
    OutOfMemory,
    PermanentFailure,
    Result,
    RunContext,
)

_SLICE_S = 0.05
_PIECE_BYTES = 64 << 20
_PAGE_BYTES = 4096


class EchoInputs(BaseModel):
    """What to give back, and what to do before."""

    model_config = ConfigDict(extra="forbid")

    payload: Any = Field(None, description="Any JSON value; the result carries it unchanged.")
    sleep_s: float = Field(
        0.0, ge=0, le=3600, allow_inf_nan=False, description="Seconds of idle run time, with progress."
    )
    fail: str | None = Field(None, max_length=4000, description="Fail with this error text, after the sleep.")
    allocate_bytes: int = Field(
        0, ge=0, le=16 << 30, description="Memory to hold while running, every page of it touched."
    )


class EchoEngine(Engine):
    """Costs nothing unless asked to."""

    def run(self, inputs: EchoInputs, context: RunContext) -> Result:
        if inputs.allocate_bytes:
            with _held_memory(inputs.allocate_bytes, context):
                _sleep(inputs.sleep_s, context)
        elif inputs.sleep_s:
            _sleep(inputs.sleep_s, context)
        if inputs.fail is not None:
            raise PermanentFailure(inputs.fail)
        return Result({"payload": inputs.payload})


def _sleep(duration_s: float, context: RunContext) -> None:
    """Idle in slices, each of which reports; a wish to cancel is met at the next one."""
    started_s = time.monotonic()
    while (elapsed_s := time.monotonic() - started_s) < duration_s:
        context.report(elapsed_s, duration_s, stage="sleep", unit="s")
        time.sleep(min(_SLICE_S, duration_s - elapsed_s))
    if duration_s:
        context.report(duration_s, duration_s, stage="sleep", unit="s")


@contextmanager
def _held_memory(size_bytes: int, context: RunContext) -> Iterator[None]:
    """Memory that is really there: a fresh bytearray is only promised until each page is written."""
    try:
        memory = bytearray(size_bytes)
        for start in range(0, size_bytes, _PIECE_BYTES):
            context.check()
            stop = min(start + _PIECE_BYTES, size_bytes)
            memory[start:stop:_PAGE_BYTES] = b"\x01" * len(range(start, stop, _PAGE_BYTES))
    except MemoryError as error:
        raise OutOfMemory(f"{size_bytes} bytes could not be allocated") from error
    try:
        yield
    finally:
        del memory  # a traceback may keep this frame alive


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="diagnostics.echo",
        title="Gives back its payload",
        inputs=EchoInputs,
        engines=(EngineSpec(name="echo", kind=EngineKind.FULL, make=EchoEngine),),
        is_listed=False,
    ),
)
