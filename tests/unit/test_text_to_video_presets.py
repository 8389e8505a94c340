"""Text-to-video presets: which folder gets which, what a request becomes, and folders that are not whole."""

import json
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.engine import InvalidInput, ModelNotReady
from models.text_to_video import presets
from models.text_to_video.presets import (
    PRESETS,
    SHAPES,
    Clip,
    FolderSettings,
    Guidance,
    Preset,
    call_arguments,
    clip_of,
    folder_settings,
    preset_of,
    scheduler_settings,
)
from models.zoo.text_to_video import GenerateInputs

ALL = (*PRESETS, SHAPES)
BY_NAME = {preset.name: preset for preset in ALL}
EACH = pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.name)
EACH_SIZED = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)

WAN = {"transformer": ["diffusers", "WanTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLWan"]}
NO_EXPERT = {"transformer_2": [None, None], "boundary_ratio": None, "expand_timesteps": False}


def asked(**wishes: Any) -> GenerateInputs:
    return GenerateInputs(prompt="a red circle moves left", **wishes)


def clip(preset: Preset, **wishes: Any) -> Clip:
    return clip_of(asked(**wishes), preset, "task")[0]


def notes(preset: Preset, **wishes: Any) -> str:
    usual = {*preset.notes, preset.knows}
    return " ".join(note for note in clip_of(asked(**wishes), preset, "task")[1] if note not in usual)


def safetensors(values: int = 4) -> bytes:
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * values)


def made(folder: Path, index: dict[str, Any], configs: dict[str, dict[str, Any]] | None = None) -> Path:
    """A diffusers folder whose networks have one small weight each."""
    folder.mkdir(parents=True)
    scheduler = {"scheduler": ["diffusers", "UniPCMultistepScheduler"]}
    full = {"_class_name": "WanPipeline", "_diffusers_version": "0.42.1", **scheduler, **index}
    (folder / "model_index.json").write_text(json.dumps(full))
    for name, value in full.items():
        if isinstance(value, list) and value[1]:
            (folder / name).mkdir()
            is_scheduler = name == "scheduler"
            (folder / name / ("scheduler_config.json" if is_scheduler else "config.json")).write_text("{}")
            if not is_scheduler:
                (folder / name / "diffusion_pytorch_model.safetensors").write_bytes(safetensors())
    for path, config in (configs or {}).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(config))
    return folder


def wan(folder: Path, **network: Any) -> Path:
    return made(folder, {**WAN, **NO_EXPERT}, {"transformer/config.json": network})


