"""How the suite is shared between two workers (pytest-xdist): whole modules, the long ones first.

xdist's own `loadgroup` writes groups into node ids, which pytest 9.2 no longer lets it do: every test then
goes to any worker, and each worker starts every server.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

SERVERS = ("bad_input", "disk_full", "faults", "s3_server", "seed_examples")
"""Modules of tests/acceptance that start servers: side by side they would slow each other."""
LONG_FIRST = {"servers": 0, "engines": 1}


def group_of(node_id: str) -> str:
    """What one worker runs alone: all that starts servers, all that loads models; else a module."""
    path = PurePosixPath(node_id.partition("::")[0])
    if path.parent.name not in ("integration", "acceptance"):
        return str(path)
    is_server = path.parent.name == "integration" or path.stem.removeprefix("test_") in SERVERS
    return "servers" if is_server else "engines"


class GroupScheduling(LoadScopeScheduling):
    """Hands out groups, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG_FIRST.get(group_of(item.nodeid), len(LONG_FIRST)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Lone surrogates, which some tests log on purpose, cannot travel from a worker."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
