"""Which voice sounds most like somebody: CAM++ vectors of voices and of a recording."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from models.memory_errors import memory_errors
from models.networks.campplus import RATE_HZ, embed, load_campplus
from models.text_segments import reading_of
from models.voices import Voice

_CHECK_S = 0.1
_SAMPLE_TEXTS = {
    "en": "The morning train was late again, so we walked along the river and talked about the weather.",
    "zh": "早上的火车又晚点了，我们沿着河边走，聊了聊今天的天气。",
    "ja": "朝の電車がまた遅れたので、川沿いを歩きながら、天気の話をしました。",
}
# What `made` gives for the English and Mandarin of the embedded voices, as 192 signed bytes each: to speak
# the samples takes a CPU half a minute.
_KNOWN = {
    "joe": (
        "BPb7GyjE3icmHCYg7/LrJxYVDAD7FhDS9xzmBNn4AxsOMP8e9tcC5eoYGB3fGwIFAQkLDgPuAiIRCfYV4lG9NvDaEc//4BEK"
        "Be/t4gEN5DPsIR0LDfn6DwwnC/YQHPwRBv/3K0T3CRod6vAI3iEL9hAx6fAtDbjj8ek9CvEA4xf+ugUj8UUsCxgrDQLlNA7X"
        "6Q5F/f0QyvwEBczU8/4RB/X50v8Z1vIfBBjvBxD40P4dDx79Ghy8D0DcAyXoEOXf"
    ),
    "jf_alpha": (
        "EAgrGLsY6wr+2TYl3MrhEAgS3xAjCv0e8vfcDfHhIhQI9+bWFP8eI+P4JfrdCg709wYMve4G3hU8/xYL8eP2JzHr/u7/2/4Q"
        "3DLu6RAJ40ghDwwEI+7IIwQAEOsW+g0UADPpBQLvDtHT/EHN/g0Qzxfj1h447+0c6QwhEukcyvH2LuI0BQQELr0VBOHlBOEF"
        "Iw/K3ej8GwjyONX0/+wh9gsZDRTO8AwPBv1I/AENFiQFFv0s3yb7yPbo6eoKAwXz"
    ),
    "jf_gongitsune": (
        "qBom8ODu8yEj6Aj49hcRrRABDAUW7AID3g36+Qv5/Og4Eu8C4tzJAPVBBA++DAcwFgEd1AQTJu8C9ev3EPsfMyzJ7QXv1w83"
        "CwUECOEZDxLvLDMaSv4LEQQD7yn/Kg72CdsYCwUhA+sJKAr/P+cMFiom+Ss+A9P42PL8A/ohzAYMBygdFQH76hDh5RPsJtIQ"
        "8BPf7w0gDOUY9rzQ/CDuKA8H7RX07wkh2wEOAxUYE+0rFsAawvX69g33LA78Mefn"
    ),
    "jf_nezumi": (
        "vBgtAM/xCj4I0A7y7eMQ0vkK9fkz8RkR+xP+8fL2A+0bIv/w4tjn8N8jEiHH/fkVAAgi6hkPPQgI9/cCC+8oJxbN6f3o3gE3"
        "BDn37/Y0AB4VQjgTSQviK+0d7zHoCfoOHfkX6RkVDPn+IAIAOg0PAhYC8ichDNbpze0Q2fMvyAEAGCgtPv32EAPP/hQSItES"
        "7/jd+e0HHO4W48Dg9ArpDhgx7Rb20vgR+BkgDTQbC/ccJN01w+P46Q8GE/4ODOn7"
    ),
    "jf_tebukuro": (
        "whg22NULDk4K1wj20tsFzwoZ8PpMBR409v0FBgLcBeQKHd4O4ssRFcwcCzLOAwn3AhEf6g4cNvsbAAAMGeweKh+47fn249E3"
        "9SoP+wsr+CQGNyUIOPHzJO0b+hIVIg4bEgUK7S73Ef4ZHxX1ERkC9goC7Cg0FObw2vQOAdYdwiP/CAUEJQYKDw7S/AAKH8cO"
        "5wnF8uvvFu0AALcA4QXvBhkh/hnh6O8U5SYa/kX19fIOB+I24/764Bv7Ew4PHwTl"
    ),
    "jm_kumo": (
        "/h07BMr3Ag792A7W1vcgAwPNBAY1Dirx9AjQD8z45PL1GMTi++8KEBIuDBPw1wQJAgcWGQMhF/4O++vxFe8QPiXjA+z1BwMR"
        "CfUdLAT/GwoHQOAaCvwFEckDKCjv/PcWAf0SCzkRGPUKCjbtFx0e7gYQFxb7Otgwyt/6AeQQ0wf3yz4jFP8X7v4N8xIJZRHx"
        "0D0B8wTxGvoAGs/ABPj4IgUT9v8E/DIB7/wZDyYH6v//GvwM0Astvx8EB+vPN0LO"
    ),
}


class VoicePrints:
    """How voices sound, as CAM++ vectors of length 1; a voice that is not known speaks a sample once."""

    def __init__(self, campplus: Path, device: str) -> None:
        self._prints = {name: _decoded(text) for name, text in _KNOWN.items()}
        self._network = load_campplus(campplus).to(device)
        self._lock = threading.Lock()

    def nearest(
        self, prompt: np.ndarray, voices: Sequence[Voice], check: Callable[[], None]
    ) -> tuple[Voice, float]:
        """The voice most like `prompt`, (L,) float32 at 16 kHz, and the cosine of their vectors.

        Calls from several threads are safe; one that waits for another to make a print can be stopped. Raises
        OutOfMemory.
        """
        with memory_errors("the print of a voice"):
            wanted = embed(self._network, prompt)
            found = [(voice, float(wanted @ self._print_of(voice, check))) for voice in voices]
        return max(found, key=lambda pair: pair[1])

    def _print_of(self, voice: Voice, check: Callable[[], None]) -> np.ndarray:
        while not self._lock.acquire(timeout=_CHECK_S):
            check()
        try:
            if voice.name not in self._prints:
                self._prints[voice.name] = self.made(voice, check)
            return self._prints[voice.name]
        finally:
            self._lock.release()

    def made(self, voice: Voice, check: Callable[[], None]) -> np.ndarray:
        """The print, (192,), of what a voice says in its languages."""
        prints = []
        for language in voice.languages:
            text = _SAMPLE_TEXTS[language]
            said = voice.speak(text, reading_of(text, language), check)
            at_print_rate = resample_poly(said, RATE_HZ, voice.rate_hz).astype(np.float32)
            prints.append(embed(self._network, at_print_rate))
        mean = np.mean(prints, axis=0)
        return mean / np.linalg.norm(mean)


def _decoded(text: str) -> np.ndarray:
    print_ = np.frombuffer(base64.b64decode(text), np.int8).astype(np.float32)  # (192,)
    return print_ / np.linalg.norm(print_)