NETWORK = "transformer/config.json"
GUIDER = {"guider": ["diffusers", "ClassifierFreeGuidance"]}
FOLDERS: dict[str, tuple[str, dict[str, Any], dict[str, dict[str, Any]]]] = {
    "wan2.1-1.3b": ("a", {**WAN, **NO_EXPERT}, {NETWORK: {"num_layers": 30, "num_attention_heads": 12}}),
    "wan2.1-14b": ("a", {**WAN, **NO_EXPERT}, {NETWORK: {"num_layers": 40, "num_attention_heads": 40}}),
    "wan": ("a", {**WAN, **NO_EXPERT}, {NETWORK: {"num_layers": 2, "num_attention_heads": 2}}),
    "wan2.2-t2v-a14b": (
        "a",
        {**WAN, "transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.875},
        {NETWORK: {"num_layers": 40, "num_attention_heads": 40}},
    ),
    "wan2.2-ti2v-5b": (
        "a",
        {**WAN, **NO_EXPERT, "expand_timesteps": True},
        {NETWORK: {"num_layers": 30, "num_attention_heads": 24, "in_channels": 48}},
    ),
    "wan2.1-distilled-4-step": (
        "Wan2.1-T2V-14B-StepDistill-CfgDistill",
        {**WAN, **NO_EXPERT},
        {NETWORK: {"num_layers": 40, "num_attention_heads": 40}},
    ),
    "wan2.2-distilled-4-step": (
        "wan2.2-lightx2v",
        {**WAN, "transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.875},
        {},
    ),
    "ltx-video": ("a", {"_class_name": "LTXPipeline"}, {}),
    "ltx-video-distilled": ("LTX-Video-0.9.8-distilled", {"_class_name": "LTXPipeline"}, {}),
    "ltx-2": ("LTX-2", {"_class_name": "LTX2Pipeline"}, {}),
    "ltx-2-distilled": ("LTX-2.3-Distilled", {"_class_name": "LTX2Pipeline"}, {}),
    "cogvideox-2b": ("a", {"_class_name": "CogVideoXPipeline"}, {NETWORK: {"num_layers": 30}}),
    "cogvideox-5b": ("a", {"_class_name": "CogVideoXPipeline"}, {NETWORK: {"num_layers": 42}}),
    "cogvideox1.5-5b": (
        "a",
        {"_class_name": "CogVideoXPipeline"},
        {NETWORK: {"num_layers": 42, "patch_size_t": 2}},
    ),
    "hunyuanvideo": ("a", {"_class_name": "HunyuanVideoPipeline"}, {}),
    "hunyuanvideo-1.5": ("a", {"_class_name": "HunyuanVideo15Pipeline"}, {NETWORK: {"target_size": 640}}),
    "hunyuanvideo-1.5-720p": (
        "a",
        {"_class_name": "HunyuanVideo15Pipeline"},
        {NETWORK: {"target_size": 960}},
    ),
    "hunyuanvideo-1.5-distilled": (
        "a",
        {"_class_name": "HunyuanVideo15Pipeline", **GUIDER},
        {NETWORK: {"target_size": 640}, "guider/guider_config.json": {"guidance_scale": 1.0}},
    ),
}


@pytest.mark.parametrize("name", [preset.name for preset in PRESETS])
def test_each_preset_is_found_by_its_files(name: str, tmp_path: Path) -> None:
    folder, index, configs = FOLDERS[name]
    assert preset_of(made(tmp_path / folder, index, configs)).name == name


def test_an_unknown_pipeline_gets_a_generic_preset_named_by_its_class(tmp_path: Path) -> None:
    preset = preset_of(made(tmp_path / "mochi", {"_class_name": "MochiPipeline"}))
    assert preset.name == "MochiPipeline"
    assert "general" in clip_of(asked(), preset, "task")[1][0]


@pytest.mark.parametrize(
    "name", ["WanImageToVideoPipeline", "LTXConditionPipeline", "WanAnimatePipeline", "Wan"]
)
def test_pipelines_that_need_more_than_text_are_not_ready(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotReady, match=f"model_index.json names {name}, which is not a text-to-video"):
        preset_of(made(tmp_path / "other", {"_class_name": name}))


def test_an_operators_file_names_the_preset(tmp_path: Path) -> None:
    folder = wan(tmp_path / "any", num_layers=40, num_attention_heads=40)
    settings = {
        "preset": "wan2.1-distilled-4-step",
        "cache": "mag_cache",
        "mag_ratios": [1, 0.9],
        "warm_shapes": [[832, 480, 81]],
    }
    (folder / "mediaray.json").write_text(json.dumps(settings))
    assert preset_of(folder).steps == 4
    assert folder_settings(folder) == FolderSettings(
        preset="wan2.1-distilled-4-step",
        cache="mag_cache",
        mag_ratios=(1.0, 0.9),
        warm_shapes=((832, 480, 81),),
    )


def test_without_an_operators_file_there_are_defaults(tmp_path: Path) -> None:
    assert folder_settings(tmp_path) == FolderSettings(cache="exact", warm_shapes=None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"preset": "wan9"}', "no preset 'wan9'"),
        ('{"presets": "wan"}', "'presets' is not one of"),
        ('{"warm_shapes": [[832, 480]]}', "mediaray.json is not clear"),
        ('{"warm_shapes": [[832, 480, 0]]}', "below 1"),
        ('{"mag_ratios": "much"}', "could not convert"),
        ("[]", "mediaray.json is not a JSON object"),
        ("{", "mediaray.json cannot be read as JSON"),
    ],
    ids=["preset", "key", "shape", "zero frames", "ratios", "list", "cut"],
)
def test_an_operators_file_that_is_not_clear_is_told(text: str, words: str, tmp_path: Path) -> None:
    folder = wan(tmp_path / "any")
    (folder / "mediaray.json").write_text(text)
    with pytest.raises(ModelNotReady, match=words):
        preset_of(folder)


def _remove(path: str) -> Any:
    return lambda folder: (folder / path).unlink()


def _write(path: str, content: bytes) -> Any:
    return lambda folder: (folder / path).write_bytes(content)


