"""The comparison that the seed examples rely on sees what an old client would trip over, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.seed_shapes import differences, documented

SHOWN = {
    "task_id": "550e8400",
    "status": "completed",
    "created_at": "2024-01-15T10:30:00Z",
    "progress": 45,
    "error": None,
    "files": [{"name": "a.jpg", "size": 1}],
}
SAME: dict[str, Any] = SHOWN | {"task_id": "x", "created_at": "2026-02-03T04:05:06Z", "progress": 99.5}


@pytest.mark.parametrize(
    "change",
    [{}, {"error": "no"}, {"more": 1}, {"files": [{"name": "b", "size": 2, "type": "image"}]}],
    ids=["other values", "a null filled", "another key", "another key of an item"],
)
def test_a_client_notices_nothing(change: dict[str, Any]) -> None:
    assert not list(differences(SHOWN, SAME | change))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"status": "done"}, "$.status"),
        ({"task_id": 7}, "$.task_id"),
        ({"task_id": None}, "$.task_id"),
        ({"progress": True}, "$.progress"),
        ({"progress": "45"}, "$.progress"),
        ({"created_at": "2026-02-03T04:05:06"}, "$.created_at"),
        ({"created_at": "2026-02-03T04:05:06.5Z"}, "$.created_at"),
        ({"created_at": "today"}, "$.created_at"),
        ({"files": []}, "$.files"),
        ({"files": [{"name": "b", "size": 1}, {"name": "c"}]}, "$.files[1].size"),
    ],
    ids=[
        "a word", "a number for a text", "null for a text", "a boolean for a number", "a text for a number",
        "a time without zone", "a time with fraction", "no time", "no items", "an item that lacks a key",
    ],
)  # fmt: skip
def test_a_client_trips(change: dict[str, Any], where: str) -> None:
    (difference,) = differences(SHOWN, SAME | change)
    assert difference.startswith(where)


def test_a_missing_key() -> None:
    real = {key: value for key, value in SAME.items() if key != "error"}
    (difference,) = differences(SHOWN, real)
    assert difference.startswith("$.error is not in the answer")


def test_free_text() -> None:
    assert not list(differences(SHOWN, SAME | {"status": "done"}, frozenset({"status"})))


def test_dots_of_a_document_stand_for_more_of_the_same() -> None:
    text = '{"tasks": {"a": {"x": "http://h/...",\n ...\n}, "b": {...}\n}, "count": 1}'
    assert documented(text) == {"tasks": {"a": {"x": "http://h/..."}}, "count": 1}
