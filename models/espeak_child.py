"""The program that reads English with espeak-ng, for `models/espeak.py`: JSON lines in, JSON lines out.

A process of its own, and never imported, because espeak-ng is GPL-3: loaded into the server, it would make
the whole of it a work under that licence. Arguments: the shared library and its data folder. A line
`{"voice": "en-us", "text": …}` is answered by the clauses espeak finds, each with how far it had read when
the clause was done (in characters, one beyond its end) and its IPA. Ends with its stdin.
"""

from __future__ import annotations

import ctypes
import json
import sys

_NO_PLAYBACK = 2  # AUDIO_OUTPUT_SYNCHRONOUS: nothing is spoken anyway
_UTF8 = 1
_IPA = 2


def _opened(library: str, data: str) -> ctypes.CDLL:
    espeak = ctypes.CDLL(library)
    espeak.espeak_TextToPhonemes.restype = ctypes.c_char_p
    espeak.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
    if espeak.espeak_Initialize(_NO_PLAYBACK, 0, data.encode(), 0) < 0:
        sys.exit(f"espeak-ng does not start with {data}")
    return espeak


def _clauses(espeak: ctypes.CDLL, text: str) -> list[tuple[int, str]]:
    raw = text.encode("utf-8", "ignore")
    buffer = ctypes.create_string_buffer(raw)
    start = ctypes.addressof(buffer)
    at = ctypes.c_void_p(start)
    found = []
    while at.value is not None:
        ipa = espeak.espeak_TextToPhonemes(ctypes.byref(at), _UTF8, _IPA).decode("utf-8")
        read = len(raw) if at.value is None else at.value - start
        found.append((len(raw[:read].decode("utf-8", "ignore")), ipa))
    return found


def _serve(espeak: ctypes.CDLL) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if espeak.espeak_SetVoiceByName(request["voice"].encode()) != 0:
            sys.exit(f"espeak-ng has no voice {request['voice']}")
        print(json.dumps(_clauses(espeak, request["text"])), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    _serve(_opened(*sys.argv[1:3]))