def _cut(folder: Path) -> None:
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _shard(folder: Path) -> None:
    (folder / "transformer/diffusion_pytorch_model.safetensors").unlink()
    (folder / "transformer/model-00001-of-00002.safetensors").write_bytes(safetensors())
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "transformer/model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def _pickle(folder: Path) -> None:
    (folder / "vae/diffusion_pytorch_model.safetensors").rename(folder / "vae/diffusion_pytorch_model.bin")


def _scheduler(folder: Path) -> None:
    for path in (folder / "scheduler").iterdir():
        path.unlink()
    (folder / "scheduler").rmdir()


VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_remove("model_index.json"), "model_index.json is missing"),
        (_write("model_index.json", b"{"), "model_index.json cannot be read as JSON"),
        (_write("model_index.json", b"\xff\xfe"), "model_index.json cannot be read as JSON"),
        (_write("model_index.json", b"[]"), "model_index.json is not a JSON object"),
        (_remove("transformer/config.json"), "transformer/config.json is missing"),
        (_write("transformer/config.json", b"no"), "transformer/config.json cannot be read as JSON"),
        (_remove(VAE), "vae has no .safetensors file"),
        (_pickle, "vae has no .safetensors file, only diffusion_pytorch_model.bin"),
        (_shard, "transformer/model-00002-of-00002.safetensors is missing"),
        (_write("vae/m.safetensors.index.json", b"{}"), "vae/m.safetensors.index.json has no weight_map"),
        (_cut, f"{VAE} has [0-9]+ bytes where its header tells of [0-9]+"),
        (_write(VAE, safetensors() + b"more"), f"{VAE} has [0-9]+ bytes where its header"),
        (_write(VAE, b""), f"{VAE} has no whole safetensors header"),
        (_write(VAE, safetensors()[:20]), f"{VAE} has no whole safetensors header"),
        (_write(VAE, b"<html>not the file</html>"), f"{VAE} does not begin with a safetensors header"),
        (_write(VAE, struct.pack("<Q", 2) + b"[]"), f"{VAE} has no whole safetensors header"),
        (_scheduler, "any/scheduler is missing"),
    ],
    ids=[
        "no index", "cut index", "index of bytes", "index a list", "no config", "bad config", "no weights",
        "pickle", "no shard", "no weight map", "cut weights", "longer weights", "empty weights", "cut header",
        "a web page", "header a list", "no scheduler",
    ],
)  # fmt: skip
def test_a_folder_that_is_not_whole_names_the_file(harm: Any, words: str, tmp_path: Path) -> None:
    folder = wan(tmp_path / "any")
    assert preset_of(folder).name == "wan"
    harm(folder)
    with pytest.raises(ModelNotReady, match=words):
        preset_of(folder)


@EACH
def test_a_presets_own_clip_follows_its_rule(preset: Preset) -> None:
    made_clip, said = clip_of(asked(), preset, "task")
    assert said == [*preset.notes, *([preset.knows] if preset.knows else [])]
    assert (made_clip.width_px, made_clip.height_px) == (preset.width_px, preset.height_px)
    assert made_clip.width_px % preset.side_multiple_px == made_clip.height_px % preset.side_multiple_px == 0
    assert made_clip.num_frames % preset.frame_step == 1
    assert made_clip.num_frames <= preset.max_frames
    assert made_clip.pixels <= preset.max_px
    assert preset.max_frames % preset.frame_step == 1
    assert 1 <= preset.steps <= 200
    assert preset.guidance is not Guidance.DISTILLED or preset.guidance_scale == 1
    assert preset.fps <= 60


@EACH
@pytest.mark.parametrize("over", [0, 1, 2, -1], ids=["kn", "kn+1", "kn+2", "kn-1"])
def test_frames_become_the_next_number_of_the_rule(preset: Preset, over: int) -> None:
    wanted = 2 * preset.frame_step + over
    frames = clip(preset, num_frames=wanted).num_frames
    assert frames % preset.frame_step == 1
    assert wanted <= frames < wanted + preset.frame_step
    assert (str(frames) in notes(preset, num_frames=wanted)) == (frames != wanted)


