"""What the HTTP edge may ask about the cluster, answered by Ray and by nvidia-smi."""

from __future__ import annotations

import asyncio
import shutil
import time

import ray

from api.context import GpuInfo

_MIB_PER_GIB = 1024
_KEEP_S = 10.0
_QUERY = ("--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits")


class RaySystemProbe:
    """Live nodes and GPUs of this Ray cluster; GPU answers are kept for ten seconds."""

    def __init__(self) -> None:
        self._gpu: GpuInfo | None = None
        self._gpu_until_s = float("-inf")

    async def live_nodes(self) -> int:
        nodes = await asyncio.to_thread(ray.nodes)
        return sum(bool(node["Alive"]) for node in nodes)

    async def gpu(self) -> GpuInfo | None:
        """The cluster's GPUs; memory as nvidia-smi shows it on this node, 0 where it is not there."""
        if time.monotonic() > self._gpu_until_s:
            self._gpu = await self._ask()
            self._gpu_until_s = time.monotonic() + _KEEP_S
        return self._gpu

    async def _ask(self) -> GpuInfo | None:
        resources = await asyncio.to_thread(ray.cluster_resources)
        count = int(resources.get("GPU", 0))
        if count == 0:
            return None
        name, used_gib, total_gib = await _first_gpu()
        if not name:
            kinds = [key.partition(":")[2] for key in resources if key.startswith("accelerator_type:")]
            name = kinds[0] if kinds else "GPU"
        return GpuInfo(name, count, used_gib, used_gib, total_gib)


async def _first_gpu() -> tuple[str, float, float]:
    """Name, used and total GiB of this node's first GPU; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "", 0.0, 0.0
    child = await asyncio.create_subprocess_exec(
        program, *_QUERY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await child.communicate()
    rows = [line.split(", ") for line in output.decode().splitlines() if line.count(", ") == 2]
    if not rows:
        return "", 0.0, 0.0
    name, used_mib, total_mib = rows[0]
    return name, float(used_mib) / _MIB_PER_GIB, float(total_mib) / _MIB_PER_GIB
