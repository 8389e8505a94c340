"""What `POST …/hallo2/config` made the defaults of a tenant's later tasks: one small object in the store.

Every ingress replica reads it when a task is created, so a change counts everywhere at once and survives
restarts. Changes of one process follow one another; of two processes changing at the same moment the later
one wins.
"""

from __future__ import annotations

import logging

from anyio import to_thread
from pydantic import ValidationError

from api.dialects import HALLO2
from api.edge import Edge
from api.views.hallo2 import Config
from cluster import keys
from cluster.errors import ArtifactNotFound
from cluster.storage import ArtifactStore
from cluster.task import Json

logger = logging.getLogger(__name__)


async def defaults_of(storage: ArtifactStore, tenant: str) -> Json:
    """Inputs that the tenant has set, by name. Raises StorageFailure."""
    config = await to_thread.run_sync(_read, storage, tenant)
    inputs = {
        "guidance_scale": config.guidance_scale,
        "inference_steps": config.inference_steps,
        "use_cache": config.enable_cache,
    }
    return {name: value for name, value in inputs.items() if value is not None}


async def change_defaults(edge: Edge, tenant: str, changes: Config) -> None:
    """Durable when this returns. Raises StorageFailure."""
    async with edge.defaults_change:
        await to_thread.run_sync(_change, edge.context.storage, tenant, changes)


def _read(storage: ArtifactStore, tenant: str) -> Config:
    try:
        text = b"".join(storage.read(keys.defaults_key(tenant, HALLO2.name)))
    except ArtifactNotFound:
        return Config()
    try:
        return Config.model_validate_json(text)
    except ValidationError as error:
        logger.warning("the stored defaults of %s are not valid any more and do not count: %s", tenant, error)
        return Config()


def _change(storage: ArtifactStore, tenant: str, changes: Config) -> None:
    config = _read(storage, tenant).model_copy(update=changes.model_dump(exclude_none=True))
    with storage.writer(keys.defaults_key(tenant, HALLO2.name)) as writer:
        writer.write(config.model_dump_json(exclude_none=True).encode())
        writer.commit()
