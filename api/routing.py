"""How our routes hang on FastAPI: documented by it, called without its per-request machinery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.views.problems import problems


class DirectRoute(APIRoute):
    """Calls `endpoint(request, **path_params)`: no dependency solving, no response validation.

    Halves what a status read costs. The signature still makes the documented path parameters.
    """

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            response: Response = await endpoint(request, **request.path_params)
            return response

        return handle


def direct_router(tag: str) -> APIRouter:
    return APIRouter(route_class=DirectRoute, tags=[tag])


def json_body(model: type[BaseModel], *, required: bool = True, **extra: Any) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a JSON body itself."""
    schema = model.model_json_schema()
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema}}},
        **extra,
    }


def query_parameters(model: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its query string itself, as `model`."""
    schema = model.model_json_schema()
    parameters = [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": field}
        for name, field in schema["properties"].items()
    ]
    return {"parameters": parameters}


def header_parameter(name: str, description: str) -> dict[str, Any]:
    """One entry of `parameters` for a header that a route reads itself."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": description,
    }


def form_body(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a multipart form itself."""
    schema = {"type": "object", "properties": properties, "required": required}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


FILE_FIELD = {"type": "string", "format": "binary"}


def file_answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that serves a stored file, or refuses with one of `statuses`.

    Such a route has `response_class=Response`: the media type is that of the content.
    """
    content = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    described: dict[int | str, dict[str, Any]] = {
        200: {"description": "The content, or nothing for HEAD", "content": content},
        206: {"description": "The range that was asked for", "content": content},
        304: {"description": "The caller's copy is current"},
        416: {"description": "The range lies behind the end of the file"},
    }
    return {**described, **problems(*statuses)}
