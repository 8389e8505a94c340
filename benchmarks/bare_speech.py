"""The speech engines without a server: the bare library where there is one, else the bare engine call.

`python -m benchmarks.bare_speech SERVICE SOUND` runs once to warm up, then once for each line of its stdin,
which it answers with the seconds. Each runs in a process of its own, on one thread like
the server's replicas.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.catalog import CATALOG
from models.engine import Engine, RunContext
from models.site import Site, ready_engine, resources_of

PORTRAIT = Path(__file__).parents[1] / "samples" / "portrait.png"
TEXT = (
    "The quick brown fox jumps over the lazy dog while the band plays on. A film of seven minutes was made in"
    " a small room with two lamps and one camera. Nobody had asked for it, and everybody watched it twice."
    " When the lights came on again, there was a long silence, and then a longer applause. The people who had"
    " made it stood at the back, near the door, and did not know where to look. Outside it had begun to rain,"
    " and the last train was about to leave without them. They ran, they laughed, and they missed it."
)


class BareContext(RunContext):
    """An attempt that nobody watches."""

    def __init__(self, folder: Path) -> None:
        self.output_dir, self.scratch_dir = folder / "output", folder / "scratch"
        self.output_dir.mkdir()
        self.scratch_dir.mkdir()
        self.task_id, self.threads, self.device = "bare", 1, "cpu"
        self.logger = logging.getLogger("bare")

    def report(self, done: float, total: float | None = None, *, stage: str = "", unit: str = "") -> None:
        """Nobody watches."""

    def check(self) -> None:
        """Nobody cancels."""

    def commit(self, path: Path) -> None:
        """Nobody resumes."""


def _embedded(task: str) -> Engine:
    site = Site()
    spec = ready_engine(CATALOG[task], site)
    engine = spec.make()
    engine.load(resources_of(spec, site, device="cpu", threads=1))
    return engine


def _engine_call(task: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    engine, checked = _embedded(task), CATALOG[task].inputs.model_validate(inputs)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            engine.run(checked, BareContext(Path(folder)))

    return run


def transcribe(sound: Path) -> Callable[[], Any]:
    """faster-whisper as its README calls it, with what our task asks of it."""
    from faster_whisper import WhisperModel

    from models.whisper_sizes import WheelBase

    spec = ready_engine(CATALOG["faster_whisper.transcribe_audio"], Site())
    with WheelBase(resources_of(spec, Site(), device="cpu", threads=1)).folder("base") as folder:
        model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)
    return lambda: list(model.transcribe(str(sound), word_timestamps=True, vad_filter=True)[0])


def separate(sound: Path) -> Callable[[], Any]:
    """The network window after window, on the whole sound in memory; both stems written as FLAC."""
    import torch

    from models.audio_formats import AudioFormat
    from models.audio_streams import AudioWriter, read_audio
    from models.networks.spleeter import BLOCK_SAMPLES, Spleeter
    from models.weights import locate
    from models.zoo.audio_separator import SPLEETER_WEIGHTS

    torch.set_num_threads(1)
    network = Spleeter.load(*(locate(weight) for weight in SPLEETER_WEIGHTS), torch.device("cpu"))

    def run() -> None:
        samples = read_audio(sound, rate_hz=44100, channels=2)  # (2, L)
        starts = range(0, samples.shape[1], BLOCK_SAMPLES)
        windows = [network.vocals(samples[:, at : at + BLOCK_SAMPLES], lambda: None) for at in starts]
        vocals = np.concatenate(windows, axis=1)
        with tempfile.TemporaryDirectory() as folder:
            for name, stem in (("vocals", vocals), ("rest", samples - vocals)):
                path = Path(folder) / f"{name}.flac"
                with AudioWriter(path, AudioFormat.FLAC, rate_hz=44100, channels=2) as writer:
                    writer.write(stem)

    return run


def diarize(sound: Path) -> Callable[[], Any]:
    return _engine_call("pyannote_audio.diarize_speakers", {"audio_path": str(sound)})


def speak(_sound: Path) -> Callable[[], Any]:
    return _engine_call("indextts.generate_speech", {"text": TEXT})


def animate(sound: Path) -> Callable[[], Any]:
    return _engine_call(
        "hallo2.animate_portrait", {"image_path": str(PORTRAIT), "audio_path": str(sound), "use_cache": False}
    )


BARE: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "faster_whisper": transcribe,
    "audio_separator": separate,
    "pyannote_audio": diarize,
    "indextts": speak,
    "hallo2": animate,
}


def main() -> None:
    run = BARE[sys.argv[1]](Path(sys.argv[2]))
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        started_s = time.perf_counter()
        run()
        print(json.dumps({"seconds": time.perf_counter() - started_s}), flush=True)


if __name__ == "__main__":
    main()
