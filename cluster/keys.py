"""The one place that builds storage keys, from names that callers may have chosen. Pure.

files/{tenant}/{path}              what a caller uploaded under a path of their own
files/{tenant}/.incoming/{id}/file an upload whose path is not known yet
catalog/{sha256}/{name}            an input file of the operator's job catalogue
defaults/{tenant}/{dialect}.json   what a caller made the defaults of later tasks
tasks/{id}/input/{name}            a file uploaded together with a task
tasks/{id}/{fence}/{name}          what an attempt published
tasks/{id}/partial/{name}          committed parts of unfinished work
tasks/{id}/derived/{name}          made from the others on demand: previews, joined partial results
"""

from __future__ import annotations

import re

from cluster.errors import InvalidKey

MAX_PATH_CHARS = 900  # S3 allows 1024 bytes for a key
TASKS, FILES = "tasks/", "files/"
_TASK_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def is_task_id(text: str) -> bool:
    """True for 1-128 of A-Z a-z 0-9 . _ - that is not . or .. (contracts §6)."""
    return bool(_TASK_ID.fullmatch(text)) and text not in {".", ".."}


def clean_path(path: str) -> str:
    """`path` as a plain relative path; raises InvalidKey for anything that could leave its folder."""
    parts = path.split("/")
    bad = (
        not path
        or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_CHARS
        or any(part in {"", ".", ".."} or len(part.encode("utf-8", "replace")) > 255 for part in parts)
        or any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in path)
        or "\\" in path
    )
    if bad:
        raise InvalidKey(path)
    return path


def is_clean(path: str) -> bool:
    """Whether `path` is a plain relative path (`clean_path`)."""
    try:
        clean_path(path)
    except InvalidKey:
        return False
    return True


def clean_name(name: str) -> str:
    """`name` as one path segment; raises InvalidKey otherwise."""
    if "/" in name:
        raise InvalidKey(name)
    return clean_path(name)


def upload_key(tenant: str, path: str) -> str:
    return f"{FILES}{clean_name(tenant)}/{clean_path(path)}"


def incoming_prefix(tenant: str) -> str:
    """The folder of uploads whose path is not known yet; no caller's path may begin there."""
    return upload_key(tenant, ".incoming") + "/"


def incoming_key(tenant: str, upload_id: str) -> str:
    return f"{incoming_prefix(tenant)}{clean_name(upload_id)}/file"


def catalog_key(sha256: str, name: str) -> str:
    """Where the operator's own file of this content lies: no caller's path can name it."""
    return f"catalog/{clean_name(sha256)}/{clean_name(name)}"


def defaults_key(tenant: str, dialect: str) -> str:
    """Where a tenant's defaults of later tasks lie: no caller's path can name it."""
    return f"defaults/{clean_name(tenant)}/{clean_name(dialect)}.json"


def task_prefix(task_id: str) -> str:
    if not is_task_id(task_id):
        raise InvalidKey(task_id)
    return f"{TASKS}{task_id}/"


def input_prefix(task_id: str) -> str:
    return f"{task_prefix(task_id)}input/"


def input_key(task_id: str, name: str) -> str:
    return input_prefix(task_id) + clean_name(name)


def attempt_prefix(task_id: str, fence: str) -> str:
    return f"{task_prefix(task_id)}{clean_name(fence)}/"


def artifact_key(task_id: str, fence: str, name: str) -> str:
    return attempt_prefix(task_id, fence) + clean_path(name)


def log_key(task_id: str, fence: str) -> str:
    """Where an attempt's log lines are stored, when it has any."""
    return artifact_key(task_id, fence, "attempt.log")


def partial_prefix(task_id: str) -> str:
    return f"{task_prefix(task_id)}partial/"


def derived_key(task_id: str, name: str) -> str:
    return f"{task_prefix(task_id)}derived/{clean_name(name)}"
