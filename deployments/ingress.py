"""The ingress deployment: the HTTP edge on Serve, and the methods that Python handles call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from api.app import create_app
from api.callbacks import CallbackSender
from api.context import ApiContext
from api.edge import Edge
from api.results import signed, url_maker
from api.submission import Draft
from api.views.tasks import result_view, status_view, submission_view
from cluster.client import RegistryClient
from cluster.follower import TaskFollower
from cluster.registry_address import find_registry
from cluster.settings import Settings
from cluster.storage import open_store
from cluster.task import Task
from cluster.urls import UrlGuard
from cluster.webhooks import Signer
from deployments.system import RaySystemProbe
from models.catalog import CATALOG

HANDLE_DIALECT = "tasks"
HANDLE_TENANT = "local"
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@serve.ingress()
class Ingress:
    """Every replica serves all dialects; `serve.get_app_handle("mediaray")` reaches its methods.

    Those answer as the `tasks` dialect does over HTTP, and raise the same refusals as exceptions.
    """

    def __init__(self, settings: Settings, services: Mapping[str, DeploymentHandle]) -> None:
        self._settings = settings
        self._services = services
        registry = RegistryClient(find_registry)
        self._registry = TaskFollower(registry)
        context = ApiContext(
            settings=settings,
            registry=self._registry,
            storage=open_store(settings),
            catalog=CATALOG,
            system=RaySystemProbe(),
            now=time.time,
        )
        self._app = create_app(context, is_named=True)  # Serve names every answer
        self._edge: Edge = self._app.state.edge
        self._url_of = url_maker(context.storage, settings, settings.public_url or local_url(settings))
        self._callbacks = CallbackSender(
            registry, UrlGuard(settings.callback_networks), Signer(settings.callback_secret), self._url_of
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        self._registry.start()
        self._callbacks.start()
        return self._app

    async def __del__(self) -> None:
        """Drained: callbacks under way are left to the other replicas, and the feed is not followed."""
        for part in (getattr(self, "_callbacks", None), getattr(self, "_registry", None)):
            if part is not None:
                await part.stop()

    async def submit(
        self,
        task_name: str,
        inputs: dict[str, Any],
        task_id: str | None = None,
        priority: int = 0,
        tenant: str = HANDLE_TENANT,
        callback: str | None = None,
    ) -> dict[str, Any]:
        """Record a task; durable when this returns. `tenant`: whose task it is for HTTP callers."""
        draft = Draft(
            name=task_name,
            inputs=inputs,
            tenant=tenant,
            dialect=HANDLE_DIALECT,
            task_id=task_id,
            priority=priority,
            callback_url=await self._edge.submitter.callback_url(callback),
        )
        submission = await self._edge.submitter.submit(draft)
        return await signed([submission.task], submission_view, submission, self._url_of)

    async def status(self, task_id: str) -> dict[str, Any]:
        """How the task stands, with its result once it has one. Raises TaskNotFound."""
        task = await self._registry.get(task_id)
        return await signed([task], status_view, task, self._url_of)

    async def result(self, task_id: str) -> dict[str, Any]:
        """The whole record. Raises TaskNotFound."""
        task = await self._registry.get(task_id)
        return await signed([task], result_view, task, self._url_of)

    async def cancel(self, task_id: str) -> dict[str, Any]:
        """Cancel a queued or running task. Raises TaskNotFound, IllegalStep when it has ended."""
        task: Task = await self._registry.cancel(task_id)
        return status_view(task, self._url_of)

    async def call(
        self, name: str, inputs: dict[str, Any], files: Mapping[str, bytes] | None = None
    ) -> dict[str, Any]:
        """Run one short task now, without a record, on a replica of its service (see ModelReplica.call).

        Raises ModelNotReady where no engine can run it; a service without engines has no replicas.
        """
        model = self._edge.submitter.model(name)
        await self._edge.readiness.engine(model)
        answer: dict[str, Any] = await self._services[model.service].call.remote(name, inputs, files)
        return answer


def local_url(settings: Settings) -> str:
    """Where this machine reaches the server: the base of download URLs that no HTTP request asked for."""
    host = settings.http_host
    try:
        address = ip_address(host)
    except ValueError:
        return f"http://{host}:{settings.http_port}"
    if address.is_unspecified:
        host = _LOOPBACK[address.version]
    return f"http://{f'[{host}]' if address.version == 6 else host}:{settings.http_port}"
