"""Pipelines of random weights that a CPU runs in a second: folders shaped like full models', 0.4 MB each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = (
    "a red blue green circle square star moves to the left right up and down over white 红色 圆形 向 左 右"
)
SIDE_PX, NUM_FRAMES = 64, 9
MAX_TOKENS = 64


def tiny_wan() -> Any:
    """The pipeline object: 16 latent channels, VAE 8x8x4, patches of 2: sides % 16, frames 4n + 1."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = UMT5Config(
            vocab_size=512,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=1,
        )
        return WanPipeline(
            tokenizer=_tokenizer(),
            text_encoder=UMT5EncoderModel(config).eval(),
            vae=AutoencoderKLWan(
                base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                temperal_downsample=[False, True, True],
            ).eval(),
            transformer=WanTransformer3DModel(
                patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16,
                out_channels=16, text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2, cross_attn_norm=True,
                qk_norm="rms_norm_across_heads", rope_max_seq_len=64,
            ).eval(),
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000,
                flow_shift=3.0,
            ),
        )  # fmt: skip


def tiny_ltx() -> Any:
    """An LTXPipeline, which decodes by itself: sides % 32, frames 8n + 1."""
    import torch
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=512, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, eos_token_id=1
        )
        scaling, none = (True, True, True, False), (False,) * 5
        return LTXPipeline(
            tokenizer=_tokenizer(),
            text_encoder=T5EncoderModel(config).eval(),
            vae=AutoencoderKLLTXVideo(
                latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
                layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, spatio_temporal_scaling=scaling,
                decoder_spatio_temporal_scaling=scaling, decoder_inject_noise=none,
                upsample_residual=none[:4], upsample_factor=(1,) * 4,
            ).eval(),
            transformer=LTXVideoTransformer3DModel(
                in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=8,
                cross_attention_dim=32, num_layers=1, caption_channels=32,
            ).eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )  # fmt: skip


def save(pipeline: Any, folder: Path) -> Path:
    """The pipeline as an operator has it: a folder of safetensors and JSON."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_wan(folder: Path) -> Path:
    return save(tiny_wan(), folder)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )
