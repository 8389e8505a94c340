"""How the suite is shared between two workers (pytest-xdist): whole modules, and all real servers on one."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SERVER = "server"
WITH_SERVER = ("integration", "acceptance/test_bad_input", "acceptance/test_callback_faults",
               "acceptance/test_disk_full", "acceptance/test_faults", "acceptance/test_s3_server",
               "acceptance/test_seed_examples")  # fmt: skip
"""Modules that start servers of many processes: beside each other they would measure each other's load."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        module = item.path.relative_to(TESTS).with_suffix("").as_posix()
        item.add_marker(pytest.mark.xdist_group(SERVER if module.startswith(WITH_SERVER) else module))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Lone surrogates, which some tests log on purpose, cannot travel from a worker."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
