"""How the suite is shared between two workers (pytest-xdist): whole modules, the long ones first."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SERVERS = ("bad_input", "callback_faults", "disk_full", "faults", "s3_server", "seed_examples")
"""Modules of tests/acceptance that start servers: side by side they would slow each other."""
LONG_FIRST = {"servers": 0, "engines": 1}


@pytest.hookimpl(tryfirst=True)  # before xdist's own, which reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: LONG_FIRST.get(_group(item), len(LONG_FIRST)))


def _group(item: pytest.Item) -> str:
    """What one worker runs alone: all that starts servers, all that loads models; else a module."""
    if item.path.parent.name not in ("integration", "acceptance"):
        return item.path.relative_to(TESTS).with_suffix("").as_posix()
    name = item.path.stem.removeprefix("test_")
    return "servers" if item.path.parent.name == "integration" or name in SERVERS else "engines"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Lone surrogates, which some tests log on purpose, cannot travel from a worker."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
