"""The embedded engine of talking portraits: the picture itself, warped to what the sound says.

A face's 468 points are found once; then every frame is one warp of the picture, so that what is not face
stays as it is. Drawing and encoding overlap; a frame's time and memory do not depend on those before it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from models.audio_streams import of_field
from models.disk import disk_errors
from models.engine import Engine, InvalidInput, Resources, Result, RunContext
from models.faces import Face, FaceFinder, load_face_finder
from models.ffmpeg_run import probe_input
from models.frame_pipeline import RunBehind
from models.pictures import read_picture
from models.portrait.limits import MAX_SIDE_PX, check_length
from models.portrait.mouth_track import FPS, MouthTrack, mouth_track
from models.portrait.performance import poses
from models.portrait.renderer import PortraitRenderer
from models.video_streams import ChunkWriter, TimedFrame, VideoForm, even, mux

if TYPE_CHECKING:
    from models.zoo.hallo2 import AnimateInputs

_CHUNK_FRAMES = 250
_MAX_KEPT_PICTURES = 256  # the faces of one take a few kB
_QUEUE_BYTES = 16 << 20  # frames that may wait for the encoder
_PROFILE_DEG = 25.0
_SMALL_FACE_PX = 64
_DRAWING = "2"  # changes with every change of what is drawn, so that no part of an older version is reused
_NO_FACE = (
    "image_path shows no face that can be found: use a photograph of one person who looks at the camera"
)


@dataclass(frozen=True)
class _Portrait:
    """The picture at the size of the video, and its faces, largest first."""

    picture: np.ndarray  # (H, W, 3) uint8
    faces: tuple[Face, ...]
    notes: tuple[str, ...]


class PortraitEngine(Engine):
    """Memory grows with the sound's features alone, see `speech_features`. Safe from several threads."""

    def load(self, resources: Resources) -> None:
        begin_s = time.monotonic()
        self._threads = resources.threads
        cv2.setNumThreads(resources.threads)
        self._faces = _FaceCache(load_face_finder(resources.weights, threads=resources.threads))
        self._load_s = time.monotonic() - begin_s

    def run(self, inputs: AnimateInputs, context: RunContext) -> Result:
        begin_s = time.monotonic()
        seconds = defaultdict[str, float](float, {"load": self._load_s})
        context.report(0, None, stage="listen", unit="frames")
        track = _heard(Path(inputs.audio_path), context)
        seconds["listen"] = time.monotonic() - begin_s
        portrait = self._portrait(inputs)
        seconds["face"] = time.monotonic() - begin_s - seconds["listen"]
        output = context.output_dir / "talking-portrait.mp4"
        with disk_errors():
            chunks = self._render(portrait, track, inputs.seed, context)
            rendered_s = time.monotonic()
            mux(chunks, Path(inputs.audio_path), output, check=context.check)
        ended_s = time.monotonic()
        seconds["render"] = rendered_s - begin_s - seconds["listen"] - seconds["face"]
        seconds["mux"], seconds["total"] = ended_s - rendered_s, ended_s - begin_s
        height_px, width_px = portrait.picture.shape[:2]
        return Result(
            {
                "video_path": output,
                "width": width_px,
                "height": height_px,
                "num_frames": len(track.opening),
                "fps": FPS,
                "duration": len(track.opening) / FPS,
                "seed": inputs.seed,
                "notes": [*portrait.notes, *_sound_notes(track)],
                "stage_seconds": {name: round(took_s, 4) for name, took_s in seconds.items()},
            }
        )

    def _portrait(self, inputs: AnimateInputs) -> _Portrait:
        """Raises InvalidInput for what is no picture of a face."""
        path = Path(inputs.image_path)
        with of_field("image_path"):
            picture = read_picture(path)
        shown = _reduced(picture)
        faces = self._faces.of(path, shown, use_cache=inputs.use_cache)
        if not faces:
            raise InvalidInput(_NO_FACE, field="image_path")
        return _Portrait(_evenly(shown), faces, tuple(_picture_notes(picture, shown, faces)))

    def _render(self, portrait: _Portrait, track: MouthTrack, seed: int, context: RunContext) -> list[Path]:
        """The files of all frames, in order; those that an earlier attempt finished are not made again."""
        total = len(track.opening)
        parts = _Parts(context, _key(portrait, track, seed))
        done = min(parts.resume() * _CHUNK_FRAMES, total)
        context.report(done, total, stage="render", unit="frames")
        with (
            self._writer(portrait.picture, parts, context) as writer,
            RunBehind[TimedFrame](
                lambda timed: writer.write(*timed), _queue_frames(portrait.picture)
            ) as encoder,
        ):
            for number, frame in enumerate(_frames(portrait, track, seed, done), start=done):
                encoder.put((frame, Fraction(number, FPS)))
                context.report(number + 1, total, stage="render", unit="frames")
        return parts.paths

    def _writer(self, picture: np.ndarray, parts: _Parts, context: RunContext) -> ChunkWriter:
        height_px, width_px = picture.shape[:2]
        return ChunkWriter(
            context.scratch_dir,
            VideoForm(width_px, height_px, Fraction(FPS), Fraction(1, FPS)),
            chunk_frames=_CHUNK_FRAMES,
            on_chunk=parts.keep,
            threads=max(1, self._threads // 2),
        )


class _FaceCache:
    """Faces by the content of their picture's file; safe from several threads, which wait for each other."""

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder
        self._kept: OrderedDict[str, tuple[Face, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: Path, shown: np.ndarray, *, use_cache: bool) -> tuple[Face, ...]:
        """The faces of a picture, largest first; `shown` is what the file at `path` always gives."""
        with path.open("rb") as file:
            key = hashlib.file_digest(file, "sha256").hexdigest()
        with self._lock:
            if use_cache and key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            faces = tuple(self._finder.find(shown))
            if use_cache:
                self._kept[key] = faces
                if len(self._kept) > _MAX_KEPT_PICTURES:
                    self._kept.popitem(last=False)
            return faces


class _Parts:
    """The finished files of one video, which outlive their attempt. `key` stands for all that they show."""

    def __init__(self, context: RunContext, key: str) -> None:
        self.paths: list[Path] = []
        self._context, self._key = context, key

    def resume(self) -> int:
        """How many parts an earlier attempt of the task left."""
        while (kept := self._context.committed(self._next_name())) is not None:
            self.paths.append(kept)
        return len(self.paths)

    def keep(self, chunk: Path) -> None:
        path = chunk.rename(chunk.with_name(self._next_name()))
        self._context.commit(path)
        self.paths.append(path)

    def _next_name(self) -> str:
        return f"portrait-{self._key}-{len(self.paths):06d}.mp4"


def _heard(path: Path, context: RunContext) -> MouthTrack:
    """Raises InvalidInput for what is no sound, too long, or empty."""
    check_length(probe_input(path, "audio_path").duration_s)
    with of_field("audio_path"):
        track = mouth_track(path, check=context.check)
    if not len(track.opening):
        raise InvalidInput("audio_path holds no sound: it has no sample", field="audio_path")
    check_length(len(track.opening) / FPS)
    return track


def _frames(portrait: _Portrait, track: MouthTrack, seed: int, first: int) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 frames from `first` on."""
    renderer = PortraitRenderer(portrait.picture, portrait.faces[0])
    for pose in islice(poses(track, seed=seed), first, None):
        yield renderer.draw(pose)


def _reduced(picture: np.ndarray) -> np.ndarray:
    """The picture with no side above MAX_SIDE_PX; what had to be reduced has even sides."""
    height_px, width_px = picture.shape[:2]
    scale = Fraction(MAX_SIDE_PX, max(height_px, width_px))
    if scale >= 1:
        return picture
    size = (even(width_px * scale), even(height_px * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _evenly(picture: np.ndarray) -> np.ndarray:
    """Without the last row or column where H.264 would have half a pixel of colour there."""
    height_px, width_px = picture.shape[:2]
    return np.ascontiguousarray(picture[: height_px // 2 * 2, : width_px // 2 * 2])


def _key(portrait: _Portrait, track: MouthTrack, seed: int) -> str:
    """What decides every pixel, as a short name."""
    digest = hashlib.sha256(f"{_DRAWING} {seed} {portrait.picture.shape}".encode())
    for values in (portrait.picture, portrait.faces[0].mesh_px, track.opening, track.spread, track.loudness):
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:16]


def _queue_frames(picture: np.ndarray) -> int:
    return max(1, min(32, _QUEUE_BYTES // picture.nbytes))


def _picture_notes(picture: np.ndarray, shown: np.ndarray, faces: tuple[Face, ...]) -> Iterator[str]:
    """What a caller may not expect of this picture, in sentences."""
    yield (
        "Made by the embedded engine, which warps the picture; it is not Hallo2, and guidance_scale and"
        " inference_steps change nothing."
    )
    face = faces[0]
    if len(faces) > 1:
        yield f"The picture shows {len(faces)} faces: the largest one speaks."
    if abs(face.yaw_deg) > _PROFILE_DEG:
        yield f"The face is turned aside by {abs(face.yaw_deg):.0f} degrees: a frontal one moves better."
    if face.size_px < _SMALL_FACE_PX:
        yield f"The face is only {face.size_px:.0f} pixels large: a closer picture shows more of its speech."
    if shown is not picture:
        (height_px, width_px), (new_height_px, new_width_px) = picture.shape[:2], shown.shape[:2]
        yield f"The picture was reduced from {width_px}x{height_px} to {new_width_px}x{new_height_px}."


def _sound_notes(track: MouthTrack) -> Iterator[str]:
    if not track.opening.any():
        yield "No speech was heard: the mouth stays closed."
