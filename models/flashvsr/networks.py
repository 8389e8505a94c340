"""The loaded networks of one FlashVSR, as the loader hands them to the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from models.networks.flashvsr_config import FlashVsrConfig

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from torch import Tensor

    from models.networks.flashvsr_decoder import TinyDecoder
    from models.networks.flashvsr_projector import Projector
    from models.networks.flashvsr_transformer import FlashVsrTransformer

Variant = Literal["tiny", "tiny_long", "full"]
Version = Literal["v1", "v1.1"]
Part = Literal["transformer", "projector", "decoder", "vae", "prompt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashVsrNetworks:
    """All on one device and of one dtype, frozen and in eval mode.

    `decoder` is there for tiny and tiny_long, `vae` for full. `prompt` (1, 512, 4096) is the fixed text's
    embedding. `notes` say in words what a caller should know of the weights, `digest` stands for their files.
    """

    transformer: FlashVsrTransformer
    projector: Projector
    decoder: TinyDecoder | None
    vae: AutoencoderKLWan | None
    prompt: Tensor
    version: Version
    config: FlashVsrConfig
    digest: str = ""
    notes: tuple[str, ...] = ()
