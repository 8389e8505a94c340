"""Text in pictures by the PP-OCR networks: where it stands, and what it says.

RapidOCR runs them by onnxruntime. Every model file is named by path, so that it downloads nothing.
Pictures are (H, W, 3) uint8 RGB. A quad is (4, 2) float64, x and y of the corners in pixels, clockwise from
the top left of the text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.engine import EngineKind, EngineSpec, ModelNotReady, OutOfMemory, PermanentFailure, Resources
from models.frame_images import Box
from models.text_rows import row_groups
from models.weights import ModelFolder, WeightFile

FULL_FOLDER = ModelFolder("paddleocr", ("det.onnx", "rec.onnx"))
_KEYS_NAME = "rec_keys.txt"
_MIN_CONFIDENCE = 0.5
_SURE = 0.9  # a line that is read upside down stays below: 0.66 to 0.73 measured on print
_CHECK_S = 0.1
_LEVEL_SLANT = 0.1  # rise over run up to which a quad is a line that may be joined with its neighbour
_SURPLUS = 0.12  # measured on subtitles of 28 to 56 px: 8 to 13 px of a box that is 63 px high
_OUT_OF_MEMORY_TEXTS = ("Failed to allocate memory", "out of memory", "bad_alloc")


def _wheel_file(name: str, size_bytes: int, sha256: str) -> WeightFile:
    return WeightFile(
        f"rapidocr/models/{name}", sha256, size_bytes, "rapidocr", "3.10.0", models_subdir="rapidocr"
    )


DET_FILE = _wheel_file(
    "PP-OCRv6_det_small.onnx", 9929594, "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
)
REC_FILE = _wheel_file(
    "PP-OCRv6_rec_small.onnx", 21234383, "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"
)


@dataclass(frozen=True, slots=True)
class OcrFiles:
    """The networks: `det` finds text, `rec` reads a line.

    `keys` lists the characters of `rec`, one a line, where the network does not carry them itself.
    """

    det: Path
    rec: Path
    keys: Path | None = None


def embedded_files(resources: Resources) -> OcrFiles:
    """PP-OCRv6 small, out of the rapidocr wheel."""
    weights = resources.weights
    return OcrFiles(weights[DET_FILE.path], weights[REC_FILE.path])


def full_files(resources: Resources) -> OcrFiles:
    """What the operator put into the models directory. Raises ModelNotReady without a list of characters."""
    folder = resources.weights[FULL_FOLDER.path]
    keys, rec = folder / _KEYS_NAME, folder / "rec.onnx"
    if not keys.is_file() and not _names_characters(rec):
        raise ModelNotReady(
            f"weights are not installed: put {_KEYS_NAME} into MEDIARAY_MODELS_DIR/{FULL_FOLDER.path}"
            f" ({rec.name} does not name its characters)"
        )
    return OcrFiles(folder / "det.onnx", rec, keys if keys.is_file() else None)


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line of text, what the network gives for it (0..1), and its quad."""

    text: str
    confidence: float
    quad: np.ndarray


class TextFinder:
    """Finds lines of text. A picture is looked at reduced to `side_px` on its longer side, if it is longer.

    Calls from several threads are safe.
    """

    def __init__(self, files: OcrFiles, resources: Resources, *, side_px: int) -> None:
        params = {"Det.model_path": str(files.det), "Det.limit_type": "max", "Det.limit_side_len": side_px}
        with _unusable(files.det):
            self._network = _rapid_ocr(params | _only("det"), resources)
            self.find(np.zeros((64, 64, 3), np.uint8), _no_check)  # loads the network
        self._network.text_det.session = _StoppableSession(self._network.text_det.session)

    def find(self, picture: np.ndarray, check: Callable[[], None]) -> list[np.ndarray]:
        """The quads, in reading order; pieces of one level line are joined. `check`: as in `TextReader`."""
        found = _told(lambda: self._network(_bgr(picture)), check)
        boxes = getattr(found, "boxes", None)
        return [] if boxes is None else _joined([np.asarray(box, np.float64) for box in boxes])

    def find_boxes(self, picture: np.ndarray, check: Callable[[], None]) -> list[Box]:
        """Upright boxes that lie close around the ink of what `find` finds."""
        return [_tight(_box_around(quad)) for quad in self.find(picture, check)]


