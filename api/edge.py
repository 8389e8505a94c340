"""What the routes of one application share, built once from the context."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request

from api.answers import base_url
from api.callers import caller
from api.context import ApiContext
from api.health import HealthChecks
from api.job_catalog import JobCatalog, load_jobs
from api.live import LiveTasks
from api.readiness import Readiness
from api.results import UrlOf, url_maker
from api.submission import Submitter
from cluster import keys
from cluster.download_urls import DownloadSigner
from cluster.errors import TaskNotFound
from cluster.local_storage import LocalArtifactStore
from cluster.task import Task


@dataclass(frozen=True)
class Edge:
    """`signer` verifies download tokens; None where the store's own URLs carry the permission (S3).

    `started_at` is when this process began to serve, in seconds since the epoch. `defaults_change` is held
    while a tenant's defaults are read and written anew.
    """

    context: ApiContext
    readiness: Readiness
    submitter: Submitter
    signer: DownloadSigner | None
    jobs: JobCatalog
    started_at: float
    live: LiveTasks
    health: HealthChecks
    defaults_change: asyncio.Lock = field(default_factory=asyncio.Lock)

    def url_of(self, request: Request) -> UrlOf:
        settings = self.context.settings
        return url_maker(self.context.storage, settings, lambda: base_url(request, settings.public_url))


def build_edge(context: ApiContext) -> Edge:
    """Raises CatalogError when the job catalogue is wrong."""
    readiness = Readiness(context.system, context.settings, context.now)
    storage = context.storage
    signer = storage.signer if isinstance(storage, LocalArtifactStore) else None
    jobs = load_jobs(context.settings.catalog, context.catalog)
    return Edge(
        context=context,
        readiness=readiness,
        submitter=Submitter(context, readiness),
        signer=signer,
        jobs=jobs,
        started_at=context.now(),
        live=LiveTasks(context),
        health=HealthChecks(context),
    )


def edge_of(request: Request) -> Edge:
    """The edge of the application that serves `request`."""
    edge: Edge = request.app.state.edge
    return edge


async def own_task(request: Request, task_id: str, dialect: str | None = None) -> Task:
    """The caller's task, of `dialect` where that is given; raises TaskNotFound for every other."""
    tenant = caller(request).tenant
    if not keys.is_task_id(task_id):
        raise TaskNotFound(task_id)
    task = await edge_of(request).context.registry.get(task_id)
    if task.tenant != tenant or dialect not in {None, task.dialect}:
        raise TaskNotFound(task_id)
    return task
