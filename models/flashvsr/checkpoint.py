"""Reads FlashVSR's weight files into our networks: strictly, tensor by tensor, and once in memory."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models.errors import ModelNotReady
from models.flashvsr.files import PARTS, checksums, judged, main_file, part_file, version_of
from models.flashvsr.manifest import (
    Shapes,
    counted,
    decoder_shapes,
    lacks,
    projector_shapes,
    prompt_shapes,
    transformer_shapes,
)
from models.flashvsr.networks import FlashVsrNetworks, Part, Variant
from models.networks.flashvsr_config import FULL, FlashVsrConfig
from models.networks.flashvsr_decoder import TinyDecoder
from models.networks.flashvsr_projector import Projector
from models.networks.flashvsr_transformer import FlashVsrTransformer

_FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16})
# How the names of a part begin in a file that holds several; the transformer's have no prefix of their own.
_PREFIXES: Mapping[str, Part] = {
    "lq_proj_in.": "projector",
    "LQ_proj_in.": "projector",
    "tc_decoder.": "decoder",
    "positive_conditioning": "prompt",
}
_WRAPPER = "model.diffusion_model."
_UNNAMED = ""  # the name of a file's only tensor
_DAMAGE = (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Table:
    """The tensors of one part: shapes at once, values when asked for. `names` are ours -> the file's."""

    path: Path
    names: Mapping[str, str]
    shapes: Shapes  # by our names
    read: Callable[[str], Tensor]  # by the file's

    def value(self, name: str) -> Tensor:
        """One tensor by our name; raises ModelNotReady if it cannot be read or is quantised."""
        with _readable(self.path):
            tensor = self.read(self.names[name])
        if tensor.dtype not in _FLOATS:
            text = f"{name} is {tensor.dtype}: give FlashVSR's weights as fp32, bf16 or fp16"
            raise ModelNotReady(f"{self.path.parent.name}/{self.path.name}: {text}")
        return tensor


def load_networks(
    folder: Path,
    *,
    variant: Variant,
    device: torch.device,
    dtype: torch.dtype,
    config: FlashVsrConfig = FULL,
) -> FlashVsrNetworks:
    """The networks of a folder, frozen and in eval mode; its files may be replaced afterwards.

    Raises ModelNotReady, naming files and tensors, for what is missing, cut short, misshapen or quantised,
    and for a folder that mixes v1 and v1.1.
    """
    tables = part_tables(folder, variant)
    notes = [note for part, table in tables.items() for note in _checked(table, _shapes(part, config))]
    digests = _digests(folder, tables.values())
    notes += _judged(folder, tables, digests)
    version = version_of(folder)
    with torch.device("meta"):
        transformer = FlashVsrTransformer(config)
        projector = Projector(config, is_causal=version == "v1.1")
        decoder = TinyDecoder(config) if "decoder" in tables else None
    _fill(transformer, _renamed(tables["transformer"], convert_wan_transformer_to_diffusers), device, dtype)
    _fill(projector, tables["projector"], device, dtype)
    projector.arrange()
    if decoder is not None:
        _fill(decoder, tables["decoder"], device, dtype)
        decoder.arrange()
    return FlashVsrNetworks(
        transformer=transformer,
        projector=projector,
        decoder=decoder,
        vae=_filled_vae(tables["vae"], config, device, dtype) if "vae" in tables else None,
        prompt=tables["prompt"].value(_UNNAMED).to(device, dtype, copy=True),
        version=version,
        config=config,
        digest=hashlib.sha256("".join(sorted(digests.values())).encode()).hexdigest(),
        notes=tuple(notes),
    )


def load_vae(
    folder: Path, *, device: torch.device, dtype: torch.dtype, config: FlashVsrConfig = FULL
) -> AutoencoderKLWan:
    """The VAE of a folder whose other networks are loaded, for decoding only; raises like `load_networks`."""
    table = _vae_table(folder)
    _checked(table, vae_shapes(config))
    return _filled_vae(table, config, device, dtype)


def part_tables(folder: Path, variant: Variant) -> dict[Part, Table]:
    """Each part that the variant runs, from the file that holds it; raises ModelNotReady."""
    tables = _split(_read_safetensors(main_file(folder)))
    for part in PARTS[variant]:
        if part == "vae":
            tables[part] = _vae_table(folder)
        elif part not in tables:
            tables[part] = _read_pickle(part_file(folder, part))
    return {part: tables[part] for part in PARTS[variant]}


def _vae_table(folder: Path) -> Table:
    """Under diffusers' names."""
    return _renamed(_read_pickle(part_file(folder, "vae")), convert_wan_vae_to_diffusers)


