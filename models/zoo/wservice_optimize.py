"""wservice.ai_optimize_subtitles: the texts of a transcript improved; ids and times of segments stay.

What comes out has the form of what went in, so that generate_subtitle_files takes it.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from models.disk import disk_errors
from models.engine import InputFile, InvalidInput, MediaKind, ModelSpec, Result, RunContext
from models.ffmpeg_run import short_stem
from models.subtitle_correction import NO_PROVIDER, Correction, chosen, correct, provider_note
from models.subtitle_document import Document, JsonText, open_document
from models.subtitle_edits import BatchSize, Tally
from models.zoo.wservice_correct import Provider
from models.zoo.wservice_engines import CorrectingEngine, correcting_engines


class Optimization(BaseModel):
    """How to improve the texts."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = Field(True, description="false: the transcript is handed on as it is.")
    provider: Provider | None = Field(
        None,
        description="`rules` for corrections by rule; else the chat server of this installation, if any.",
    )
    batch_size: int = Field(50, ge=1, le=500, description="Segments in one question to the chat server.")
    overlap_size: int = Field(
        10, ge=0, le=200, description="Segments before and after them that are shown as context."
    )


class OptimizeInputs(BaseModel):
    """Which transcript to improve, and how."""

    model_config = ConfigDict(extra="forbid")

    segments_file: Annotated[str, InputFile(MediaKind.FILE)] = Field(
        min_length=1,
        description="Transcript JSON as faster_whisper.transcribe_audio writes it, or a list of segments.",
    )
    subtitle_optimization: Optimization = Field(
        default_factory=Optimization, description="Provider and sizes of batches."
    )


class OptimizeEngine(CorrectingEngine):
    """A command is the new text of one segment; optimization_rate is the share of segments that changed."""

    def run(self, inputs: OptimizeInputs, context: RunContext) -> Result:
        started_s = time.monotonic()
        source, wanted = Path(inputs.segments_file), inputs.subtitle_optimization
        document = _transcript(source)
        chat = chosen(wanted.provider, self.chat)
        if wanted.enabled:
            size = BatchSize(wanted.batch_size, wanted.overlap_size)
            correction = correct(document.texts, document.language, context, chat, size)
            notes = (*correction.notes, *provider_note(wanted.provider, chat))
        else:
            correction = Correction(document.texts, NO_PROVIDER, Tally())
            notes = ("optimization is not enabled: the transcript is as it was",)
        files = _write(source, document, correction, context)
        seconds = {"processing_time": round(time.monotonic() - started_s, 3)}
        values = {**files, **_counts(document, correction), **seconds, "notes": list(notes)}
        return Result(values, engine=self.label_of(correction))


def _transcript(source: Path) -> Document:
    document = open_document(source, "segments_file")
    if not isinstance(document, JsonText):
        raise InvalidInput("segments_file is no transcript JSON", field="segments_file")
    return document


def _write(source: Path, document: Document, correction: Correction, context: RunContext) -> dict[str, Path]:
    stem = short_stem(source)
    target = context.output_dir / f"{stem}_optimized.json"
    original = context.output_dir / f"{stem}_original.json"
    with disk_errors():
        shutil.copyfile(source, original)
        if correction.num_changed(document.texts):
            target.write_text(document.rewritten(correction.texts), encoding="utf-8")
        else:
            shutil.copyfile(source, target)
    return {"optimized_file_path": target, "original_file_path": original}


def _counts(document: Document, correction: Correction) -> dict[str, Any]:
    tally, total = correction.tally, len(document.texts)
    changed = correction.num_changed(document.texts)
    return {
        "provider_used": correction.provider,
        "subtitles_count": total,
        "commands_applied": changed,
        "batch_mode": tally.batches > 1,
        "batches_count": tally.batches,
        "statistics": {
            "total_commands": tally.proposed,
            "optimization_rate": round(changed / total, 4) if total else 0.0,
            "refused_commands": tally.refused,
            "failed_batches": tally.failed_batches,
            "repeated_questions": tally.repeated_questions,
            "rules": correction.rules,
        },
    }


MODELS = (
    ModelSpec(
        name="wservice.ai_optimize_subtitles",
        title="Improves the texts of a transcript",
        inputs=OptimizeInputs,
        engines=correcting_engines(OptimizeEngine),
        run_timeout_s=4 * 3600.0,
    ),
)
