from __future__ import annotations

from pathlib import Path

import pytest

from tests.diarization_error import Turn, diarization_error, read_rttm

REFERENCE = [Turn(0, 4, "anna"), Turn(4, 8, "bert"), Turn(7, 10, "anna")]


@pytest.mark.parametrize(
    ("found", "errors"),
    [
        pytest.param([Turn(t.start_s, t.end_s, t.speaker[::-1]) for t in REFERENCE], (0, 0, 0), id="renamed"),
        pytest.param([], (11, 0, 0), id="nothing found"),
        pytest.param([Turn(0, 10, "x")], (1, 0, 3), id="one speaker for two"),
        pytest.param([Turn(0, 4, "x"), Turn(4, 8, "y"), Turn(8, 10, "x")], (1, 0, 0), id="overlap missed"),
        pytest.param([*REFERENCE, Turn(10, 12, "anna")], (0, 2, 0), id="speaks into silence"),
        pytest.param([*REFERENCE, Turn(1, 2, "carl")], (0, 1, 0), id="a third at the same time"),
        pytest.param(
            [Turn(0, 4, "x"), Turn(4, 7, "y"), Turn(7, 10, "y"), Turn(7, 8, "x")], (0, 0, 2), id="swapped"
        ),
    ],
)
def test_errors_are_what_a_person_counts(found: list[Turn], errors: tuple[float, float, float]) -> None:
    error = diarization_error(REFERENCE, found)
    assert (error.missed_s, error.false_s, error.confused_s) == pytest.approx(errors)
    assert error.speech_s == pytest.approx(11)
    assert error.rate == pytest.approx(sum(errors) / 11)


def test_a_collar_forgives_borders_and_nothing_else() -> None:
    late = [Turn(0.2, 4.2, "x"), Turn(4.2, 7.8, "y"), Turn(7.2, 9.8, "x")]
    assert diarization_error(REFERENCE, late).rate > 0.09
    assert diarization_error(REFERENCE, late, collar_s=0.25).rate == 0
    assert diarization_error(REFERENCE, [Turn(0, 10, "x")], collar_s=0.25).confused_s == pytest.approx(2.5)


def test_rttm_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.rttm"
    path.write_text("SPEAKER a 1 1.500 0.250 <NA> <NA> anna <NA> <NA>\n;; a remark\n")
    assert read_rttm(path) == [Turn(1.5, 1.75, "anna")]
