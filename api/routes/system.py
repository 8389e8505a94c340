"""What operators and our own client ask: liveness, readiness, the catalogue."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.answers import Json
from api.edge import Edge, edge_of
from api.routing import direct_router
from models.engine import EngineSpec, ModelNotReady, ModelSpec

router = direct_router("system")


class EngineView(BaseModel):
    """One engine of a model; `missing` names absent weights, packages and servers, each with what to do."""

    name: str
    kind: str
    version: str
    needs_gpu: bool
    licence: str
    is_commercial_use_allowed: bool
    missing: list[str]


class ModelView(BaseModel):
    """A catalogue entry; `engine` is the one that would run now.

    `missing` names what its engines lack; without any engine it says just that.
    """

    name: str
    service: str
    title: str
    ready: bool
    engine: str | None
    missing: list[str]
    engines: list[EngineView]
    input_schema: dict[str, Any]


class ModelList(BaseModel):
    """Answer of GET /v1/models."""

    models: list[ModelView]


@router.get("/healthz")
async def alive(_request: Request) -> Response:
    """The process answers."""
    return Json({"status": "alive"})


@router.get("/readyz")
async def ready(request: Request) -> Response:
    """503 with the failing parts while the registry or the file store does not answer."""
    failing = await edge_of(request).health.failing()
    status = "unready" if failing else "ready"
    return Json({"status": status, "failing": failing}, 503 if failing else 200)


@router.get("/v1/models", response_model=ModelList)
async def list_models(request: Request) -> Response:
    """The catalogue: which engine would run each model now, and what is missing for the others."""
    edge = edge_of(request)
    context = edge.context
    shown = [m for m in context.catalog.values() if m.is_listed or context.settings.show_diagnostics]
    return Json({"models": [await _model_view(edge, model) for model in shown]})


async def _model_view(edge: Edge, model: ModelSpec) -> dict[str, Any]:
    engines = [await _engine_view(edge, engine) for engine in model.engines]
    missing = [problem for shown in engines for problem in shown["missing"]]
    try:
        engine: str | None = (await edge.readiness.engine(model)).name
    except ModelNotReady as error:
        engine = None
        missing = missing or [str(error)]
    return {
        "name": model.name,
        "service": model.service,
        "title": model.title,
        "ready": engine is not None,
        "engine": engine,
        "missing": missing,
        "engines": engines,
        "input_schema": model.inputs.model_json_schema(),
    }


async def _engine_view(edge: Edge, engine: EngineSpec) -> dict[str, Any]:
    return {
        "name": engine.name,
        "kind": engine.kind.value,
        "version": engine.version,
        "needs_gpu": engine.needs_gpu,
        "licence": engine.licence,
        "is_commercial_use_allowed": engine.is_commercial_use_allowed,
        "missing": await edge.readiness.missing(engine),
    }
