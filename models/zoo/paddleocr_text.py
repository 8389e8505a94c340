"""paddleocr.perform_ocr: the text of a picture, or of each frame of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.disk import disk_errors
from models.engine import (
    DownloadUrl,
    Engine,
    InputFile,
    InvalidInput,
    MediaKind,
    ModelSpec,
    Resources,
    Result,
    RunContext,
)
from models.media import MediaInfo
from models.ocr import OcrFiles, TextFinder, TextLine, TextReader, device_of, ocr_engines
from models.ocr_frames import OcrFrame, OcrFrames, frames_of_folder, frames_of_manifest
from models.ocr_languages import KNOWN_LANGUAGES, language_code
from models.pictures import read_picture

_FRAME_SIDE_PX = 736
_PAGE_SIDE_PX = 1280  # a picture by itself may be a page of small print
_SOURCES = "image_path, keyframe_dir, or manifest_path with multi_frames_path"


class OcrInputs(BaseModel):
    """What to read: one picture, a folder of them, or those that a manifest names."""

    model_config = ConfigDict(extra="forbid")

    image_path: Annotated[str | None, InputFile(MediaKind.IMAGE)] = Field(
        None, min_length=1, description="One picture; the result has its text and lines."
    )
    keyframe_dir: Annotated[str | None, InputFile(MediaKind.FOLDER)] = Field(
        None,
        min_length=1,
        description="Folder of frames, such as keyframe_dir of ffmpeg.extract_keyframes or "
        "cropped_images_path of ffmpeg.crop_subtitle_images: every picture in it is read, other files are "
        "passed over.",
    )
    manifest_path: Annotated[str | None, InputFile(MediaKind.FILE)] = Field(
        None,
        min_length=1,
        description='JSON that names frames: {"frames": [{"file": name, "time_s": seconds}]}, as the '
        "keyframes.json of ffmpeg.extract_keyframes, or a list of such entries or of names. Needs "
        "multi_frames_path.",
    )
    multi_frames_path: Annotated[str | None, InputFile(MediaKind.FOLDER)] = Field(
        None, min_length=1, description="Folder that holds the files which manifest_path names."
    )
    languages: list[str] | None = Field(
        None,
        min_length=1,
        description="Languages to expect, such as chinese or zh. The networks read all that are known at "
        "once, so that the list is checked and told in the result, no more. Known: "
        f"{', '.join(KNOWN_LANGUAGES)}.",
    )

    @field_validator("languages")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        unknown = [name for name in names or [] if language_code(name) is None]
        if unknown:
            raise ValueError(f"unknown languages: {', '.join(unknown)}; known: {', '.join(KNOWN_LANGUAGES)}")
        return names


@dataclass(frozen=True, slots=True)
class _Skipped:
    """A picture that could not be read."""

    name: str
    reason: str


@dataclass(slots=True)
class _Tally:
    """What a result counts."""

    num_frames: int = 0
    num_text_frames: int = 0
    num_lines: int = 0


class TextEngine(Engine):
    """Reads one picture at a time and writes each at once; memory grows with the largest picture only."""

    def __init__(self, files_of: Callable[[Resources], OcrFiles]) -> None:
        self._files_of = files_of

    def load(self, resources: Resources) -> None:
        files = self._files_of(resources)
        self._device = device_of(resources)
        self._frames = TextReader(files, resources, TextFinder(files, resources, side_px=_FRAME_SIDE_PX))
        page = TextFinder(files, resources, side_px=_PAGE_SIDE_PX)
        self._pages = TextReader(files, resources, page, is_turning=True)

    def run(self, inputs: OcrInputs, context: RunContext) -> Result:
        check(inputs, {})
        path = context.output_dir / "ocr_results.json"
        with disk_errors(), _ResultsFile(path, inputs.languages) as results:
            if inputs.image_path is not None:
                values = self._read_page(Path(inputs.image_path), results, context)
            else:
                values = self._read_frames(_frames_of(inputs, context), results, context)
        return Result(
            {"ocr_results_path": path, "ocr_results_minio_url": DownloadUrl(path)}
            | values
            | {"languages": inputs.languages, "device": self._device}
        )

    def _read_page(self, path: Path, results: _ResultsFile, context: RunContext) -> dict[str, Any]:
        try:
            picture = read_picture(path)
        except InvalidInput as error:
            raise InvalidInput(f"image_path: {error}", field="image_path") from error
        lines = self._pages.read(picture, context.check)
        results.add(OcrFrame(path, path.name, None), lines)
        context.report(1, 1, stage="ocr", unit="frames")
        return {"text": _text(lines), "lines": _told(lines)}

    def _read_frames(self, found: OcrFrames, results: _ResultsFile, context: RunContext) -> dict[str, Any]:
        """Raises InvalidInput where no picture can be read."""
        total, before = len(found.frames), _Before()
        context.report(0, total, stage="ocr", unit="frames")
        for number, frame in enumerate(found.frames, start=1):
            try:
                picture = read_picture(frame.path)
            except InvalidInput as error:
                results.skip(_Skipped(frame.name, str(error)))
            else:
                lines = before.lines_of(picture)
                if lines is None:
                    lines = self._frames.read(picture, context.check)
                before = _Before(picture, lines)
                results.add(frame, lines)
            context.report(number, total, stage="ocr", unit="frames")
        if not results.tally.num_frames:
            raise InvalidInput(
                f"{found.field}: none can be read: {results.skipped[0].reason}", field=found.field
            )
        return _counts(found, results)


@dataclass(frozen=True, slots=True)
class _Before:
    """The frame before: a picture that equals it in every pixel need not be read again."""

    picture: np.ndarray | None = None
    lines: list[TextLine] | None = None

    def lines_of(self, picture: np.ndarray) -> list[TextLine] | None:
        is_same = self.picture is not None and np.array_equal(self.picture, picture)
        return self.lines if is_same else None


class _ResultsFile(AbstractContextManager["_ResultsFile"]):
    """ocr_results.json, written frame by frame: languages, frames, skipped."""

    def __init__(self, path: Path, languages: list[str] | None) -> None:
        self.tally = _Tally()
        self.skipped: list[_Skipped] = []
        self._file = path.open("w", encoding="utf-8")
        self._file.write(f'{{"languages": {json.dumps(languages)},\n"frames": [')

    def add(self, frame: OcrFrame, lines: list[TextLine]) -> None:
        entry = {"file": frame.name, "time_s": frame.time_s, "text": _text(lines), "lines": _told(lines)}
        self._file.write(",\n" if self.tally.num_frames else "\n")
        self._file.write(json.dumps(entry, ensure_ascii=False))
        self.tally.num_frames += 1
        self.tally.num_text_frames += bool(lines)
        self.tally.num_lines += len(lines)

    def skip(self, skipped: _Skipped) -> None:
        self.skipped.append(skipped)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            told = [{"file": skipped.name, "reason": skipped.reason} for skipped in self.skipped]
            self._file.write(f'\n],\n"skipped": {json.dumps(told, ensure_ascii=False)}}}\n')


def check(inputs: OcrInputs, _media: Mapping[str, MediaInfo]) -> None:
    """Exactly one source, and a manifest only beside its folder."""
    has_manifest, has_folder = inputs.manifest_path is not None, inputs.multi_frames_path is not None
    given = [inputs.image_path is not None, inputs.keyframe_dir is not None, has_manifest or has_folder]
    if sum(given) != 1:
        what = "one of" if any(given) else "an input:"
        raise InvalidInput(f"give {what} {_SOURCES}", field="image_path")
    if has_manifest != has_folder:
        lacking = "multi_frames_path" if has_manifest else "manifest_path"
        raise InvalidInput(f"{lacking} is missing: give manifest_path and multi_frames_path", field=lacking)


def _frames_of(inputs: OcrInputs, context: RunContext) -> OcrFrames:
    if inputs.keyframe_dir is not None:
        return frames_of_folder(Path(inputs.keyframe_dir), "keyframe_dir", context.check)
    return frames_of_manifest(Path(str(inputs.manifest_path)), Path(str(inputs.multi_frames_path)))


def _text(lines: list[TextLine]) -> str:
    return "\n".join(line.text for line in lines)


def _told(lines: list[TextLine]) -> list[dict[str, Any]]:
    """Lines as callers see them; a box is four corners [x, y], clockwise from the top left of the text."""
    return [
        {
            "text": line.text,
            "confidence": round(line.confidence, 4),
            "box": line.quad.round().astype(int).tolist(),
        }
        for line in lines
    ]


def _counts(found: OcrFrames, results: _ResultsFile) -> dict[str, Any]:
    tally, num_skipped = results.tally, len(results.skipped) + found.num_others
    note = (
        f"{num_skipped} files were passed over: no pictures, or damaged; ocr_results.json lists the damaged"
    )
    return {
        "total_frames": tally.num_frames,
        "text_frames": tally.num_text_frames,
        "total_lines": tally.num_lines,
        "skipped_files": num_skipped,
        "notes": [note] if num_skipped else [],
    }


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="paddleocr.perform_ocr",
        title="The text of a picture, or of each frame of a folder",
        inputs=OcrInputs,
        engines=ocr_engines(TextEngine),
        check=check,
        run_timeout_s=6 * 3600.0,
    ),
)
