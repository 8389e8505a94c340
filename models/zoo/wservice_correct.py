"""wservice.correct_subtitles: the texts of a subtitle file corrected; times and all else stay as written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from models.disk import disk_errors
from models.engine import InputFile, MediaKind, ModelSpec, Result, RunContext
from models.ffmpeg_run import short_stem
from models.subtitle_correction import Correction, chosen, correct, provider_note
from models.subtitle_document import Document, open_document
from models.subtitle_edits import BatchSize
from models.zoo.wservice_engines import CorrectingEngine, correcting_engines

Provider = Annotated[str, Field(min_length=1, max_length=100)]


class CorrectInputs(BaseModel):
    """Which file to correct, and by whom."""

    model_config = ConfigDict(extra="forbid")

    subtitle_path: Annotated[str, InputFile(MediaKind.FILE)] = Field(
        min_length=1, description="SRT, WebVTT, ASS or transcript JSON; the content decides, not the name."
    )
    provider: Provider | None = Field(
        None,
        description="`rules` for corrections by rule; else the chat server of this installation, if any.",
    )


class CorrectEngine(CorrectingEngine):
    """Keeps number, order and times of entries; counts those that overlap or run backwards."""

    def run(self, inputs: CorrectInputs, context: RunContext) -> Result:
        source = Path(inputs.subtitle_path)
        document = open_document(source, "subtitle_path")
        chat = chosen(inputs.provider, self.chat)
        correction = correct(document.texts, document.language, context, chat, BatchSize())
        stem, suffix = short_stem(source), source.suffix[:16]
        target = context.output_dir / f"{stem}_corrected{suffix}"
        original = context.output_dir / f"{stem}_original{suffix}"
        with disk_errors():
            target.write_text(document.rewritten(correction.texts), encoding="utf-8", newline="")
            shutil.copyfile(source, original)
        return Result(
            {
                "corrected_subtitle_path": target,
                "original_subtitle_path": original,
                "provider_used": correction.provider,
                "statistics": _statistics(document, correction),
                "notes": [*correction.notes, *provider_note(inputs.provider, chat), *_time_notes(document)],
            },
            engine=self.label_of(correction),
        )


def _statistics(document: Document, correction: Correction) -> dict[str, Any]:
    tally = correction.tally
    return {
        "total_subtitles": len(document.texts),
        "corrected_subtitles": correction.num_changed(document.texts),
        **{"total_commands": tally.proposed, "refused_commands": tally.refused},
        **{"batches": tally.batches, "failed_batches": tally.failed_batches},
        **{"overlapping_times": document.num_overlaps, "backward_times": document.num_backwards},
        "rules": correction.rules,
    }


def _time_notes(document: Document) -> list[str]:
    overlaps, backwards = document.num_overlaps, document.num_backwards
    told = {
        f"{overlaps} entries begin before the one above them ends; times are as they were": overlaps,
        f"{backwards} entries begin before 0 or end before they begin; they are as they were": backwards,
    }
    return [note for note, applies in told.items() if applies]


MODELS = (
    ModelSpec(
        name="wservice.correct_subtitles",
        title="Corrects the texts of a subtitle file",
        inputs=CorrectInputs,
        engines=correcting_engines(CorrectEngine),
        run_timeout_s=4 * 3600.0,
    ),
)
