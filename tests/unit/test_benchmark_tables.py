"""The arithmetic behind the benchmark's tables."""

from __future__ import annotations

import pytest

from benchmarks.load import Sample
from benchmarks.report import Report, markdown
from benchmarks.sections.text_to_video import Pair
from benchmarks.statistics import Figures, figures, middle, percentile, ratio
from benchmarks.text_to_video_clips import Job


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        pytest.param([5.0], 99, 5.0, id="one value is every percentile"),
        pytest.param([4.0, 1.0, 3.0, 2.0], 50, 2.0, id="unsorted, even count: the lower middle"),
        pytest.param(list(range(1, 101)), 99, 99, id="p99 of 100 is the 99th"),
        pytest.param(list(range(1, 102)), 99, 100, id="p99 of 101 rounds the rank up"),
        pytest.param([1.0, 2.0], 0, 1.0, id="p0 is the smallest"),
    ],
)
def test_percentile_is_the_nearest_rank(values, percent, expected):
    assert percentile(values, percent) == expected


def test_no_values_have_no_percentile():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_rates_come_from_the_wall_clock_not_from_the_sum_of_latencies():
    sample = Sample(latencies_s=[0.1] * 16, wall_s=0.2)
    assert figures(sample) == Figures(p50_ms=100.0, p99_ms=100.0, per_s=80.0)


def test_each_figure_has_its_own_median():
    rounds = [Figures(1, 30, 500), Figures(2, 10, 300), Figures(3, 20, 400)]
    assert middle(rounds) == Figures(2, 20, 400)


def test_ratios():
    assert ratio(3.0, 2.0) == "1.50×"
    assert ratio(3.0, 0.0) == "–"


def test_two_engines_are_compared_by_their_medians():
    stages = dict.fromkeys(("encode", "denoise", "denoise_per_step", "decode", "mux"), 1.0)
    ours = [{"seconds": seconds, "stage_seconds": stages} for seconds in (4.0, 100.0, 2.0)]
    pair = Pair("CPU", Job(), ours, [{"seconds": seconds} for seconds in (6.0, 3.0, 5.0)])
    assert pair.ratio == 1.25
    assert pair.rows[0] == ("CPU, 192x192x17, 6 steps: seconds a clip", "4.00", "5.00", "1.250")


def test_markdown_names_the_machine_and_every_missed_claim():
    report = Report("x", "A title", ("a", "b"), [("1 | 2", "3")], ["a note"], {"fast": False, "small": True})
    page = markdown({"CPU": "Some CPU", "cores": "2"}, [report])
    assert "Machine: CPU Some CPU, cores 2" in page
    assert "| 1 \\| 2 | 3 |" in page
    assert "* MISSED: fast" in page
    assert "* met: small" in page
