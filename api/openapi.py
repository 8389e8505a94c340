"""What is true of all routes, added to the API's description once: keys, limits, sizes, outages."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from api.dialects import dialect_at
from api.middleware import OPEN_PATHS
from api.rate_limits import counted_as
from api.views.problems import MEANINGS, ErrorAnswer

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_EITHER_KEY: list[dict[str, list[str]]] = [{name: []} for name in _SCHEMES]
_NO_KEY: list[dict[str, list[str]]] = [{}]


def describe(app: FastAPI) -> None:
    """Let `app` describe what its middleware does, beside what its routes say themselves."""
    of_routes = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = of_routes()
        if is_new:
            document["components"]["securitySchemes"] = _SCHEMES
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    _complete(operation, method.upper(), path)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the schema


def _complete(operation: dict[str, Any], method: str, path: str) -> None:
    _, inner = dialect_at(path)
    is_open = (inner.rstrip("/") or "/") in OPEN_PATHS
    operation["security"] = _NO_KEY if is_open else _EITHER_KEY
    is_true = {
        401: not is_open,
        413: "requestBody" in operation,
        429: counted_as(method, path) is not None,
    }
    for status in (status for status, applies in is_true.items() if applies):
        operation["responses"].setdefault(str(status), _answer(status))


def _answer(status: int) -> dict[str, Any]:
    """An error of our shape, as a route's own `problems` are described."""
    schema = {"$ref": f"#/components/schemas/{ErrorAnswer.__name__}"}
    return {"description": MEANINGS[status], "content": {"application/json": {"schema": schema}}}
