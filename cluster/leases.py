"""Who holds which task, until when. In memory: a restarted registry grants every lease anew. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster.task import Attempt

FIRST_BEAT_S = 5.0


@dataclass(frozen=True, slots=True)
class Lease:
    """One attempt's right to report, and the lease call that gave it."""

    task_id: str
    worker: str
    fence: str
    request_id: str
    expires_at: float
    has_beaten: bool = False


class Leases:
    """The leases of all running attempts.

    A replica beats as soon as it has its tasks, so a new lease is short: work handed to a replica that
    died while it waited is back in the queue after FIRST_BEAT_S, and `has_beaten` tells it from work
    that may have killed its replica.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._leases: dict[str, Lease] = {}
        self._requests: dict[str, list[str]] = {}

    def grant(self, task_id: str, attempt: Attempt, now: float) -> None:
        """Open the lease of a new attempt."""
        self._open(task_id, attempt, now + min(FIRST_BEAT_S, self._lease_s))

    def restore(self, task_id: str, attempt: Attempt, now: float) -> None:
        """Open a full lease for an attempt that was running before this registry started."""
        self._open(task_id, attempt, now + self._lease_s)

    def renew(self, task_id: str, worker: str, fence: str, now: float) -> bool:
        """False when the lease is somebody else's or gone."""
        if not self.holds(task_id, worker, fence):
            return False
        self._leases[task_id] = replace(
            self._leases[task_id], expires_at=now + self._lease_s, has_beaten=True
        )
        return True

    def holds(self, task_id: str, worker: str, fence: str) -> bool:
        lease = self._leases.get(task_id)
        return lease is not None and (lease.worker, lease.fence) == (worker, fence)

    def of_request(self, request_id: str) -> list[str]:
        """Tasks leased by one lease call."""
        return list(self._requests.get(request_id, ()))

    def lapsed(self, now: float) -> list[Lease]:
        return [lease for lease in self._leases.values() if lease.expires_at <= now]

    def release(self, task_id: str) -> bool:
        """False when there was none."""
        lease = self._leases.pop(task_id, None)
        if lease is None:
            return False
        leased = self._requests[lease.request_id]
        leased.remove(task_id)
        if not leased:
            del self._requests[lease.request_id]
        return True

    def clear(self) -> None:
        self._leases.clear()
        self._requests.clear()

    def _open(self, task_id: str, attempt: Attempt, expires_at: float) -> None:
        self._leases[task_id] = Lease(task_id, attempt.worker, attempt.fence, attempt.request_id, expires_at)
        self._requests.setdefault(attempt.request_id, []).append(task_id)
