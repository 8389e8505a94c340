from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import save_file
from torch import Tensor, nn

from models.engine import ModelNotReady
from models.flashvsr import files
from models.flashvsr.checkpoint import load_networks, load_vae, vae_shapes
from models.flashvsr.files import PUBLISHED
from models.flashvsr.manifest import (
    FINGERPRINT,
    Shapes,
    decoder_shapes,
    fingerprint,
    projector_shapes,
    transformer_shapes,
)
from models.flashvsr.networks import FlashVsrNetworks, Part, Variant, Version
from models.networks.flashvsr_config import FULL, FlashVsrConfig
from models.networks.flashvsr_decoder import TinyDecoder
from models.networks.flashvsr_projector import Projector
from models.networks.flashvsr_transformer import FlashVsrTransformer
from tests.flashvsr_tiny import TINY, Weights, save_one_file, save_original, save_part, tiny_weights

CPU = torch.device("cpu")
PARTS: tuple[Part, ...] = ("transformer", "projector", "decoder", "vae", "prompt")


@pytest.fixture(scope="module")
def weights() -> dict[Part, dict[str, Tensor]]:
    return tiny_weights()


@pytest.fixture
def folder(tmp_path: Path, weights: Weights) -> Path:
    return save_original(tmp_path, weights)


def load(
    folder: Path, variant: Variant = "tiny_long", dtype: torch.dtype = torch.float32
) -> FlashVsrNetworks:
    return load_networks(folder, variant=variant, device=CPU, dtype=dtype, config=TINY)


def variant_with(part: Part) -> Variant:
    return "full" if part == "vae" else "tiny_long"


# ----------------------------------------------------------------------------- what the published files hold


@pytest.mark.parametrize(
    ("shapes", "tensors", "values"),
    [
        (transformer_shapes, 825, 1_418_996_800),
        (projector_shapes, 8, 287_845_888),
        (decoder_shapes, 66, 45_338_371),
        (vae_shapes, 194, 126_892_531),
    ],
    ids=["transformer", "projector", "decoder", "vae"],
)
def test_the_manifest_has_the_published_size(
    shapes: Callable[[FlashVsrConfig], Shapes], tensors: int, values: int
):
    found = shapes(FULL)

    assert (len(found), sum(math.prod(shape) for shape in found.values())) == (tensors, values)


def test_the_transformer_has_the_published_fingerprint():
    assert fingerprint(transformer_shapes(FULL)) == FINGERPRINT == "9269f8db9040a9d860eaca435be61814"


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("config", [FULL, TINY], ids=["published", "tiny"])
def test_the_networks_are_what_the_manifest_says(config: FlashVsrConfig):
    with torch.device("meta"):
        transformer, projector, decoder = FlashVsrTransformer(config), Projector(config), TinyDecoder(config)

    assert shapes_of(projector) == projector_shapes(config)
    assert shapes_of(decoder) == decoder_shapes(config)
    # diffusers' names: as many tensors of the same sizes
    expected = sorted(transformer_shapes(config).values())
    assert sorted(shapes_of(transformer).values()) == expected


# ----------------------------------------------------------------------------- every layout


def assert_holds(module: nn.Module | None, tensors: dict[str, Tensor]) -> None:
    """That a module has these tensors by these names, frozen."""
    assert module is not None
    state = module.state_dict()
    assert state.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(state[name], tensor, atol=0, rtol=0)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def assert_whole(networks: FlashVsrNetworks, weights: Weights) -> None:
    """That the four networks of tiny_long have the weights."""
    assert_holds(networks.projector, dict(weights["projector"]))
    assert_holds(networks.decoder, dict(weights["decoder"]))
    assert torch.equal(networks.prompt, weights["prompt"][""])
    name, layer = "blocks.1.attn1.to_q.weight", "blocks.1.self_attn.q.weight"
    assert torch.equal(networks.transformer.state_dict()[name], weights["transformer"][layer])
    assert_holds(networks.transformer, convert_wan_transformer_to_diffusers(dict(weights["transformer"])))
    assert not any(tensor.is_meta for tensor in networks.transformer.buffers())


@pytest.mark.parametrize("version", ["v1", "v1.1"])
@pytest.mark.parametrize("variant", ["tiny", "tiny_long"])
def test_the_five_original_files_load(tmp_path: Path, weights: Weights, version: Version, variant: Variant):
    networks = load(save_original(tmp_path, weights, version), variant)

    assert_whole(networks, weights)
    assert (networks.version, networks.projector.is_causal) == (version, version == "v1.1")
    assert networks.vae is None


def test_full_has_the_vaes_decoder_instead(folder: Path, weights: Weights):
    networks = load(folder, "full")

    assert networks.decoder is None
    assert networks.vae is not None
    state = networks.vae.state_dict()
    assert len(state) == 108
    assert torch.equal(state["post_quant_conv.weight"], weights["vae"]["conv2.weight"])
    assert torch.equal(state["decoder.conv_in.bias"], weights["vae"]["decoder.conv1.bias"])
    with torch.no_grad():
        pictures = networks.vae.decode(torch.randn(1, 16, 2, 2, 2)).sample
    assert pictures.shape == (1, 3, 5, 16, 16)
    assert pictures.std() > 0


