"""Kokoro-82M (StyleTTS 2 and ISTFTNet, hexgrad/Kokoro-82M, Apache-2.0) as exported for kokoro-onnx.

Two exports are known: inputs `tokens`, or `input_ids` with a whole number for the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from models.onnx_sessions import OnnxSession

RATE_HZ = 24_000
MAX_TOKENS = 500  # styles are given for up to 510
STYLE_SIZE = 256

_RUNS = {  # token number of the first sign of each run; the numbers between are unused
    **{1: ";:,.!?", 9: '—…"()“” \u0303ʣʥʦʨᵝ\uab67AI', 31: "O", 33: "Q", 35: "ST", 39: "W", 41: "Yᵊabcdef"},
    **{50: "hijklmnopqrstuvwxyzɑɐɒæ", 75: "βɔɕç", 80: "ɖðʤə", 85: "ɚɛɜ", 90: "ɟ", 92: "ɡ", 99: "ɥ"},
    **{101: "ɨɪʝ", 110: "ɯɰŋɳɲɴø", 118: "ɸθœ", 123: "ɹ", 125: "ɾɻ", 128: "ʁɽʂʃʈʧ", 135: "ʊʋ", 138: "ʌɣɤ"},
    **{142: "χʎ", 147: "ʒʔ", 156: "ˈˌː", 162: "ʰ", 164: "ʲ", 169: "↓", 171: "→↗↘", 177: "ᵻ"},
}
TOKENS: Mapping[str, int] = {
    sign: start + offset for start, signs in _RUNS.items() for offset, sign in enumerate(signs)
}
_WHOLE_TYPES = frozenset({"tensor(int32)", "tensor(int64)"})


class Kokoro:
    """The network and its voices: `styles` are (N, 256) each, one row for each number of tokens."""

    def __init__(self, session: OnnxSession, styles: Mapping[str, np.ndarray]) -> None:
        self._session = session
        self._tokens_name, self._style_name, self._speed_name = tuple(session.inputs)[:3]
        is_whole = session.inputs[self._speed_name] in _WHOLE_TYPES
        self._speed = np.ones(1, np.int32 if is_whole else np.float32)
        self.styles = {name: style.reshape(-1, STYLE_SIZE) for name, style in styles.items()}

    def speak(self, phonemes: str, voice: str, check: Callable[[], None]) -> np.ndarray:
        """(L,) float32 at 24 kHz. Phonemes beyond what the network takes at once are spoken in parts."""
        spoken = [self._spoken(part, voice, check) for part in parts(phonemes)]
        return np.concatenate(spoken) if spoken else np.zeros(0, np.float32)

    def _spoken(self, phonemes: str, voice: str, check: Callable[[], None]) -> np.ndarray:
        tokens = [TOKENS[sign] for sign in phonemes]
        style = self.styles[voice]
        feeds = {
            self._tokens_name: np.array([[0, *tokens, 0]], np.int64),
            self._style_name: style[min(len(tokens), len(style)) - 1][None].astype(np.float32),
            self._speed_name: self._speed,
        }
        return self._session.run(feeds, check).reshape(-1)


def parts(phonemes: str) -> list[str]:
    """The signs that Kokoro knows, in parts of at most MAX_TOKENS that end between words."""
    known = "".join(sign for sign in phonemes if sign in TOKENS).strip()
    found = []
    while len(known) > MAX_TOKENS:
        cut = known.rfind(" ", 1, MAX_TOKENS) + 1 or MAX_TOKENS
        found.append(known[:cut].strip())
        known = known[cut:]
    return [part for part in (*found, known) if part]


def load_styles(path: Path) -> dict[str, np.ndarray]:
    """The voices of an .npz file (also when it is named .bin). Raises ValueError for another file."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
