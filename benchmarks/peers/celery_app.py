"""The peer: FastAPI in front of Celery, with Redis as broker and result backend.

Set up as for production work that must not be lost: acknowledged late, no hoarding of tasks by a
busy worker process, one worker process per core. REDIS_URL names the store.
"""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from fastapi import FastAPI
from pydantic import BaseModel

redis_url = os.environ["REDIS_URL"]
celery = Celery("peer", broker=redis_url, backend=redis_url)
celery.conf.update(
    task_acks_late=True,
    task_track_started=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)

STATUS_WORDS = {
    "PENDING": "pending",
    "STARTED": "running",
    "RETRY": "pending",
    "SUCCESS": "completed",
    "FAILURE": "failed",
    "REVOKED": "cancelled",
}


class NewTask(BaseModel):
    task_name: str
    input_data: dict[str, Any]


@celery.task(name="diagnostics.echo")
def echo(payload: str, sleep_s: float, created_at: float) -> dict[str, Any]:
    started_at = time.time()
    if sleep_s:
        time.sleep(sleep_s)
    timing = {"created_at": created_at, "started_at": started_at, "finished_at": time.time()}
    return {"payload": payload, "timing": timing}


app = FastAPI()


@app.post("/v1/tasks")
def submit(new: NewTask) -> dict[str, str]:
    inputs = new.input_data
    sent = echo.delay(inputs.get("payload", ""), inputs.get("sleep_s", 0.0), time.time())
    return {"task_id": sent.id, "status": "pending", "message": "任务已创建并开始执行"}


@app.get("/v1/tasks/{task_id}/status")
def status(task_id: str) -> dict[str, Any]:
    found = AsyncResult(task_id, app=celery)
    word = STATUS_WORDS[found.status]
    answer = {"task_id": task_id, "status": word, "message": "", "result": None, "callback_status": None}
    return answer | ({"result": found.result} if word == "completed" else {})


@app.get("/v1/tasks/{task_id}/result")
def result(task_id: str) -> dict[str, Any]:
    """As status, with the times where our server tells them."""
    answer = status(task_id)
    return answer | {"timing": (answer["result"] or {}).get("timing")}


@app.get("/readyz")
def ready() -> dict[str, bool]:
    """True once a worker answers."""
    return {"ready": bool(celery.control.ping(timeout=0.5))}
