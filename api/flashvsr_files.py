"""Files that the `flashvsr` dialect makes on demand: the preview and the join of what was finished.

Blocking, for worker threads. Each is made once and kept with the task.
"""

from __future__ import annotations

import io
import re
import uuid
from pathlib import Path

import av
from PIL import Image

from cluster import keys
from cluster.held_folders import HeldFolder
from cluster.storage import ArtifactStore, Stored
from models import media
from models.engine import InvalidInput, PermanentFailure
from models.video_streams import concat_chunks

PREVIEW_QUALITY = 85
MAX_PREVIEW_PX = 1280  # longer side
_PART_NUMBER = re.compile(r"chunk-\d+")


def ensure_preview(storage: ArtifactStore, source_key: str, preview_key: str) -> None:
    """Store the first frame of a video as a JPEG. Raises ArtifactNotFound, InvalidInput."""
    with storage.open(source_key) as source, media.open_media(source) as container:
        stream = media.main_video(container)
        if stream is None:
            raise InvalidInput("the file has no video stream")
        image = _first_image(container, stream)
    image.thumbnail((MAX_PREVIEW_PX, MAX_PREVIEW_PX))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=PREVIEW_QUALITY)
    with storage.writer(preview_key) as writer:
        writer.write(content.getvalue())
        writer.commit()


def _first_image(container: object, stream: object) -> Image.Image:
    try:
        frame = next(container.decode(stream))  # type: ignore[attr-defined]  # PyAV has no types
    except (StopIteration, av.FFmpegError) as error:
        raise InvalidInput("no frame could be decoded") from error
    image: Image.Image = frame.to_image()
    rotation_deg = media.rotation_of(frame)
    return image.rotate(rotation_deg, expand=True) if rotation_deg else image


def join_finished_parts(
    storage: ArtifactStore, task_id: str, input_key: str, target_key: str, scratch: Path
) -> Stored | None:
    """Store the finished parts of a task as one video with its sound; None when there are none.

    Raises PermanentFailure when the parts do not fit together.
    """
    found = _parts_of_one_film([part.key for part in storage.list(keys.partial_prefix(task_id))])
    if not found:
        return None
    with HeldFolder(scratch, f"export-{uuid.uuid4().hex}") as folder:
        chunks = [_fetched(storage, key, folder.path / "parts") for key in found]
        sound = _fetched(storage, input_key, folder.path / "input") if input_key else None
        output = folder.path / "joined.mp4"
        try:
            concat_chunks(chunks, sound, output)
        except (av.FFmpegError, ValueError) as error:
            raise PermanentFailure(f"the finished parts could not be joined: {error}") from error
        return storage.put_file(target_key, output)


def _parts_of_one_film(found: list[str]) -> list[str]:
    """Those that fit together: attempts whose weights or input had changed leave parts of other films beside.

    A part is named chunk-{number}{what it is made of}.mp4; the film of the most parts is the one to have.
    """
    films: dict[str, list[str]] = {}
    for key in found:
        films.setdefault(_PART_NUMBER.sub("", key), []).append(key)
    return max(films.values(), key=len, default=[])


def _fetched(storage: ArtifactStore, key: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / key.rpartition("/")[2]
    storage.fetch(key, path)
    return path
