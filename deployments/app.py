"""The composition root: `build(args)` wires settings, registry, ingress and one deployment per service."""

from __future__ import annotations

import os
from typing import Any, Literal

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from api.access import access_of
from api.job_catalog import load_jobs
from api.readiness import site_of
from cluster.actors import ensure_registry
from cluster.settings import Settings
from deployments.ingress import Ingress
from deployments.replica import ModelReplica, ReplicaPlan
from models.catalog import CATALOG, MODELS, SERVICES, SERVICES_WITH_ENGINES
from models.engine import EngineKind
from models.errors import ModelNotReady
from models.site import ready_engine

APP_NAME = "mediaray"


class ServiceArgs(BaseModel):
    """One service's row in serve_config.yaml. Delays are in seconds."""

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(0, ge=0)
    max_replicas: int = Field(1, ge=1)
    slots: int = Field(1, ge=1, description="attempts at a time in one replica")
    threads: int = Field(0, ge=0, description="CPU threads of one attempt; 0: all cores the node has")
    engine: str = Field("auto", description="engine name to insist on; auto: the first that is ready")
    num_cpus: float = Field(0.1, ge=0, description="what Ray reserves for scheduling, not a limit")
    num_gpus: float | Literal["auto"] = "auto"
    upscale_delay_s: float = Field(0.0, ge=0)
    downscale_delay_s: float = Field(60.0, ge=0)
    downscale_to_zero_delay_s: float = Field(600.0, ge=0)
    drain_s: float = Field(1800.0, ge=0, description="how long a replica may finish its work when it goes")


class IngressArgs(BaseModel):
    """The HTTP edge. `max_ongoing_requests` is per replica and includes long polls."""

    model_config = ConfigDict(extra="forbid")

    num_replicas: int = Field(1, ge=1)
    max_ongoing_requests: int = Field(1000, ge=1)
    num_cpus: float = Field(0.1, ge=0)


DEFAULT_SERVICES = {
    "ffmpeg": ServiceArgs(min_replicas=1, max_replicas=2),
    "faster_whisper": ServiceArgs(threads=1),
    "audio_separator": ServiceArgs(threads=1),
    "pyannote_audio": ServiceArgs(threads=1),
    "paddleocr": ServiceArgs(threads=1),
    "indextts": ServiceArgs(threads=1),
    "wservice": ServiceArgs(slots=4, threads=1),
    "flashvsr": ServiceArgs(),
    "hallo2": ServiceArgs(),
    "text_to_video": ServiceArgs(),
    "diagnostics": ServiceArgs(slots=32),
}


class AppArgs(BaseModel):
    """The `args` of the application in serve_config.yaml; a service without a row has the defaults.

    `accelerator`: auto gives a full engine's replica one GPU where the cluster has GPUs; cpu never does.
    """

    model_config = ConfigDict(extra="forbid")

    accelerator: Literal["auto", "cpu"] = "auto"
    ingress: IngressArgs = IngressArgs()
    services: dict[str, ServiceArgs] = {}

    def service(self, name: str) -> ServiceArgs:
        return self.services.get(name) or DEFAULT_SERVICES.get(name) or ServiceArgs()


def build(config: AppArgs | dict[str, Any]) -> Application:
    """The application: Serve calls this on the cluster, with `args` of serve_config.yaml as a dict.

    A service whose models have no engine may have a row there, and gets no deployment.
    """
    args = AppArgs.model_validate(config)
    unknown = args.services.keys() - set(SERVICES)
    if unknown:
        raise ValueError(f"unknown services in args: {sorted(unknown)}; known: {list(SERVICES)}")
    settings = Settings()
    access_of(settings)
    refuse_open_listener(settings)
    load_jobs(settings.catalog, CATALOG)  # refused here rather than in every replica of the ingress
    refuse_local_files_on_several_hosts(settings)
    ensure_registry(settings)
    replicas = {
        name: _service(name, args.service(name), args.accelerator, settings) for name in SERVICES_WITH_ENGINES
    }
    return _ingress(args.ingress, settings, replicas)


def refuse_open_listener(settings: Settings) -> None:
    """Raise ValueError where Serve's proxies listen beyond loopback and there are no keys.

    `serve deploy` starts them with `http_options` of its file, whatever MEDIARAY_HTTP_HOST says.
    """
    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    host = ray.get(controller.get_http_config.remote()).host
    if host is not None:  # None: Serve runs without HTTP
        settings.check_listener(host, "http_options.host")


def refuse_local_files_on_several_hosts(settings: Settings) -> None:
    """Raise ValueError where replicas on another machine could not reach the files of this one."""
    hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    changes = [
        change
        for url, change in (
            (settings.resolved_storage_url, "MEDIARAY_STORAGE_URL=s3://bucket/prefix"),
            (settings.resolved_database_url, "MEDIARAY_DATABASE_URL=postgresql://user@host/database"),
        )
        if url.startswith(("file:", "sqlite:"))
    ]
    if len(hosts) > 1 and changes:
        raise ValueError(
            f"this cluster has {len(hosts)} hosts, and local files cannot be shared between them: set "
            + " and ".join(changes)
        )


def _ingress(args: IngressArgs, settings: Settings, replicas: dict[str, Application]) -> Application:
    deployment = serve.deployment(
        Ingress,
        name="ingress",
        num_replicas=args.num_replicas,
        max_ongoing_requests=args.max_ongoing_requests,
        ray_actor_options={"num_cpus": args.num_cpus},
    )
    return deployment.bind(settings, replicas)


def _service(name: str, args: ServiceArgs, accelerator: str, settings: Settings) -> Application:
    num_gpus = _num_gpus(name, args, accelerator, settings)
    plan = ReplicaPlan(
        service=name,
        slots=args.slots,
        threads=args.threads or os.cpu_count() or 1,
        device="cuda" if num_gpus else "cpu",
        engine=args.engine,
    )
    deployment = serve.deployment(
        ModelReplica,
        name=name,
        autoscaling_config=_autoscaling(name, args),
        graceful_shutdown_timeout_s=args.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5,
        health_check_timeout_s=10,
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": num_gpus},
    )
    return deployment.bind(settings, plan)


def _autoscaling(name: str, args: ServiceArgs) -> dict[str, Any]:
    return {
        "min_replicas": args.min_replicas,
        "max_replicas": args.max_replicas,
        "initial_replicas": args.min_replicas,
        "upscale_delay_s": args.upscale_delay_s,
        "downscale_delay_s": args.downscale_delay_s,
        "downscale_to_zero_delay_s": args.downscale_to_zero_delay_s,
        "policy": {
            "policy_function": "deployments.autoscaling:QueuePolicy",
            "policy_kwargs": {"service": name, "slots": args.slots},
        },
    }


def _num_gpus(name: str, args: ServiceArgs, accelerator: str, settings: Settings) -> float:
    """One GPU for a replica that will run a full GPU engine, unless the row says otherwise."""
    if args.num_gpus != "auto":
        return float(args.num_gpus)
    has_gpu = accelerator == "auto" and ray.cluster_resources().get("GPU", 0) >= 1
    engines = []
    for model in MODELS:
        if model.service == name and has_gpu:
            try:
                engines.append(ready_engine(model, site_of(settings, has_gpu=True)))
            except ModelNotReady:
                continue
    return float(any(engine.kind is EngineKind.FULL and engine.needs_gpu for engine in engines))
