"""The texts of cues, corrected by whom caller and operator chose: what two tasks of wservice share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.engine import RunContext
from models.subtitle_edits import BatchSize, ChatCorrector, Tally
from models.subtitle_rules import apply_rules

if TYPE_CHECKING:
    from models.chat import Chat

RULES_PROVIDER = "rules"
NO_PROVIDER = "none"


@dataclass(frozen=True, slots=True)
class Correction:
    """As many texts as were given, in their order; `provider` is who really answered."""

    texts: tuple[str, ...]
    provider: str
    tally: Tally
    rules: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def num_changed(self, before: Sequence[str]) -> int:
        return sum(old != new for old, new in zip(before, self.texts, strict=True))


def correct(
    texts: Sequence[str], language: str, context: RunContext, chat: Chat | None, size: BatchSize
) -> Correction:
    """By the chat server, or by the rules where `chat` is None."""
    if chat is None:
        return _by_rules(texts, language, context)
    corrector = ChatCorrector(
        lambda messages, seed: chat.ask(messages, seed=seed, check=context.check), size, language
    )

    def on_done(done: int) -> None:
        context.report(done, len(texts), stage="correct", unit="cues")

    on_done(0)
    changed = corrector.corrected(texts, on_done)
    return Correction(changed, f"chat: {chat.model}", corrector.tally, notes=_chat_notes(corrector.tally))


def _by_rules(texts: Sequence[str], language: str, context: RunContext) -> Correction:
    ruled = apply_rules(texts, language, context.check)
    context.report(len(texts), len(texts), stage="correct", unit="cues")
    num_changed = sum(old != new for old, new in zip(texts, ruled.texts, strict=True))
    tally = Tally(proposed=num_changed, batches=1 if texts else 0)
    return Correction(ruled.texts, RULES_PROVIDER, tally, ruled.counts, _rules_notes(ruled.counts))


def _rules_notes(counts: Mapping[str, int]) -> tuple[str, ...]:
    too_long = counts.get("too_long_for_rules", 0)
    return (f"{too_long} texts are too long for subtitles and stay as they are",) if too_long else ()


def _chat_notes(tally: Tally) -> tuple[str, ...]:
    failed, refused = tally.failed_batches, tally.refused
    told = {
        f"{failed} of {tally.batches} batches keep their texts: the answers to them were unusable": failed,
        f"{refused} of {tally.proposed} edits were refused: they are no corrections of their cue": refused,
    }
    return tuple(note for note, applies in told.items() if applies)


def provider_note(wanted: str | None, chat: Chat | None) -> tuple[str, ...]:
    """Why another provider answered than the one that was asked for."""
    if wanted is None or wanted == RULES_PROVIDER:
        return ()
    if chat is None:
        return (f"no chat server is set (MEDIARAY_CHAT_URL): rules corrected the texts, not {wanted}",)
    return (f"the chat server of this installation answered, whatever it serves as {wanted}",)


def chosen(wanted: str | None, chat: Chat | None) -> Chat | None:
    """Rules where the caller asks for them, else what the operator set."""
    return None if wanted == RULES_PROVIDER else chat
