"""Where the task registry is: the actor's name in Ray, and the address of the line it listens on.

Apart from the actor itself, so that what only calls it (ingress, replicas, Serve's controller) loads no
database library: it was a quarter of the time that a replica's process takes to start.
"""

from __future__ import annotations

import asyncio

import ray
from ray.exceptions import RayError

from cluster.channel import ChannelAddress, ChannelBroken
from cluster.client import RegistryFacts

NAMESPACE = "mediaray"
NAME = "task-registry"
CONNECT_S = 10.0


async def find_registry() -> ChannelAddress:
    """Where the running registry listens; raises ChannelBroken while there is none.

    It never starts one: that is `ensure_registry`'s business, for it knows the settings of now.
    """
    try:
        actor = await asyncio.to_thread(ray.get_actor, NAME, NAMESPACE)
        async with asyncio.timeout(CONNECT_S):
            facts: RegistryFacts = await actor.facts.remote()
    except (ValueError, TimeoutError, RayError) as error:
        raise ChannelBroken(str(error)) from error
    return facts.channel