class TextReader:
    """Finds and reads lines of text, one at a time. Calls from several threads are safe.

    With `is_turning`, a line that reads badly is also read upside down, and the surer reading counts. (The
    classifier that comes with the networks takes long upright lines of print for turned ones.)
    """

    def __init__(
        self, files: OcrFiles, resources: Resources, finder: TextFinder, *, is_turning: bool = False
    ) -> None:
        self._finder, self._is_turning = finder, is_turning
        params = {"Rec.model_path": str(files.rec)}
        if files.keys is not None:
            params["Rec.rec_keys_path"] = str(files.keys)
        with _unusable(files.rec):
            self._network = _rapid_ocr(params | _only("rec"), resources)
            self._read_line(np.zeros((48, 320, 3), np.uint8), _no_check)  # loads the network
        self._refuse_other_characters(files)
        self._network.text_rec.session = _StoppableSession(self._network.text_rec.session)

    def read(self, picture: np.ndarray, check: Callable[[], None]) -> list[TextLine]:
        """The lines that the network is sure enough of, from the bottom up where most are upside down.

        `check` is called before each line and every 0.1 s that a network runs; what it raises ends the run.
        """
        check()
        quads = self._finder.find(picture, check)
        found = [(quad, *self._reading(_cut(picture, quad), check)) for quad in quads]
        kept = [
            (TextLine(text, confidence, np.roll(quad, 2, axis=0) if is_turned else quad), is_turned)
            for quad, text, confidence, is_turned in found
            if text and confidence >= _MIN_CONFIDENCE
        ]
        lines = [line for line, _ in kept]
        return lines[::-1] if sum(is_turned for _, is_turned in kept) > len(kept) / 2 else lines

    def _reading(self, line: np.ndarray, check: Callable[[], None]) -> tuple[str, float, bool]:
        """What a line says, how sure that is, and whether it stands upside down."""
        check()
        text, confidence = self._read_line(line, check)
        if not self._is_turning or confidence >= _SURE:
            return text, confidence, False
        turned_text, turned_confidence = self._read_line(line[::-1, ::-1], check)
        if turned_confidence > confidence:
            return turned_text, turned_confidence, True
        return text, confidence, False

    def _refuse_other_characters(self, files: OcrFiles) -> None:
        """A list of another length would name every character wrongly. Raises ModelNotReady."""
        recogniser = self._network.text_rec
        scores = recogniser.session(np.zeros((1, 3, 48, 320), np.float32))  # (1, steps, characters)
        named, known = len(recogniser.postprocess_op.character), scores.shape[2]
        if named != known:
            text = f"{files.rec.name} tells {known} characters apart, its list has {named}"
            raise ModelNotReady(
                f"{text}: put its own {_KEYS_NAME} into MEDIARAY_MODELS_DIR/{FULL_FOLDER.path}"
            )

    def _read_line(self, line: np.ndarray, check: Callable[[], None]) -> tuple[str, float]:
        told = _told(lambda: self._network(_bgr(line)), check)
        if not told.txts:
            return "", 0.0
        return str(told.txts[0]).strip(), float(told.scores[0])


def device_of(resources: Resources) -> str:
    """Where the networks run: on the GPU only if the installed onnxruntime can."""
    from onnxruntime import get_available_providers  # noqa: PLC0415 - with RapidOCR, when an engine loads

    can = "CUDAExecutionProvider" in get_available_providers()
    return "cuda" if can and resources.device.startswith("cuda") else "cpu"


def ocr_engines(make: Callable[[Callable[[Resources], OcrFiles]], Any]) -> tuple[EngineSpec, ...]:
    """The engines of a model: the operator's networks, else those of the wheel."""
    return (
        EngineSpec(
            name="pp-ocr",
            kind=EngineKind.FULL,
            make=lambda: make(full_files),
            version="PP-OCR, RapidOCR 3.10.0",
            folders=(FULL_FOLDER,),
        ),
        EngineSpec(
            name="pp-ocr-small",
            kind=EngineKind.EMBEDDED,
            make=lambda: make(embedded_files),
            version="PP-OCRv6 small, rapidocr 3.10.0",
            weights=(DET_FILE, REC_FILE),
        ),
    )


def _only(*steps: str) -> dict[str, Any]:
    """Which networks an instance runs. A flag of a call would stay with the instance."""
    return {f"Global.use_{step}": step in steps for step in ("det", "cls", "rec")}


def _rapid_ocr(params: dict[str, Any], resources: Resources) -> Any:
    from rapidocr import RapidOCR  # noqa: PLC0415 - OpenCV and onnxruntime load with it

    threads = max(1, min(resources.threads, os.cpu_count() or 1))  # it ignores more than there are
    runtime = {
        "intra_op_num_threads": threads,
        "inter_op_num_threads": 1,
        "use_cuda": device_of(resources) == "cuda",
    }
    quiet = {"Global.log_level": "critical", "Global.use_preprocess_img": False}
    named = {f"EngineConfig.onnxruntime.{name}": value for name, value in runtime.items()}
    return RapidOCR(params=quiet | named | params)


def _no_check() -> None:
    """Nobody waits while an engine loads."""


