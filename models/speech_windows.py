"""Long speech in pieces: windows of a stream, and spans of a window, cut where nobody speaks.

Samples are (L,) float32 at RATE_HZ. A place is quiet where Silero VAD (the v6 network in the faster-whisper
wheel) hears no speech, and of such places where the sound is lowest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

RATE_HZ = 16000
_HOP = 512  # samples of one answer of the VAD
_SPEECH = 0.5  # the probability from which the VAD calls it speech
_LEAD_S = 2.5
_PAD_MS = 200  # kept around speech; times of words may be wrong by as much after silence
_SMOOTHED_HOPS = 9  # 0.29 s: shorter lulls lie inside words


def windows(
    blocks: Iterable[np.ndarray], *, window_s: float, search_s: float
) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, samples) of pieces of at most `window_s`, from blocks (1, L) of any length.

    Each but the last ends at the quietest place of its last `search_s`. At most one window and one block are
    held at a time.
    """
    size, start = round(window_s * RATE_HZ), 0
    kept = np.zeros(0, np.float32)
    for block in blocks:
        kept = np.concatenate((kept, block[0]))
        while len(kept) > size:
            tail = max(size // 2, size - round(search_s * RATE_HZ))
            cut = tail + quietest_place(activity(kept[tail:size]))
            yield start, kept[:cut]
            kept, start = kept[cut:], start + cut
    if len(kept):
        yield start, kept


def speech_spans(samples: np.ndarray, *, span_s: float) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The samples with zeros where nobody speaks, and the (start, stop) of spans that hold all speech.

    Speech parts where nobody speaks for 2 s (the default of the VAD), or where it outlasts a span; as many
    parts as fit are one span. A span begins 2.5 s before its speech where there is room: Whisper then hears
    where sentences begin, and gives each its times.
    """
    from faster_whisper.vad import VadOptions, get_speech_timestamps  # noqa: PLC0415 - onnxruntime loads with it

    options = VadOptions(max_speech_duration_s=span_s - _LEAD_S, speech_pad_ms=_PAD_MS)
    speech = np.zeros_like(samples)
    found: list[tuple[int, int]] = []
    for part in get_speech_timestamps(samples, options, sampling_rate=RATE_HZ):
        start, stop = part["start"], part["end"]
        speech[start:stop] = samples[start:stop]
        if found and stop - found[-1][0] <= span_s * RATE_HZ:
            found[-1] = (found[-1][0], stop)
        else:
            before = found[-1][1] if found else 0
            found.append((max(before, start - round(_LEAD_S * RATE_HZ)), stop))
    return speech, found


def quiet_spans(samples: np.ndarray, *, span_s: float) -> list[tuple[int, int]]:
    """(start, stop) of spans that follow each other, cut at quiet places; those of zeros are left out."""
    size, start = round(span_s * RATE_HZ), 0
    found: list[tuple[int, int]] = []
    levels = activity(samples) if len(samples) > size else np.zeros(0)
    while len(samples) - start > size:
        first, last = (start + size // 2) // _HOP, (start + size) // _HOP
        cut = first * _HOP + quietest_place(levels[first:last])
        found.append((start, cut))
        start = cut
    return [span for span in (*found, (start, len(samples))) if samples[slice(*span)].any()]


def spoken_s(samples: np.ndarray) -> float:
    """For how long somebody speaks."""
    hops = len(samples) // _HOP
    if not hops:
        return 0.0
    return float((_speech_probability(samples[: hops * _HOP]) >= _SPEECH).sum()) * _HOP / RATE_HZ


def quietest_place(levels: np.ndarray) -> int:
    """The sample in the middle of the lowest stretch of `levels`; of equal ones the last."""
    width = min(_SMOOTHED_HOPS, len(levels))
    smooth = np.convolve(levels, np.ones(width) / width, mode="valid").round(6)
    last = len(smooth) - 1 - int(np.argmin(smooth[::-1]))
    return last * _HOP + width * _HOP // 2


def activity(samples: np.ndarray, speech: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """How much goes on in each 512 samples: the probability of speech, 0..1, plus the level, 0..1."""
    hops = len(samples) // _HOP
    framed = samples[: hops * _HOP].reshape(hops, _HOP)
    level = np.sqrt(np.mean(np.square(framed, dtype=np.float64), axis=1))
    loudest = level.max(initial=0.0)
    heard = (speech or _speech_probability)(framed.reshape(-1))
    return heard + (level / loudest if loudest > 0 else level)


def _speech_probability(samples: np.ndarray) -> np.ndarray:
    from faster_whisper.vad import get_vad_model  # noqa: PLC0415 - onnxruntime loads with it

    heard = get_vad_model()(samples.copy())  # it writes zeros into the end of what it is given
    return np.asarray(heard, np.float64).reshape(-1)
