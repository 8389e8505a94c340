"""net.pth is read strictly: the original's names and shapes, or a message that names what is wrong."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.errors import ModelNotReady
from models.hallo2.checkpoint import expected_shapes, load_networks
from models.hallo2.manifest import COUNTS, FINGERPRINT, HALLO2_FOLDER, differences, fingerprint, net_file
from models.networks.hallo2 import Hallo2Networks, build_networks
from models.weights import locate_folder, missing_files
from tests.hallo2_tiny import TINY, net_table, save_net, save_tiny_folder, tiny_networks

CPU = torch.device("cpu")
IDLE = ("denoising_unet.down_blocks.3.motion_modules.", "denoising_unet.up_blocks.0.motion_modules.")


@pytest.fixture(scope="module")
def full() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the full-size networks; no memory is taken."""
    with torch.device("meta"):
        return dict(expected_shapes(build_networks()))


@pytest.fixture(scope="module")
def saved() -> Hallo2Networks:
    return tiny_networks(seed=3)


@pytest.fixture
def folder(saved: Hallo2Networks, tmp_path: Path) -> Path:
    save_net(saved, tmp_path / "hallo2" / "net.pth")
    return tmp_path / "hallo2"


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Hallo2Networks:
    return load_networks(folder, device=CPU, dtype=dtype, config=TINY)


def tensors(networks: Hallo2Networks) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": tensor
        for prefix, network in networks.by_prefix().items()
        for name, tensor in network.state_dict().items()
    }


def refusal(folder: Path) -> str:
    with pytest.raises(ModelNotReady) as caught:
        load(folder)
    return str(caught.value)


@pytest.mark.parametrize("prefix", COUNTS)
def test_full_size_networks_have_the_originals_tensors(full, prefix):
    own = [shape for name, shape in full.items() if name.startswith(f"{prefix}.")]
    assert (len(own), sum(torch.Size(shape).numel() for shape in own)) == COUNTS[prefix]


def test_full_size_names_and_shapes_have_the_known_fingerprint(full):
    assert len(full) == 2656
    assert fingerprint(full) == FINGERPRINT


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("denoising_unet.down_blocks.1.audio_modules.0.proj_in.weight", (320, 640, 1, 1)),
        ("denoising_unet.up_blocks.1.audio_modules.2.proj_out.weight", (1280, 640, 1, 1)),
        ("denoising_unet.up_blocks.3.audio_modules.0.transformer_blocks.0.attn2_2.to_k.weight", (320, 768)),
        (
            "denoising_unet.mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0"
            ".attention_blocks.1.pos_encoder.pe",
            (1, 32, 1280),
        ),
        ("denoising_unet.down_blocks.0.downsamplers.0.conv.weight", (320, 320, 3, 3)),
        ("face_locator.blocks.5.weight", (128, 64, 3, 3)),
        ("imageproj.proj.weight", (3072, 512)),
        ("audioproj.proj1.weight", (512, 46080)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_full_size_shapes_of_the_facts(full, name, shape):
    assert full[name] == shape


def test_the_fingerprint_tells_names_and_shapes():
    table = {"a": (1, 2), "b": (3,)}
    assert fingerprint(table) == fingerprint({"b": (3,), "a": (1, 2)})
    assert (
        len({fingerprint(other) for other in (table, {"a": (2, 1), "b": (3,)}, {"a": (1, 2), "c": (3,)})})
        == 3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_weights_are_those_of_the_file_and_frozen(folder, saved, dtype):
    networks = load(folder, dtype)
    for network in networks.by_prefix().values():
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    found = tensors(networks)
    expected = {name: value for name, value in net_table(saved).items() if not name.startswith(IDLE)}
    assert set(found) == set(expected)
    for name, value in found.items():
        assert value.dtype == dtype
        assert torch.equal(value, expected[name].to(dtype)), name


def test_the_file_may_change_once_it_is_loaded(folder, saved):
    networks, path = load(folder, torch.float16), folder / "net.pth"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    expected = net_table(saved)
    assert all(torch.equal(value, expected[name]) for name, value in tensors(networks).items())


def test_a_file_of_the_older_format_is_read_as_well(folder, saved):
    torch.save(net_table(saved), folder / "net.pth", _use_new_zipfile_serialization=False)
    expected = net_table(saved, torch.float32)
    expected = {name: value.half().float() for name, value in expected.items()}
    assert all(torch.equal(value, expected[name]) for name, value in tensors(load(folder)).items())


def test_the_originals_download_is_taken_as_it_is(folder, saved, tmp_path):
    assert net_file(tmp_path) == folder / "net.pth"
    assert len(tensors(load(tmp_path))) == len(
        [name for name in net_table(saved) if not name.startswith(IDLE)]
    )


BIAS, NORM = "audioproj.proj1.bias", "imageproj.norm.weight"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda table: table.update({f"x.{BIAS}": table.pop(BIAS), NORM: torch.zeros(3)}),
            f"1 missing: {BIAS}; 1 unknown: x.{BIAS}; 1 misshapen: {NORM} (3,) instead of (12,);",
        ),
        (lambda table: table.pop(f"{IDLE[0]}0.temporal_transformer.proj_in.bias"), f"1 missing: {IDLE[0]}0"),
        (lambda table: table.clear(), " missing: reference_unet.conv_in.weight, "),
    ],
    ids=["missing, unknown and misshapen", "missing where nothing runs", "empty"],
)
def test_other_tensors_are_refused_by_name(folder, saved, edit: Callable[[dict[str, Tensor]], Any], said):
    table = net_table(saved)
    edit(table)
    torch.save(table, folder / "net.pth")
    text = refusal(folder)
    assert said in text
    assert text.startswith("hallo2/net.pth does not hold Hallo2's weights: ")
    assert text.endswith("copy the original net.pth of Hallo2 again")