def test_the_vae_can_be_loaded_later(folder: Path):
    at_once, later = load(folder, "full").vae, load_vae(folder, device=CPU, dtype=torch.float32, config=TINY)

    assert at_once is not None
    assert_holds(later, at_once.state_dict())
    (folder / PUBLISHED["vae"].name).unlink()
    with pytest.raises(ModelNotReady, match="VAE"):
        load_vae(folder, device=CPU, dtype=torch.float32, config=TINY)


def test_a_repack_in_one_file_loads(tmp_path: Path, weights: Weights):
    networks = load(save_one_file(tmp_path, weights))

    assert_whole(networks, weights)
    assert networks.version == "v1.1"
    assert networks.notes == ("flashvsr_fp16.safetensors is a repack of several files",)


def test_a_projector_merged_into_the_transformer_loads(folder: Path, weights: Weights):
    """The layout of repacks that keep the other files."""
    merged = dict(weights["transformer"])
    merged |= {f"LQ_proj_in.{name}": tensor for name, tensor in weights["projector"].items()}
    save_file({name: tensor.bfloat16() for name, tensor in merged.items()}, folder / "merged.safetensors")
    (folder / PUBLISHED["transformer"].name).unlink()
    (folder / PUBLISHED["projector"].name).unlink()

    assert_whole(load(folder), weights)


def test_prefixes_of_other_tools_are_known(tmp_path: Path, weights: Weights):
    names = {f"model.diffusion_model.{name}": tensor for name, tensor in weights["transformer"].items()}
    names |= {f"lq_proj_in.{name}": tensor for name, tensor in weights["projector"].items()}
    names |= {
        f"tc_decoder.{name.removeprefix('decoder.')}": value for name, value in weights["decoder"].items()
    }
    names["positive_conditioning"] = weights["prompt"][""]
    save_file(names, tmp_path / "one.safetensors")

    assert_whole(load(tmp_path), weights)


def test_a_pickle_of_the_old_format_loads(folder: Path, weights: Weights):
    path = folder / PUBLISHED["vae"].name
    torch.save(dict(weights["vae"]), path, _use_new_zipfile_serialization=False)

    networks = load(folder, "full")

    assert networks.vae is not None
    assert torch.equal(
        networks.vae.state_dict()["decoder.conv_in.bias"], weights["vae"]["decoder.conv1.bias"]
    )


def test_weights_take_the_dtype_that_is_asked_for(folder: Path):
    networks = load(folder, dtype=torch.bfloat16)

    for module in (networks.transformer, networks.projector, networks.decoder):
        assert module is not None
        assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert networks.prompt.dtype == torch.bfloat16


def test_the_files_may_change_afterwards(folder: Path, weights: Weights):
    """As when an operator copies another release over them while a replica runs."""
    networks = load(folder)

    for path in folder.iterdir():
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(len(content) // 2)
            file.write(os.urandom(len(content) // 2))
    assert_whole(networks, weights)


# ----------------------------------------------------------------------------- what is refused, what is told


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999], ids="{:.1%}".format)
def test_a_file_that_was_cut_short_is_named(folder: Path, part: Part, kept: float):
    path = folder / PUBLISHED[part].name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])

    with pytest.raises(ModelNotReady) as refused:
        load(folder, variant_with(part))

    text = str(refused.value)
    assert text.startswith(f"FlashVSR-v1.1/{path.name} is damaged or cut short"), text
    assert str(folder.parent) not in text


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_file_is_named(folder: Path, part: Part):
    (folder / PUBLISHED[part].name).unlink()

    with pytest.raises(ModelNotReady, match=f"{PUBLISHED[part].name} is missing"):
        load(folder, variant_with(part))


def test_only_what_the_variant_runs_is_needed(folder: Path):
    (folder / PUBLISHED["vae"].name).unlink()
    load(folder, "tiny")
    (folder / PUBLISHED["decoder"].name).unlink()
    with pytest.raises(ModelNotReady, match="TCDecoder"):
        load(folder, "tiny")


TENSORS = [
    ("transformer", "blocks.1.cross_attn.norm_k.weight", "blocks.1.cross_attn.norm_k.weight"),
    ("projector", "conv2.weight", "conv2.weight"),
    ("decoder", "decoder.15.conv.weight", "decoder.15.conv.weight"),
    ("vae", "decoder.conv1.bias", "decoder.conv_in.bias"),
]
EACH_TENSOR = pytest.mark.parametrize(("part", "name", "said"), TENSORS, ids=[row[0] for row in TENSORS])


