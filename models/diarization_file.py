"""What a diarization leaves behind: a JSON file that other tasks read, the same as RTTM, and statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.disk import disk_errors
from models.ffmpeg_run import short_stem

if TYPE_CHECKING:
    from models.diarization import Diarization, Turn

FILE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Found:
    """What an engine found in the sound of `source`, and how it says that it did."""

    source: Path
    duration_s: float
    diarization: Diarization
    model_name: str
    device: str


def statistics(diarization: Diarization) -> dict[str, dict[str, Any]]:
    """Turns and seconds of each speaker; time in which two speak counts for both.

    `words` is null, not 0: they belong to a transcript, and none is read here.
    """
    rows: dict[str, dict[str, Any]] = {}
    for speaker in diarization.speakers:
        own = [turn for turn in diarization.turns if turn.speaker == speaker]
        duration_s = round(sum(turn.duration_s for turn in own), 3)
        rows[speaker] = {"segments": len(own), "duration": duration_s, "words": None}
    return rows


def write_files(folder: Path, found: Found) -> Path:
    """`diarization_data_{stem}.json` in `folder`, and its turns as RTTM beside it.

    The JSON has `metadata`, `speakers` (names by first speech), `segments` and `exclusive`: lists of {start,
    end, duration, speaker} by start, in seconds. Segments may overlap where two speak at once; those
    of `exclusive` never do. `metadata.version` grows when a field changes its meaning.
    """
    stem = f"diarization_data_{short_stem(found.source)}"
    path, rttm = folder / f"{stem}.json", folder / f"{stem}.rttm"
    content = {
        "metadata": {
            "version": FILE_VERSION,
            "audio_source": found.source.name,
            "duration": round(found.duration_s, 3),
            "model_name": found.model_name,
            "rttm_file": rttm.name,
        },
        "speakers": found.diarization.speakers,
        "segments": [_row(turn) for turn in found.diarization.turns],
        "exclusive": [_row(turn) for turn in found.diarization.exclusive],
    }
    with disk_errors():
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        rttm.write_text(_rttm(found.source.stem, found.diarization.turns), encoding="utf-8")
    return path


def _row(turn: Turn) -> dict[str, Any]:
    start_s, end_s = round(turn.start_s, 3), round(turn.end_s, 3)
    return {"start": start_s, "end": end_s, "duration": round(end_s - start_s, 3), "speaker": turn.speaker}


def _rttm(name: str, turns: Sequence[Turn]) -> str:
    """NIST's format, whose fields are separated by blanks."""
    file_id = "_".join(name.split()) or "audio"
    return "".join(
        f"SPEAKER {file_id} 1 {turn.start_s:.3f} {turn.duration_s:.3f} <NA> <NA> {turn.speaker} <NA> <NA>\n"
        for turn in turns
    )
