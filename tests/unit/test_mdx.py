from __future__ import annotations

import hashlib
import json
import time

import numpy as np
import pytest
import torch

from models.engine import Cancelled, InvalidInput, ModelNotReady, OutOfMemory
from models.networks.mdx import MdxModels, parameters_of
from models.overlap_add import Windows, overlap_add
from models.weights import locate_folder
from models.zoo.audio_separator import MDX_FOLDER
from tests.onnx_files import write_chain
from tests.speech_and_music import RATE_HZ, sdr_db

SIZES = {"mdx_n_fft_scale_set": 2048, "mdx_dim_f_set": 1024, "mdx_dim_t_set": 6}
ENTRY = {**SIZES, "compensate": 1.0, "primary_stem": "Vocals"}
SHAPE = ("batch_size", 4, 1024, 64)
IDENTITY = [("Identity", None)]


def nothing() -> None:
    pass


def md5_of(path) -> str:
    """The rule of audio-separator, word for word: the last 10,000 * 1024 bytes, or all of a shorter file."""
    return hashlib.md5(path.read_bytes()[-10000 * 1024 :]).hexdigest()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "audio-separator"
    path.mkdir()
    return path


def install(folder, name, *, nodes=IDENTITY, shape=SHAPE, **entry):
    path = write_chain(folder / name, shape, nodes)
    table = folder / "mdx_model_data.json"
    known = json.loads(table.read_text()) if table.exists() else {}
    table.write_text(json.dumps(known | {md5_of(path): ENTRY | entry}))
    return path


def models(folder) -> MdxModels:
    return MdxModels(folder, device="cpu", threads=1)


def tones(length: int) -> np.ndarray:
    """What MDX-Net can hear: no sudden start or end, nothing in the lowest bins, which it is never given."""
    time_s = np.arange(length) / RATE_HZ
    frequencies_hz = np.array([[441.0, 3000.0, 9000.0], [700.0, 5000.0, 15000.0]])
    waves = np.sin(2 * np.pi * frequencies_hz[..., None] * time_s).sum(axis=1)
    fade = np.minimum(1, np.minimum(time_s, time_s[::-1]) / 0.2)
    return (waves * np.sin(np.pi / 2 * fade) ** 2 / 4).astype(np.float32)


def separated(model, mix: np.ndarray, share: float = 0.25) -> np.ndarray:
    windows = Windows.of(model.parameters.window_samples, share, model.parameters.margin)
    pieces = overlap_add([mix], windows, lambda window: model.vocals(window, nothing))
    return np.concatenate([vocals for _, vocals in pieces], axis=1)


@pytest.mark.parametrize("share", [1 / 16, 1 / 4, 1 / 2], ids=["fast", "default", "high quality"])
@pytest.mark.parametrize("length", [40_000, 63 * 1024, 200_001], ids=["less", "one window", "several"])
def test_a_model_that_changes_nothing_gives_the_sound_back(folder, length, share):
    install(folder, "identity.onnx")
    mix = tones(length)
    vocals = separated(models(folder).get(None), mix, share)
    assert vocals.shape == mix.shape
    sdr = sdr_db(mix, vocals)
    print(f"SDR of the round trip: {sdr:.1f} dB")  # noqa: T201 - the score, shown by -s
    assert sdr > 60


def test_ten_milliseconds_come_back_as_long(folder):
    install(folder, "identity.onnx")
    assert separated(models(folder).get(None), tones(441)).shape == (2, 441)


def test_compensation_scales_what_the_model_finds(folder):
    install(folder, "half.onnx", nodes=[("Mul", 0.25)], compensate=2.0)
    mix = tones(100_000)
    assert sdr_db(mix / 2, separated(models(folder).get(None), mix)) > 60


def test_vocals_are_what_a_model_of_instruments_leaves(folder):
    install(folder, "inst.onnx", nodes=[("Mul", 0.75)], primary_stem="Instrumental")
    mix = tones(100_000)
    assert sdr_db(mix / 4, separated(models(folder).get(None), mix)) > 50


def test_channels_and_parts_are_where_the_models_expect_them(folder):
    """The network gets left real, left imaginary, right real, right imaginary."""
    install(folder, "identity.onnx")
    model = models(folder).get(None)
    seen = []
    run = model._session
    model._session = type("Spy", (), {"run": lambda _, *given: seen.append(given[0]) or run.run(*given)})()
    mix = tones(model.parameters.window_samples)
    mix[1] = 0
    model.vocals(mix, nothing)
    (spectrum,) = seen[0].values()
    expected = np.fft.rfft(mix[0, 9 * 1024 : 11 * 1024] * np.hanning(2049)[:-1])[:1024]  # frame 10
    np.testing.assert_allclose(spectrum[0, 0, 3:, 10], expected.real[3:], atol=0.01)
    np.testing.assert_allclose(spectrum[0, 1, 3:, 10], expected.imag[3:], atol=0.01)
    assert not spectrum[0, 2:].any()
    assert not spectrum[0, :, :3].any()