_WAITING: ContextVar[Callable[[], None]] = ContextVar("_WAITING", default=_no_check)
"""The `check` of the call that runs in this thread: RapidOCR hands nothing on to its networks."""


class _StoppableSession:
    """A network inside RapidOCR whose run can be stopped between any two of its layers."""

    def __init__(self, network: Any) -> None:
        self.session = network.session
        (self._input,) = (given.name for given in self.session.get_inputs())

    def __call__(self, content: np.ndarray) -> np.ndarray:
        from onnxruntime import RunOptions  # noqa: PLC0415 - with RapidOCR, when an engine loads

        options, check = RunOptions(), _WAITING.get()
        with ThreadPoolExecutor(1, thread_name_prefix="ocr") as pool:
            run = pool.submit(self.session.run, None, {self._input: content}, options)
            try:
                while wait([run], timeout=_CHECK_S).not_done:
                    check()
            finally:
                options.terminate = True
        return np.asarray(run.result()[0])


def _told(run: Callable[[], Any], check: Callable[[], None]) -> Any:
    """What a network answers; its failures are told in the words of `models.errors`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as ort  # noqa: PLC0415 - as above
    from rapidocr.inference_engine.onnxruntime import ONNXRuntimeError  # noqa: PLC0415 - as above

    failures = (ort.Fail, ort.RuntimeException, ort.EPFail, ort.InvalidArgument, ONNXRuntimeError)
    token = _WAITING.set(check)
    try:
        return run()
    except (*failures, MemoryError) as error:
        reason = str(error).strip().rpartition("\n")[2]
        if isinstance(error, MemoryError) or any(text in reason for text in _OUT_OF_MEMORY_TEXTS):
            raise OutOfMemory(reason) from error
        raise PermanentFailure(f"the OCR network failed: {reason}") from error
    finally:
        _WAITING.reset(token)


@contextmanager
def _unusable(network: Path) -> Iterator[None]:
    """Turns what onnxruntime says of a file that it cannot load into ModelNotReady."""
    from onnxruntime.capi import onnxruntime_pybind11_state as ort  # noqa: PLC0415 - as above

    try:
        yield
    except (
        ort.Fail,
        ort.InvalidArgument,
        ort.InvalidGraph,
        ort.InvalidProtobuf,
        ort.NotImplemented,
    ) as error:
        reason = str(error).rpartition("failed:")[2].strip()
        raise ModelNotReady(f"{network.name} is no network that can be loaded: {reason}") from error


def _names_characters(rec: Path) -> bool:
    """Whether a recognition network carries its list of characters."""
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions  # noqa: PLC0415 - as above

    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    with _unusable(rec):
        session = InferenceSession(str(rec), options, providers=["CPUExecutionProvider"])
    return "character" in session.get_modelmeta().custom_metadata_map


def _joined(quads: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The quads with the pieces of level lines joined: networks part a line at its wide punctuation."""
    level = [number for number, quad in enumerate(quads) if _is_level(quad)]
    slanted = sorted(set(range(len(quads))) - set(level))
    rows = [[level[index] for index in row] for row in row_groups([_box_around(quads[n]) for n in level])]
    rows += [[number] for number in slanted]
    return [_around_all([quads[number] for number in row]) for row in sorted(rows, key=min)]


def _is_level(quad: np.ndarray) -> bool:
    run, rise = quad[1] - quad[0]
    return bool(abs(rise) <= _LEVEL_SLANT * run)


def _around_all(quads: Sequence[np.ndarray]) -> np.ndarray:
    """The quad itself where it is the only one, else the upright one around them."""
    if len(quads) == 1:
        return quads[0]
    (x1, y1), (x2, y2) = np.concatenate(quads).min(axis=0), np.concatenate(quads).max(axis=0)
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _box_around(quad: np.ndarray) -> Box:
    (x1, y1), (x2, y2) = quad.min(axis=0), quad.max(axis=0)
    return Box(int(x1), int(y1), int(np.ceil(x2)), int(np.ceil(y2)))


def _tight(box: Box) -> Box:
    """Less what the network draws beyond the ink, which is a part of the height of the line."""
    surplus = min(round(_SURPLUS * (box.y2 - box.y1)), (box.x2 - box.x1) // 2)
    return Box(box.x1 + surplus, box.y1 + surplus, box.x2 - surplus, box.y2 - surplus)


def _bgr(picture: np.ndarray) -> np.ndarray:
    """The channels in the order in which RapidOCR takes arrays."""
    return np.ascontiguousarray(picture[:, :, ::-1])


def _cut(picture: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """The part of the picture inside a quad, made level; text that runs down is laid on its side."""
    from rapidocr.utils.process_img import get_rotate_crop_image  # noqa: PLC0415 - as above

    return np.asarray(get_rotate_crop_image(picture, quad.astype(np.float32)))