@EACH_TENSOR
def test_a_missing_tensor_is_named(folder: Path, weights: Weights, part: Part, name: str, said: str):
    save_part(folder, part, {other: value for other, value in weights[part].items() if other != name})

    with pytest.raises(ModelNotReady, match=f"{PUBLISHED[part].name} does not hold .*: 1 missing: {said};"):
        load(folder, variant_with(part))


@EACH_TENSOR
def test_a_misshapen_tensor_is_named(folder: Path, weights: Weights, part: Part, name: str, said: str):
    other = weights[part][name].flatten()[:-1].clone()
    save_part(folder, part, {**weights[part], name: other})

    with pytest.raises(ModelNotReady) as refused:
        load(folder, variant_with(part))

    assert f"1 misshapen: {said} ({len(other)},) instead of" in str(refused.value)


def test_weights_of_another_model_are_refused_with_counts(folder: Path, weights: Weights):
    bigger = tiny_weights(replace(TINY, layers=3))
    save_part(folder, "transformer", bigger["transformer"])
    assert "27 unknown" in " ".join(
        load(folder).notes
    )  # a deeper one holds all that is needed, and that is told

    smaller = tiny_weights(replace(TINY, layers=1))
    save_part(folder, "transformer", smaller["transformer"])
    with pytest.raises(ModelNotReady, match=r"27 missing: blocks\.1\..* and 24 more"):
        load(folder)


@pytest.mark.parametrize("part", ["transformer", "projector", "decoder"])
def test_tensors_that_nothing_uses_are_told(folder: Path, weights: Weights, part: Part):
    save_part(folder, part, {**weights[part], "leftover.weight": torch.zeros(2)})

    assert f"{PUBLISHED[part].name} holds more than is used: 1 unknown: leftover.weight" in load(folder).notes


def test_quantised_weights_are_refused(folder: Path, weights: Weights):
    """Their scales would be lost, and the pictures noise."""
    path = folder / PUBLISHED["transformer"].name
    name = "blocks.0.ffn.0.weight"
    save_file({**weights["transformer"], name: weights["transformer"][name].to(torch.float8_e4m3fn)}, path)

    with pytest.raises(ModelNotReady, match=r"torch\.float8_e4m3fn: give FlashVSR's weights as"):
        load(folder)


class _Shell:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", ["torch", "plain"])
def test_a_pickle_that_runs_code_is_refused_and_does_not(folder: Path, tmp_path: Path, protocol: str):
    path, mark = folder / PUBLISHED["decoder"].name, tmp_path / "code ran"
    if protocol == "torch":
        torch.save({"decoder.1.weight": _Shell(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(_Shell(mark), protocol=2))

    with pytest.raises(ModelNotReady, match=r"TCDecoder\.ckpt is damaged"):
        load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(1)], ids=["list", "numbers", "tensor"])
def test_a_pickle_of_something_else_is_refused(folder: Path, content: object):
    torch.save(content, folder / PUBLISHED["decoder"].name)

    with pytest.raises(ModelNotReady, match=r"TCDecoder\.ckpt (is not a table|does not hold)"):
        load(folder)


def test_weights_that_are_not_the_published_ones_run_and_are_told(folder: Path):
    names = ", ".join(PUBLISHED[part].name for part in ("transformer", "projector", "decoder", "prompt"))

    assert load(folder).notes == tuple(f"{name} is not the published file" for name in names.split(", "))


def test_the_digest_stands_for_the_files(folder: Path, weights: Weights):
    first = load(folder).digest
    assert load(folder).digest == first

    save_part(folder, "decoder", {**weights["decoder"], "decoder.26.bias": torch.zeros(3)})
    assert load(folder).digest != first


@pytest.fixture
def published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny folder, taken for the published v1.1."""
    known = {
        part: replace(file, sha256=sha256((folder / file.name).read_bytes()).hexdigest())
        for part, file in PUBLISHED.items()
    }
    monkeypatch.setattr(files, "PUBLISHED", known)
    return folder


def test_the_published_weights_need_no_notes(published: Path):
    assert load(published).notes == ()
    assert load(published, "full").notes == ()


@pytest.mark.parametrize("part", ["transformer", "projector"])
def test_a_folder_that_mixes_releases_is_refused(published: Path, part: Part):
    save_part(published, part, tiny_weights(seed=7)[part])

    with pytest.raises(
        ModelNotReady, match=f"mixes releases of FlashVSR: .* beside another {PUBLISHED[part].name}"
    ):
        load(published)


def test_v1_1_in_the_folder_of_v1_is_refused(published: Path):
    with pytest.raises(ModelNotReady, match=r"mixes releases of FlashVSR: .* in the folder of v1;"):
        load(published.rename(published.with_name("FlashVSR")))


def test_a_pair_of_ones_own_can_be_given_as_one_file(published: Path, tmp_path: Path, weights: Weights):
    """With the published projector and another transformer."""
    mine = {**weights, "transformer": tiny_weights(seed=7)["transformer"]}

    assert_whole(load(save_one_file(tmp_path, mine)), mine)