def test_parameters_are_found_by_the_md5_of_the_last_ten_million_bytes(folder):
    path = write_chain(folder / "large.onnx", SHAPE, IDENTITY, remark=bytes(11_000_000))
    assert md5_of(path) != hashlib.md5(path.read_bytes()).hexdigest()
    (folder / "mdx_model_data.json").write_text(json.dumps({md5_of(path): ENTRY | {"compensate": 1.5}}))
    parameters = parameters_of(path)
    assert (parameters.fft_size, parameters.num_bins, parameters.num_frames) == (2048, 1024, 64)
    assert (parameters.compensate, parameters.finds_vocals) == (1.5, True)


@pytest.mark.parametrize("name", ["b.onnx", "b"], ids=["file name", "without suffix"])
def test_a_model_is_chosen_by_name_and_stays_loaded(folder, name):
    install(folder, "a.onnx", nodes=[("Mul", 0.5)])
    install(folder, "b.onnx", nodes=[("Mul", 0.25)])
    there = models(folder)
    assert there.get(name).name == "b.onnx"
    assert there.get(name) is there.get(name)


def test_the_preferred_model_is_the_default_and_what_separates_other_things_is_passed_over(folder):
    install(folder, "a_drums.onnx", nodes=[("Mul", 0.1)], primary_stem="Drums")
    install(folder, "b.onnx", nodes=[("Mul", 0.2)])
    assert models(folder).get(None).name == "b.onnx"
    install(folder, "Kim_Vocal_2.onnx", nodes=[("Mul", 0.3)])
    assert models(folder).get(None).name == "Kim_Vocal_2.onnx"


@pytest.mark.parametrize("name", ["c.onnx", "../a.onnx", "/etc/passwd", "*.onnx"])
def test_a_name_that_is_not_installed_is_told_with_those_that_are(folder, name):
    install(folder, "a.onnx")
    install(folder, "b.onnx", nodes=[("Mul", 0.5)])
    with pytest.raises(InvalidInput, match=r"is not installed; there are a\.onnx, b\.onnx") as caught:
        models(folder).get(name)
    assert caught.value.field == "model_name"


def test_a_named_model_of_something_else_is_refused(folder):
    install(folder, "drums.onnx", primary_stem="Drums")
    with pytest.raises(InvalidInput, match=r"drums\.onnx is no MDX-Net model of vocals") as caught:
        models(folder).get("drums")
    assert caught.value.field == "model_name"


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("{}", r"mdx_model_data\.json does not know a\.onnx \(MD5 [0-9a-f]{32}\)"),
        ("{", r"mdx_model_data\.json is no JSON"),
        ("[]", r"mdx_model_data\.json is no table"),
        ({"config_yaml": "model_2_stem.yaml"}, r"a\.onnx is no MDX-Net model"),
        ([1], r"a\.onnx is no MDX-Net model"),
        (ENTRY | {"mdx_dim_f_set": 2000}, "impossible sizes"),
        (ENTRY | {"mdx_dim_f_set": 512}, r"a\.onnx takes \['batch_size', 4, 1024, 64\], but mdx_model_data"),
    ],
    ids=["unknown", "no JSON", "a list", "MDX23C", "no entry", "more bins than there are", "other sizes"],
)
def test_a_table_that_does_not_fit_is_told(folder, table, text):
    path = install(folder, "a.onnx")
    if not isinstance(table, str):
        table = json.dumps({md5_of(path): table})
    (folder / "mdx_model_data.json").write_text(table)
    with pytest.raises(ModelNotReady, match=text):
        models(folder).get(None)


def test_a_file_that_is_no_model_is_told(folder):
    path = install(folder, "a.onnx")
    path.write_bytes(b"no model")
    (folder / "mdx_model_data.json").write_text(json.dumps({md5_of(path): ENTRY}))
    with pytest.raises(ModelNotReady, match=r"a\.onnx is no ONNX model that runs here"):
        models(folder).get(None)


@pytest.mark.parametrize(
    ("gone", "named"), [("a.onnx", r"\*\.onnx"), ("mdx_model_data.json", r"mdx_model_data\.json")]
)
def test_what_is_missing_is_named_with_its_folder(folder, gone, named):
    install(folder, "a.onnx")
    assert locate_folder(MDX_FOLDER, folder.parent) == folder
    (folder / gone).unlink()
    with pytest.raises(ModelNotReady, match=f"put {named} into MEDIARAY_MODELS_DIR/audio-separator"):
        locate_folder(MDX_FOLDER, folder.parent)


def test_a_cancel_ends_the_network_between_two_of_its_nodes(folder):
    install(folder, "slow.onnx", nodes=[("Sin", None)] * 1000)
    model = models(folder).get(None)
    mix = tones(model.parameters.window_samples)
    begin_s = time.perf_counter()
    model.vocals(mix, nothing)
    whole_s = time.perf_counter() - begin_s

    def cancelled() -> None:
        raise Cancelled

    begin_s = time.perf_counter()
    with pytest.raises(Cancelled):
        model.vocals(mix, cancelled)
    assert time.perf_counter() - begin_s < whole_s / 2


def test_a_device_without_memory_is_told_as_such(folder, monkeypatch):
    install(folder, "identity.onnx")
    model = models(folder).get(None)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch, "stft", full)
    with pytest.raises(OutOfMemory, match=r"a window of identity\.onnx: CUDA out of memory\."):
        model.vocals(tones(1000), nothing)
