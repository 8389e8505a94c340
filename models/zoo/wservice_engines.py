"""Who corrects texts: the operator's chat server, or the rules that need nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from models.engine import Engine, EngineKind, EngineSpec, Resources, engine_label
from models.subtitle_correction import NO_PROVIDER, RULES_PROVIDER, Correction

if TYPE_CHECKING:
    from models.chat import Chat

CHAT_ENDPOINT = "chat"
_RULES_VERSION = "1"
_STAND_INS = {
    RULES_PROVIDER: engine_label(RULES_PROVIDER, EngineKind.EMBEDDED, _RULES_VERSION),
    NO_PROVIDER: engine_label(NO_PROVIDER, EngineKind.EMBEDDED, ""),
}


class CorrectingEngine(Engine):
    """Corrects by `chat` once a server is loaded; without one, by rules."""

    chat: Chat | None = None

    def load(self, resources: Resources) -> None:
        endpoint = resources.endpoints.get(CHAT_ENDPOINT)
        if endpoint is None:
            return
        from models.chat import Chat

        self.chat = Chat(endpoint.url, endpoint.model, endpoint.api_key)

    @staticmethod
    def label_of(correction: Correction) -> dict[str, str] | None:
        """Who corrected where it was not the chat server: callers may ask for rules, or for nothing."""
        return _STAND_INS.get(correction.provider)


def correcting_engines(make: Callable[[], CorrectingEngine]) -> tuple[EngineSpec, ...]:
    """Both engines of a task; the licence is that of the client, a server's model has its own."""
    return (
        EngineSpec(
            name="chat",
            kind=EngineKind.FULL,
            make=make,
            version="OpenAI-compatible chat completions",
            packages=("openai",),
            endpoint=CHAT_ENDPOINT,
        ),
        EngineSpec(name=RULES_PROVIDER, kind=EngineKind.EMBEDDED, make=make, version=_RULES_VERSION),
    )
