"""What the cluster layer refuses, and why.

    ClusterError
    ├── TaskNotFound          no such task, or not this caller's
    ├── TaskConflict          the id or idempotency key exists with other inputs
    ├── DuplicateTask         the same work is active or done (dedupe_key)
    ├── DeliveryNotFound      the task has no delivery of this number
    ├── DeliveryPending       the delivery has not ended, so it cannot be replayed
    ├── QueueFull             the queue bound is reached; try again in retry_after_s
    ├── IllegalStep           the status does not allow this event
    ├── RegistryFault         this call cannot be recorded; repeating it would not help
    ├── RegistryUnavailable   the registry is restarting or its disk fails; try again
    │   └── Superseded        another registry has opened the database; this one is out of office
    ├── InvalidKey            a storage key, path or file name that is not a plain relative name
    ├── ArtifactNotFound      no object under this key
    ├── FolderNotUsable       a folder of stored files that cannot be an input: too many, too large
    ├── StorageFailure        the artifact store failed for what may be a passing reason (S3 down)
    │   └── StorageFull       its disk is full
    ├── ExpiredUrl            a signed download URL after its time; ask for a new one
    ├── BadSignature          a download token that was not signed here for this key
    └── UrlProblem            a URL that a caller named
        ├── UnsafeUrl         malformed, or leads to where it must not
        ├── UrlUnreachable    its server cannot be reached, or fails for what may be a passing reason
        ├── UrlNotFound       its server has no such file, or not for us
        └── UrlNotUsable      its server answers what cannot be taken: too large, no file at all

Every class takes only picklable positional arguments, because they cross process borders.
"""

from __future__ import annotations


class ClusterError(Exception):
    """Root of everything this layer raises on purpose."""


class TaskNotFound(ClusterError):
    """No such task, or not this caller's."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id


class TaskConflict(ClusterError):
    """The id or idempotency key is taken by a different request; choose another."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id


class DuplicateTask(ClusterError):
    """The same content and parameters are active or succeeded as `task_id`."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id


class DeliveryNotFound(ClusterError):
    """The task has no callback delivery of this number."""

    def __init__(self, task_id: str, number: int | str) -> None:
        super().__init__(task_id, number)
        self.task_id = task_id
        self.number = number


class DeliveryPending(ClusterError):
    """The delivery is still being tried: there is nothing to replay."""

    def __init__(self, task_id: str, number: int) -> None:
        super().__init__(task_id, number)
        self.task_id = task_id
        self.number = number


class QueueFull(ClusterError):
    """The service's queue bound is reached."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class IllegalStep(ClusterError):
    """The status does not allow this event."""

    def __init__(self, status: str, event: str) -> None:
        super().__init__(status, event)
        self.status = status
        self.event = event


class RegistryFault(ClusterError):
    """The registry failed on this one call, by a bug or a value it cannot record; its log says more."""


class RegistryUnavailable(ClusterError):
    """Nothing was recorded, or it is unknown whether it was: repeat with the same id."""


class Superseded(RegistryUnavailable):
    """Another registry has opened the task database; this one must write nothing more."""


class InvalidKey(ClusterError):
    """Not a plain relative name; nothing was read or written."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class ArtifactNotFound(ClusterError):
    """No object is stored under this key."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class FolderNotUsable(ClusterError):
    """A folder of stored files that no task can take; the message is for the caller."""


class StorageFailure(ClusterError):
    """The message names the cause and the next step, without secrets."""


class StorageFull(StorageFailure):
    """No space left: trying again would fail again."""


class ExpiredUrl(ClusterError):
    """The signed URL was valid once; ask for a new one."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class BadSignature(ClusterError):
    """The token was not signed by this server for this key."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class UrlProblem(ClusterError):
    """Root of what is wrong with a caller's URL; messages are for the caller and name its host at most."""


class UnsafeUrl(UrlProblem):
    """Malformed, or leads to an address that is not public."""


class UrlUnreachable(UrlProblem):
    """No name, no connection, no answer in time, or 5xx; trying again may help."""


class UrlNotFound(UrlProblem):
    """The URL's server has no such file, or not for us."""


class UrlNotUsable(UrlProblem):
    """The URL's server answers what cannot be taken: too large, or no file at all."""
