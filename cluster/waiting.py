"""Why a queued task waits, in one word and one sentence. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.fair_queue import FairQueue
from cluster.presence import Presence
from cluster.task import Status, Task


class WaitReason(StrEnum):
    """Why a queued task does not run yet."""

    RETRY_DELAY = "retry_delay"  # its last attempt failed and the pause before the next is not over
    REPLICA_STARTING = "replica_starting"
    NO_REPLICA = "no_replica"
    TENANT_CAP = "tenant_cap"  # the tenant runs as many tasks of the service as it may
    QUEUE = "queue"  # others are served first, or the replicas are busy


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a queued task waits, since when, and how many tasks of its service come before it.

    `ahead` is None while a retry delay runs: the task has no place in the queue.
    """

    reason: WaitReason
    since: float
    ahead: int | None
    text: str


def why_waiting(task: Task, queue: FairQueue, presence: Presence, now: float, now_s: float) -> Waiting:
    """`now` is seconds since the epoch, `now_s` the monotonic clock of `presence`."""
    reason = _reason(task, queue, presence, now, now_s)
    ahead = None if reason is WaitReason.RETRY_DELAY else queue.ahead_of(task.id, now_s)
    since = task.updated_at if task.attempts else task.created_at
    return Waiting(reason, since, ahead, _text(reason, task, ahead or 0, now))


def _reason(task: Task, queue: FairQueue, presence: Presence, now: float, now_s: float) -> WaitReason:
    if task.not_before > now:
        return WaitReason.RETRY_DELAY
    if not presence.is_served(task.service, now_s):
        is_expected = presence.is_expected(task.service, now_s)
        return WaitReason.REPLICA_STARTING if is_expected else WaitReason.NO_REPLICA
    return WaitReason.TENANT_CAP if queue.is_capped(task.tenant) else WaitReason.QUEUE


def _text(reason: WaitReason, task: Task, ahead: int, now: float) -> str:
    if reason is WaitReason.RETRY_DELAY:
        return f"the last attempt did not succeed; the next one begins in {task.not_before - now:.0f} s"
    queued = f"{ahead} tasks are served before it" if ahead != 1 else "1 task is served before it"
    texts = {
        WaitReason.REPLICA_STARTING: f"a replica of {task.service} is starting; {queued}",
        WaitReason.NO_REPLICA: f"no replica of {task.service} is there yet; {queued}",
        WaitReason.TENANT_CAP: f"you run as many tasks of {task.service} as you may at a time; {queued}",
        WaitReason.QUEUE: f"the replicas of {task.service} are busy; {queued}",
    }
    return texts[reason]


def is_overdue(task: Task, now: float) -> bool:
    """Whether the task waits beyond its start deadline."""
    deadline = task.start_deadline_at
    return task.status is Status.QUEUED and deadline is not None and deadline <= now
