from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading

import psutil
import pytest
from pydantic import ValidationError

from models.engine import Cancelled, OutOfMemory, PermanentFailure
from models.zoo.diagnostics import MODELS, EchoEngine, EchoInputs
from tests.run_context import LocalRunContext

MIB = 1 << 20


@pytest.fixture
def context(tmp_path):
    return LocalRunContext(tmp_path)


def run(context, **inputs):
    return EchoEngine().run(EchoInputs(**inputs), context)


@pytest.mark.parametrize("payload", [None, 0, "字", [1, {"a": None}], {"b": 2.5}], ids=str)
def test_the_payload_comes_back_without_a_single_report(context, payload):
    assert run(context, payload=payload).values == {"payload": payload}
    assert context.reports == []


def test_a_sleep_reports_seconds_up_to_its_end(context):
    run(context, sleep_s=0.12)
    assert [report.done for report in context.reports] == sorted(report.done for report in context.reports)
    assert context.reports[0].done < 0.05
    assert (context.reports[-1].done, context.reports[-1].total) == (0.12, 0.12)
    assert {(report.stage, report.unit) for report in context.reports} == {("sleep", "s")}


def test_cancel_ends_a_sleep(context):
    timer = threading.Timer(0.15, context.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        run(context, sleep_s=3600)
    timer.join()
    assert context.reports[-1].done < 1


def test_fail_is_the_error_text_after_the_sleep(context):
    with pytest.raises(PermanentFailure, match=r"^no luck$"):
        run(context, fail="no luck", sleep_s=0.01)
    assert context.reports[-1].done == 0.01


MEMORY_PROBE = """
import json, pathlib, sys, psutil
from models.zoo.diagnostics import EchoEngine, EchoInputs
from tests.run_context import LocalRunContext
resident = psutil.Process().memory_info
context, seen = LocalRunContext(pathlib.Path(sys.argv[1])), []
before = resident().rss
context.report = lambda *args, **kwargs: seen.append(resident().rss)
EchoEngine().run(EchoInputs(allocate_bytes=int(sys.argv[2]), sleep_s=0.01), context)
print(json.dumps([max(seen) - before, resident().rss - before]))
"""


def test_allocated_memory_is_really_taken_and_given_back(tmp_path):
    """In a process of its own: here other tests' memory goes back meanwhile."""
    command = [sys.executable, "-c", MEMORY_PROBE, str(tmp_path), str(300 * MIB + 17)]
    taken, kept = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert taken > 290 * MIB
    assert kept < 50 * MIB


def test_memory_that_is_not_there_is_out_of_memory(context):
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 200 * MIB, hard))
    try:
        with pytest.raises(OutOfMemory, match="could not be allocated"):
            run(context, allocate_bytes=4096 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    "bad",
    [
        {"sleep_s": -1},
        {"sleep_s": 3601},
        {"sleep_s": float("inf")},
        {"allocate_bytes": (16 << 30) + 1},
        {"x": 1},
    ],
    ids=str,
)
def test_inputs_outside_the_schema_are_refused(bad):
    with pytest.raises(ValidationError):
        EchoInputs(**bad)


def test_it_is_not_listed():
    assert [model.is_listed for model in MODELS] == [False]
