"""Stage 0: the tokenizer and the text encoder, which learns to tell from a caption what the scene holds.

Trained by itself on texts alone, the encoder costs minutes; the transformer then starts from features in
which colours, shapes and motions are already told apart.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from training.shapes.captions import caption
from training.shapes.optimizer import optimizers, rate_share, set_rates
from training.shapes.scenes import BACKGROUNDS, COLORS, MOTIONS, RADIUS_PX, SHAPES, Scene, random_scene
from training.shapes.words import LANGUAGES

MAX_TOKENS = 48
TEXT_DIM = 128
_VOCABULARY = 900
_CORPUS = 20_000
_SPECIAL = ("<pad>", "</s>", "<unk>")
_SLOTS: dict[str, tuple[str, ...]] = {
    "color": ("", *COLORS),
    "shape": ("", *SHAPES),
    "motion": ("", *MOTIONS),
    "size": ("", *RADIUS_PX),
}
_NUM_THINGS = 2
_PAIR_SHARE = 0.5  # which of two things a word belongs to is the hard part
_MUON_RATE, _ADAM_RATE = 0.01, 3e-3


def random_caption(rng: np.random.Generator, *, pair_share: float = 0.3) -> tuple[Scene, str, str]:
    """A scene, a caption of it, and the background that the caption tells ("" where it does not)."""
    scene = random_scene(rng, pair_share=pair_share)
    told = caption(scene, str(rng.choice(list(LANGUAGES))), rng)
    return scene, told.text, told.background


def new_tokenizer(rng: np.random.Generator) -> PreTrainedTokenizerFast:
    """Pieces of lower-case words, and single Chinese characters."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Split(Regex(r"[\u2e80-\u9fff]|[.,;:!?。、]"), "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=list(_SPECIAL), show_progress=False)
    tokenizer.train_from_iterator((random_caption(rng)[1] for _ in range(_CORPUS)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
    )


def new_encoder(tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_DIM,
            d_kv=32,
            d_ff=256,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,  # captions never repeat
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def embedded(
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    *,
    is_padded_to_longest: bool = False,
) -> Tensor:
    """(B, 48, 128) with zeros behind the last token, as WanPipeline makes it; or (B, longest, 128)."""
    padding = "longest" if is_padded_to_longest else "max_length"
    tokens = tokenizer(texts, padding=padding, max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    states = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return states * tokens.attention_mask[..., None]


class SceneReader(nn.Module):
    """Tells colour, shape, motion and size of two things, and the background, from embeddings."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [len(values) for values in _SLOTS.values() for _ in range(_NUM_THINGS)] + [
            len(BACKGROUNDS) + 1
        ]
        self.queries = nn.Parameter(torch.randn(len(sizes), TEXT_DIM) * 0.05)
        self.heads = nn.ModuleList(nn.Linear(TEXT_DIM, size) for size in sizes)

    def forward(self, states: Tensor) -> list[Tensor]:
        """(B, L, 128) to the logits of each slot."""
        is_empty = (states == 0).all(dim=-1)  # (B, L)
        scores = torch.einsum("sd,bld->bsl", self.queries, states).masked_fill(is_empty[:, None], -1e4)
        read = torch.einsum("bsl,bld->bsd", scores.softmax(dim=-1), states)  # (B, S, 128)
        return [head(read[:, index]) for index, head in enumerate(self.heads)]


def slots_of(scene: Scene, background: str) -> list[int]:
    """The answer of each slot, 0 for what there is not."""
    answers = []
    for name, values in _SLOTS.items():
        told = [getattr(thing, name) for thing in scene.things] + [""] * (_NUM_THINGS - len(scene.things))
        answers += [values.index(value) for value in told]
    return [*answers, ("", *BACKGROUNDS).index(background)]


def train_encoder(
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
    *,
    steps: int,
    batch: int,
) -> list[tuple[int, float]]:
    """Train in place; the step and the share of slots that are read right, every 100 steps."""
    reader = SceneReader()
    trained = nn.ModuleList([encoder, reader])
    steppers = optimizers(trained, muon_rate=_MUON_RATE, adam_rate=_ADAM_RATE)
    history: list[tuple[int, float]] = []
    shares: list[float] = []
    for step in range(steps):
        captions = [random_caption(rng, pair_share=_PAIR_SHARE) for _ in range(batch)]
        answers = torch.tensor([slots_of(scene, told) for scene, _, told in captions])  # (B, S)
        texts = [text for _, text, _ in captions]
        logits = reader(embedded(encoder, tokenizer, texts, is_padded_to_longest=True))
        slots = enumerate(logits)
        loss = sum((F.cross_entropy(guess, answers[:, slot]) for slot, guess in slots), torch.zeros(()))
        trained.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        set_rates(steppers, rate_share(step, steps))
        for stepper in steppers:
            stepper.step()
        right = [(guess.argmax(-1) == answers[:, slot]) for slot, guess in enumerate(logits)]
        shares.append(torch.stack(right).float().mean().item())
        if (step + 1) % 100 == 0:
            history.append((step + 1, sum(shares) / len(shares)))
            shares.clear()
            print(f"text encoder: step {step + 1}, slots right {history[-1][1]:.4f}", flush=True)
    return history