@EACH
def test_few_and_too_many_frames(preset: Preset) -> None:
    assert clip(preset, num_frames=1).num_frames == 1
    assert clip(preset, num_frames=2).num_frames == preset.frame_step + 1
    assert clip(preset, num_frames=preset.max_frames, width=64, height=64).num_frames == preset.max_frames
    with pytest.raises(InvalidInput, match=f"more than the {preset.max_frames} that") as refused:
        clip(preset, num_frames=preset.max_frames + 1)
    assert refused.value.field == "num_frames"


@EACH_SIZED
@pytest.mark.parametrize("size", [(333, 335), (641, 359), (64, 65), (127, 64)], ids=str)
def test_odd_sizes_become_multiples_and_are_told(preset: Preset, size: tuple[int, int]) -> None:
    wishes = {"width": size[0], "height": size[1], "num_frames": 1}
    made_clip = clip(preset, **wishes)
    for side, wanted in zip((made_clip.width_px, made_clip.height_px), size, strict=True):
        assert side % preset.side_multiple_px == 0
        assert abs(side - wanted) <= preset.side_multiple_px / 2
    assert f"{made_clip.width_px}x{made_clip.height_px} instead of {size[0]}x{size[1]}" in notes(
        preset, **wishes
    )


@EACH_SIZED
def test_one_side_gives_the_other_in_the_presets_shape(preset: Preset) -> None:
    for wishes in ({"width": 640}, {"height": 352}):
        made_clip = clip(preset, num_frames=1, **wishes)
        shape, usual = made_clip.width_px / made_clip.height_px, preset.width_px / preset.height_px
        assert abs(shape - usual) < 0.2
        assert notes(preset, num_frames=1, **wishes) == ""


@EACH_SIZED
def test_clips_that_are_too_large_name_the_field(preset: Preset) -> None:
    with pytest.raises(InvalidInput, match="more than") as refused:
        clip(preset, width=2048, height=2048, num_frames=preset.max_frames)
    most = re.search("makes up to ([0-9]+)", str(refused.value))
    assert refused.value.field == ("num_frames" if most else "width")
    if most:
        assert clip(preset, width=2048, height=2048, num_frames=int(most[1])).num_frames == int(most[1])


def test_a_picture_beyond_the_preset_names_the_width() -> None:
    tiny = replace(SHAPES, is_size_fixed=False)
    with pytest.raises(InvalidInput, match="2048x2048 pixels are more than shapes draws") as refused:
        clip(tiny, width=2048, height=2048)
    assert refused.value.field == "width"


