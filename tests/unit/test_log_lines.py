"""What is kept of an attempt's log while it runs, and how its stored form is read back."""

from __future__ import annotations

import pytest

from cluster.log_lines import LogTail, as_file, from_file, newest
from cluster.task import LogLines

FENCE = "1-a"


def lines(first: int, *texts: str, fence: str = FENCE) -> LogLines:
    return LogLines(fence, first, texts)


def test_a_tail_keeps_lines_in_order_and_skips_those_it_has() -> None:
    tail = LogTail(lines(0, "a", "b"))
    tail.add(lines(1, "b", "c"))
    tail.add(lines(0, "a"))
    assert tail.since() == lines(0, "a", "b", "c")


def test_a_tail_tells_what_came_after_a_version() -> None:
    tail = LogTail()
    tail.add(lines(0, "a"), 5)
    tail.add(lines(1, "b", "c"), 9)
    assert tail.since(5) == lines(1, "b", "c")
    assert tail.since(9) == lines(3)


@pytest.mark.parametrize("news", [lines(4, "e"), lines(0, "x", fence="2-b")], ids=["gap", "other attempt"])
def test_a_tail_begins_anew(news: LogLines) -> None:
    tail = LogTail(lines(0, "a", "b"))
    assert not tail.joins(news)
    tail.add(news)
    assert tail.since() == news


def test_a_tail_is_bounded_in_lines_and_in_bytes() -> None:
    tail = LogTail(lines(0, *(str(number) for number in range(500))))
    kept = tail.since()
    assert (kept.first, len(kept.lines), kept.lines[-1]) == (300, 200, "499")
    tail = LogTail(lines(0, *("ü" * 1000 for _ in range(100))))
    assert tail.since().next == 100
    assert sum(len(line.encode()) for line in tail.since().lines) <= 64 * 1024


def test_the_newest_lines_that_fit() -> None:
    known = lines(10, "a" * 10, "b" * 10, "c" * 10)
    assert newest(known, 2, 1000) == lines(11, "b" * 10, "c" * 10)
    assert newest(known, 3, 20) == lines(11, "b" * 10, "c" * 10)
    assert newest(known, 3, 1) == lines(12, "c" * 10)
    assert newest(lines(3), 3, 1) == lines(3)


@pytest.mark.parametrize("known", [lines(0, "a", "", "ü"), lines(7, "a")], ids=["whole", "start dropped"])
def test_a_stored_log_is_read_back_with_its_numbers(known: LogLines) -> None:
    content = as_file(known)
    assert from_file(FENCE, [content[:2], content[2:]]) == known


def test_a_stored_log_says_that_lines_were_dropped() -> None:
    assert as_file(lines(7, "a")) == b"[7 earlier lines were not kept]\na\n"
    assert from_file(FENCE, []) == lines(0)