def _split(table: Table) -> dict[Part, Table]:
    """One table for each part of the file, under the names of the original files."""
    names: dict[Part, dict[str, str]] = {"transformer": {}}
    for name in table.names:
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            names["transformer"][name.removeprefix(_WRAPPER)] = name
            continue
        part, rest = _PREFIXES[prefix], name.removeprefix(prefix)
        if part == "decoder" and not rest.startswith("decoder."):
            rest = f"decoder.{rest}"
        names.setdefault(part, {})[rest] = name
    return {part: _selected(table, selected) for part, selected in names.items()}


def _selected(table: Table, names: Mapping[str, str]) -> Table:
    """Under new names, given as new -> those of the table."""
    files_names = {new: table.names[old] for new, old in names.items()}
    return Table(table.path, files_names, {new: table.shapes[old] for new, old in names.items()}, table.read)


def _renamed(table: Table, convert: Callable[[dict[str, str]], dict[str, str]]) -> Table:
    """Under the names of diffusers, whose converters move values, of whatever kind, from name to name."""
    return _selected(table, convert({name: name for name in table.names}))


def _shapes(part: Part, config: FlashVsrConfig) -> Shapes:
    """Name and shape of every tensor of a part: as in the original file, for the VAE as in diffusers."""
    by_part: Mapping[Part, Callable[[FlashVsrConfig], Shapes]] = {
        "transformer": transformer_shapes,
        "projector": projector_shapes,
        "decoder": decoder_shapes,
        "prompt": prompt_shapes,
        "vae": vae_shapes,
    }
    return by_part[part](config)


def vae_shapes(config: FlashVsrConfig) -> Shapes:
    """Of Wan2.1_VAE.pth, by diffusers' names: 194 tensors of 126,892,531 values."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in _vae(config).state_dict().items()}


def _vae(config: FlashVsrConfig) -> Any:
    """An AutoencoderKLWan, whose type knows too little of its own."""
    make: Any = AutoencoderKLWan
    return make(base_dim=config.vae_width, z_dim=config.latent_channels)


def _filled_vae(
    table: Table, config: FlashVsrConfig, device: torch.device, dtype: torch.dtype
) -> AutoencoderKLWan:
    """Without the encoder, which enlarging never runs."""
    with torch.device("meta"):
        vae = _vae(config)
    vae.encoder = vae.quant_conv = None
    _fill(vae, table, device, dtype)
    placed: AutoencoderKLWan = vae
    return placed


def _checked(table: Table, expected: Shapes) -> list[str]:
    """Notes on tensors that are not expected; raises ModelNotReady for those that are and cannot be used."""
    problem = lacks(expected, table.shapes)
    if problem:
        text = f"does not hold FlashVSR's weights: {problem}"
        raise ModelNotReady(
            f"{table.path.parent.name}/{table.path.name} {text}; copy the original file again"
        )
    unknown = counted("unknown", [name for name in table.names if name not in expected])
    return [f"{table.path.name} holds more than is used: {unknown}"] if unknown else []


def _digests(folder: Path, tables: Iterable[Table]) -> dict[Path, str]:
    with _readable(folder):
        return checksums({table.path for table in tables})


def _judged(folder: Path, tables: Mapping[Part, Table], digests: Mapping[Path, str]) -> list[str]:
    """Notes on the files' checksums. Only a file of a single part has a published one."""
    uses = Counter(table.path for table in tables.values())
    originals = {part: digests[table.path] for part, table in tables.items() if uses[table.path] == 1}
    repacks = [f"{path.name} is a repack of several files" for path, count in uses.items() if count > 1]
    return [*judged(originals, folder), *repacks]


def _fill(module: nn.Module, table: Table, device: torch.device, dtype: torch.dtype) -> None:
    """Puts the values in place: one of them at a time is there twice."""
    # A copy even where nothing is converted: weights that stay mapped would change with the file.
    state = {name: table.value(name).to(device, dtype, copy=True) for name in module.state_dict()}
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval().to(device)


def _read_safetensors(path: Path) -> Table:
    with _readable(path):
        file: Any = safe_open(path, framework="pt", device="cpu")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
        return Table(path, {name: name for name in shapes}, shapes, file.get_tensor)


def _read_pickle(path: Path) -> Table:
    """Mapped from disk where its format allows it; a file that is one tensor has it without a name."""
    with _readable(path):
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    tensors = _tensors({_UNNAMED: found} if isinstance(found, Tensor) else found)
    if tensors is None:
        raise ModelNotReady(f"{path.parent.name}/{path.name} is not a table of weights: copy it again")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Table(path, {name: name for name in shapes}, shapes, tensors.__getitem__)


def _tensors(found: Any) -> dict[str, Tensor] | None:
    if isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values()):
        return {str(name): value for name, value in found.items()}
    return None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what readers say of a damaged file into ModelNotReady."""
    try:
        yield
    except _DAMAGE as error:
        first_line = str(error).partition("\n")[0]
        where = f"{path.parent.name}/{path.name}"
        raise ModelNotReady(f"{where} is damaged or cut short ({first_line}): copy it again") from error
