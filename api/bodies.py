"""JSON bodies and query strings: parsed strictly, refused as FastAPI would refuse them."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError, from_json
from starlette.requests import Request

from api.errors import Unprocessable, error_list

Model = TypeVar("Model", bound=BaseModel)


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number, not true or false")
    return value


NO_BOOL = BeforeValidator(_not_bool)
"""For numbers of JSON bodies: pydantic takes `true` for 1."""


def _no_json(reason: str) -> Unprocessable:
    return Unprocessable([{"type": "json_invalid", "loc": ["body"], "msg": f"JSON decode error: {reason}"}])


async def read_json(request: Request) -> Any:
    """The JSON body; 422 for what is not JSON or no number: bad UTF-8, NaN, 1e400, nesting over 200 levels.

    In memory: `BodyLimit` has bounded it.
    """
    body = await request.body()
    try:
        value = from_json(body, allow_inf_nan=False)
        json.dumps(value, allow_nan=False)  # in C, the shortest way to find a number that became infinite
    except ValueError as error:
        raise _no_json(str(error)) from error
    return value


async def read_optional_json(request: Request) -> Any:
    """As `read_json`; {} when there is no body."""
    return await read_json(request) if await request.body() else {}


RANGE_ERRORS = frozenset({"greater_than_equal", "less_than_equal", "finite_number", "int_parsing_size"})


def is_out_of_range(problems: list[dict[str, Any]]) -> bool:
    """Whether everything in a list of problems is a number beyond its limits, and nothing of a wrong type."""
    return all(problem["type"] in RANGE_ERRORS for problem in problems)


def parse(model: type[Model], value: Any, where: str = "body") -> Model:
    """`value` as a `model`; raises Unprocessable with FastAPI's list."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Unprocessable(error_list(error.errors(include_context=False), where)) from error


def parse_query(model: type[Model], request: Request) -> Model:
    """The query string as a `model`; a name given twice counts once, the last."""
    return parse(model, dict(request.query_params), "query")
