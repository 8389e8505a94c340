"""The peer: a BentoML service with one task endpoint (POST /echo/submit, GET /echo/status)."""

from __future__ import annotations

import time

import bentoml


@bentoml.service(name="echo", traffic={"timeout": 600})
class Echo:
    @bentoml.task
    def echo(self, payload: str = "", sleep_s: float = 0.0) -> dict[str, str]:
        if sleep_s:
            time.sleep(sleep_s)
        return {"payload": payload}
