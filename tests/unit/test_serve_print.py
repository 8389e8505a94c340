"""`print` to a file in a replica, where Serve has put its own in place of Python's."""

from __future__ import annotations

import builtins
import io
import logging

import pysubs2
import pytest
from ray.serve._private import logging_utils
from ray.serve._private.constants import SERVE_LOGGER_NAME

from deployments.serve_print import repair_print

SRT = "1\n00:00:01,000 --> 00:00:02,000\nHello.\n\n"


def as_srt() -> str:
    return str(pysubs2.SSAFile.from_string(SRT).to_string("srt"))


@pytest.fixture
def serve_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "print", logging_utils.redirected_print)


@pytest.mark.usefixtures("serve_print")
def test_a_library_that_prints_into_a_file_writes_what_it_says() -> None:
    assert as_srt().startswith("(1,)"), "Serve's own print is whole again: the repair can go"
    repair_print()
    repair_print()
    assert as_srt() == SRT
    file = io.StringIO()
    print("a", 1, sep="-", end="!", file=file, flush=True)
    assert file.getvalue() == "a-1!"


@pytest.mark.usefixtures("serve_print")
def test_what_goes_to_the_console_is_still_logged_by_serve(caplog: pytest.LogCaptureFixture) -> None:
    repair_print()
    with caplog.at_level(logging.INFO, SERVE_LOGGER_NAME):
        print("loaded", 3)  # noqa: T201 - what is tested
    assert [record.getMessage() for record in caplog.records] == ["loaded 3\n"]


def test_python_s_own_print_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = builtins.print
    repair_print()
    assert builtins.print is before