@pytest.mark.parametrize(
    "wishes",
    [
        {"width": -64}, {"height": -1}, {"width": 0}, {"width": 100_000}, {"num_frames": 0},
        {"num_frames": 10_000},
        {"num_frames": -5}, {"num_inference_steps": 0}, {"num_inference_steps": 1000},
        {"guidance_scale": float("nan")}, {"seed": -1}, {"fps": 0},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_preset_makes_is_refused_at_submit(wishes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        asked(**wishes)


@pytest.mark.parametrize(
    ("wishes", "shown"),
    [
        ({}, 384),
        ({"width": 513, "height": 513}, 512),
        ({"width": 640, "height": 360}, 360),
        ({"width": 256}, 256),
    ],
    ids=["default", "odd", "not square", "one side"],
)
def test_the_embedded_models_size_is_only_how_it_is_shown(wishes: dict[str, Any], shown: int) -> None:
    made_clip = clip(SHAPES, **wishes)
    assert (made_clip.width_px, made_clip.height_px, made_clip.shown_side_px) == (64, 64, shown)
    assert ("shown enlarged" in notes(SHAPES, **wishes)) == bool(wishes)


def test_the_embedded_model_says_what_it_knows() -> None:
    said = clip_of(asked(), SHAPES, "task")[1]
    assert "knows only coloured shapes and simple motions" in said[-1]


def test_seeds() -> None:
    preset = BY_NAME["wan2.1-1.3b"]
    assert clip(preset, seed=0).seed == 0
    one, again = (clip_of(asked(), preset, "task-1")[0].seed for _ in range(2))
    assert one == again != clip_of(asked(), preset, "task-2")[0].seed
    assert 0 <= one <= presets.MAX_SEED


@pytest.mark.parametrize("fps", [8, 30])
def test_another_rate_is_played_and_told(fps: int) -> None:
    preset = BY_NAME["wan2.1-1.3b"]
    assert clip(preset, fps=fps).fps == fps
    assert ("faster" if fps > 16 else "slower") in notes(preset, fps=fps)
    assert notes(preset, fps=16) == notes(BY_NAME["ltx-video"], fps=fps) == ""


def test_a_distilled_checkpoint_keeps_its_steps_and_guidance() -> None:
    preset = BY_NAME["wan2.1-distilled-4-step"]
    wishes = {"num_inference_steps": 50, "guidance_scale": 7.0, "negative_prompt": "rain"}
    made_clip = clip(preset, **wishes)
    assert (made_clip.steps, made_clip.guidance_scale, made_clip.negative_prompt) == (4, 1.0, "")
    said = notes(preset, **wishes)
    assert all(words in said for words in ("4 steps", "guidance_scale 7 is not used", "negative prompt"))


def test_steps_guidance_and_negative_prompt_of_the_caller() -> None:
    preset = BY_NAME["wan2.1-14b"]
    made_clip = clip(preset, num_inference_steps=12, guidance_scale=0.0, negative_prompt="rain")
    assert (made_clip.steps, made_clip.guidance_scale, made_clip.negative_prompt) == (12, 0.0, "rain")
    assert clip(preset).negative_prompt == preset.negative_prompt != ""
    assert clip(preset, negative_prompt=" ").negative_prompt == ""


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        ("a red\n\tcircle ", "a red circle"),
        ("ein 🔴 Kreis 红色", "ein 🔴 Kreis 红色"),
        ("x" * 4000, "x" * 4000),
    ],
    ids=["spaces", "emoji", "longest"],
)
def test_prompts_have_single_spaces(prompt: str, kept: str) -> None:
    made_clip, _ = clip_of(GenerateInputs(prompt=prompt), BY_NAME["wan"], "task")
    assert made_clip.prompt == kept


@pytest.mark.parametrize("char", ["\x00", "\x1b", "\x1f", "\x7f", "\x9f", "\ud800"], ids=ascii)
@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_control_characters_are_refused_at_submit(field: str, char: str) -> None:
    with pytest.raises(ValidationError, match=field):
        GenerateInputs(**{"prompt": "a circle", field: f"a {char}circle"})
    with pytest.raises(ValidationError, match=field):
        GenerateInputs(**{"prompt": "a circle", field: char})


def test_call_arguments_are_what_each_pipeline_takes() -> None:
    names = {preset.name: set(call_arguments(preset, clip(preset))) for preset in ALL}
    common = {"width", "height", "num_frames", "num_inference_steps", "guidance_scale"}
    assert names["wan2.1-1.3b"] == {*common, "max_sequence_length"}
    assert names["ltx-2"] == {*common, "max_sequence_length", "frame_rate"}
    assert names["hunyuanvideo-1.5"] == common - {"guidance_scale"}
    assert call_arguments(BY_NAME["ltx-video"], clip(BY_NAME["ltx-video"], fps=30))["frame_rate"] == 30
    assert call_arguments(BY_NAME["cogvideox-5b"], clip(BY_NAME["cogvideox-5b"]))["use_dynamic_cfg"] is True
    assert call_arguments(SHAPES, clip(SHAPES))["max_sequence_length"] == 48


def test_two_experts_have_a_guidance_each_unless_the_caller_says_one() -> None:
    preset = BY_NAME["wan2.2-t2v-a14b"]
    of = lambda **wishes: call_arguments(preset, clip(preset, **wishes))  # noqa: E731 - read twice, in one line each
    assert (of()["guidance_scale"], of()["guidance_scale_2"]) == (4.0, 3.0)
    assert (of(guidance_scale=6)["guidance_scale"], of(guidance_scale=6)["guidance_scale_2"]) == (6.0, 6.0)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({"flow_shift": 1.0, "solver_order": 2}, {"flow_shift": 5.0, "solver_order": 1}),
        ({"shift": 1.0}, {"shift": 5.0}),
        ({"flow_shift": 5.0}, {}),
        ({"beta_start": 0.1}, {}),
    ],
    ids=["UniPC", "flow matching", "as it is", "no shift"],
)
def test_scheduler_settings_are_those_that_it_has(config: dict[str, Any], settings: dict[str, Any]) -> None:
    assert scheduler_settings(BY_NAME["wan2.1-distilled-4-step"], config) == settings
    assert scheduler_settings(BY_NAME["ltx-video"], config) == {}