def test_many_differences_are_counted_and_three_named():
    expected = {f"layer.{number}": (1,) for number in range(10)}
    assert differences(expected, {}) == "10 missing: layer.0, layer.1, layer.2 and 7 more"
    assert differences({}, expected) == "10 unknown: layer.0, layer.1, layer.2 and 7 more"
    assert differences(expected, expected) == ""


def cut_in_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


class Harmful:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("1 + 1",))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut_in_half, "is damaged or cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged or cut short"),
        (lambda path: path.write_bytes(b""), "is damaged or cut short"),
        (lambda path: path.write_text("<html>Not found</html>"), "is damaged or cut short"),
        (lambda path: path.write_bytes(pickle.dumps(Harmful(), protocol=2)), "is damaged or cut short"),
        (lambda path: torch.save([torch.zeros(1)], path), "is not a table of weights"),
        (lambda path: torch.save({"epoch": 3}, path), "holds something else than weights: epoch"),
        (lambda path: torch.save({"a.qint": torch.zeros(1, dtype=torch.int8)}, path), "weights: a.qint"),
    ],
    ids=[
        "half",
        "a byte short",
        "empty",
        "a web page",
        "code",
        "a list",
        "a training state",
        "whole numbers",
    ],
)
def test_a_file_that_is_no_table_of_weights_is_refused(folder, spoil: Callable[[Path], Any], said):
    spoil(folder / "net.pth")
    assert said in refusal(folder)


def test_a_folder_without_the_file_names_it(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path.name}/net.pth is missing: put Hallo2's net.pth (4.85 GB) there"


def test_a_whole_folder_is_found(tmp_path):
    """All parts in the original layout; each one that is away is named."""
    save_tiny_folder(tmp_path / "hallo2")
    found = locate_folder(HALLO2_FOLDER, tmp_path)
    assert found == tmp_path / "hallo2"
    for part in ("net.pth", "sd-vae-ft-mse", "wav2vec"):
        without = tmp_path / f"without {part}"
        shutil.copytree(found, without, ignore=shutil.ignore_patterns(part))
        lacks = missing_files(without, HALLO2_FOLDER.files)
        assert lacks
        assert all(part in name for name in lacks)
