from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import sentinel

import pytest

from models.engine import EngineKind, EngineSpec, ModelNotReady
from models.flashvsr.files import (
    FOLDERS,
    PUBLISHED,
    V1_1_FOLDER,
    V1_FOLDER,
    checksums,
    judged,
    main_file,
    part_file,
    version_of,
)
from models.flashvsr.networks import Part
from models.site import Site, missing, resources_of
from models.weights import ModelFolder

V1_1: dict[Part, str] = {part: published.sha256 for part, published in PUBLISHED.items()}
OTHER = "0" * 64
V1_1_PATH, V1_PATH = Path("models/flashvsr/FlashVSR-v1.1"), Path("models/flashvsr/FlashVSR")


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("FlashVSR-v1.1", "v1.1"),
        ("FlashVSR", "v1"),
        ("v1", "v1"),
        ("v1.1", "v1.1"),
        ("one-file", "v1.1"),
    ],
)
def test_the_folders_name_says_which_release_it_holds(name: str, version: str):
    assert version_of(Path("flashvsr") / name) == version


def spec(folder: ModelFolder) -> EngineSpec:
    return EngineSpec(name="flashvsr", kind=EngineKind.FULL, make=sentinel.make, folders=(folder,))


@pytest.mark.parametrize("folder", [V1_1_FOLDER, V1_FOLDER], ids=lambda folder: folder.path)
def test_missing_files_are_listed_by_name_and_place(tmp_path: Path, folder: ModelFolder):
    path = tmp_path / folder.path
    path.mkdir(parents=True)
    for name in ("diffusion_pytorch_model_streaming_dmd.safetensors", "LQ_proj_in.ckpt"):
        (path / name).touch()

    (text,) = missing(spec(folder), Site(tmp_path))

    assert text.endswith(f"put TCDecoder.ckpt, posi_prompt.pth into MEDIARAY_MODELS_DIR/{folder.path}")


def test_whole_folders_are_found(tmp_path: Path):
    for folder in FOLDERS.values():
        path = tmp_path / folder.path
        path.mkdir(parents=True)
        for name in folder.files:
            (path / name.replace("*", "any")).touch()

        found = resources_of(spec(folder), Site(tmp_path), device="cpu", threads=1)

        assert found.weights == {folder.path: path}


def test_the_main_file_may_have_any_name_but_must_be_the_only_one(tmp_path: Path):
    with pytest.raises(ModelNotReady, match=r"streaming_dmd\.safetensors is missing: put .* \(5,676 MB\)"):
        main_file(tmp_path)
    (tmp_path / "repack.safetensors").touch()
    assert main_file(tmp_path).name == "repack.safetensors"
    (tmp_path / "another.safetensors").touch()
    with pytest.raises(ModelNotReady, match=r"several .* another\.safetensors, repack\.safetensors"):
        main_file(tmp_path)
    original = tmp_path / PUBLISHED["transformer"].name
    original.touch()
    assert main_file(tmp_path) == original


def test_a_missing_original_is_named(tmp_path: Path):
    with pytest.raises(ModelNotReady, match=r"Wan2\.1_VAE\.pth is missing"):
        part_file(tmp_path, "vae")


def test_the_published_release_needs_no_notes():
    assert judged(V1_1, V1_1_PATH) == []


@pytest.mark.parametrize("part", ["transformer", "projector"])
def test_half_a_pair_of_v1_1_beside_something_else_is_refused(part: Part):
    with pytest.raises(ModelNotReady) as refused:
        judged(V1_1 | {part: OTHER}, V1_1_PATH)

    names = [PUBLISHED[name].name for name in ("transformer", "projector")]
    ours = next(name for name in names if name != PUBLISHED[part].name)
    text = f"FlashVSR-v1.1 mixes releases of FlashVSR: {ours} of v1.1 beside another {PUBLISHED[part].name}"
    assert str(refused.value).startswith(text)


@pytest.mark.parametrize("theirs", [{"transformer"}, {"projector"}, {"transformer", "projector"}], ids=sorted)
def test_v1_1_in_the_folder_of_v1_is_refused(theirs: set[Part]):
    pair: dict[Part, str] = {"transformer": OTHER, "projector": OTHER}

    with pytest.raises(ModelNotReady, match="mixes releases of FlashVSR"):
        judged(pair | {part: V1_1[part] for part in theirs}, V1_PATH)


def test_fine_tuned_weights_are_told_and_run():
    changed: dict[Part, str] = {"transformer": OTHER, "projector": OTHER, "decoder": OTHER}

    assert judged(V1_1 | changed, V1_1_PATH) == [
        "diffusion_pytorch_model_streaming_dmd.safetensors is not the published file",
        "LQ_proj_in.ckpt is not the published file",
        "TCDecoder.ckpt is not the published file",
    ]


def test_v1_is_told_by_its_folder():
    pair: dict[Part, str] = {"transformer": OTHER, "projector": OTHER}

    (note,) = judged(V1_1 | pair, V1_PATH)
    assert note.startswith("taken for FlashVSR v1 by the name of their folder")


def test_a_merged_pair_is_no_mix():
    """As of a repack, of which only the files of single parts have checksums."""
    assert judged({"decoder": V1_1["decoder"], "prompt": V1_1["prompt"]}, V1_1_PATH) == []


@pytest.fixture
def weight_file(tmp_path: Path) -> Path:
    path = tmp_path / "TCDecoder.ckpt"
    path.write_bytes(b"some weights")
    return path


def rewrite(path: Path, content: bytes, *, is_new: bool) -> None:
    """Other contents of the same length, with a new time of change or the old one."""
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + is_new))


def test_a_file_is_read_for_its_checksum_once(weight_file: Path):
    first = checksums([weight_file])
    assert first == {weight_file: "a0c76a31f14d6cbed530bfac73778a5bb84861b795e8bd5d4c8eee29784fb766"}

    rewrite(weight_file, b"other values", is_new=False)
    assert checksums([weight_file]) == first
    rewrite(weight_file, b"fresh values", is_new=True)
    assert checksums([weight_file]) != first


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"TCDecoder.ckpt": [1, 2]}', b"\xff"])
def test_a_damaged_list_of_checksums_is_made_again(weight_file: Path, content: bytes):
    first = checksums([weight_file])
    (weight_file.parent / ".sha256.json").write_bytes(content)

    assert checksums([weight_file]) == first
    rewrite(weight_file, b"other values", is_new=False)
    assert checksums([weight_file]) == first


def test_a_folder_that_cannot_be_written_is_read_every_time(weight_file: Path):
    (weight_file.parent / ".sha256.json").mkdir()  # the list cannot be put there
    first = checksums([weight_file])

    rewrite(weight_file, b"other values", is_new=False)
    assert checksums([weight_file]) != first
    assert sorted(path.name for path in weight_file.parent.iterdir()) == [".sha256.json", "TCDecoder.ckpt"]
