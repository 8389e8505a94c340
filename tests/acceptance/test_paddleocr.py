"""paddleocr on real pictures: exact texts, the area within 12 pixels, bad and long input, the full layout."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from models.engine import (
    Cancelled,
    DownloadUrl,
    EngineKind,
    InvalidInput,
    ModelNotReady,
)
from models.site import Site, missing, ready_engine, resources_of
from models.weights import locate
from models.zoo import paddleocr
from tests import subtitle_pictures as draw
from tests.run_context import LocalRunContext

AREA, TEXT = paddleocr.MODELS
MAX_ERROR_PX = 12
ZH = ["今天天气很好，我们去公园吧。", "你知道明天会下雨吗？"]
EN = ["Where are you going tonight?", "I don't know, maybe to the old bridge."]


def loaded(model, *, kind=EngineKind.EMBEDDED, site=Site()):  # noqa: B008 - frozen
    spec = next(spec for spec in model.engines if spec.kind is kind)
    engine = spec.make()
    engine.load(resources_of(spec, site, device="cpu", threads=1))
    return engine


@pytest.fixture(scope="module")
def area_engine():
    return loaded(AREA)


@pytest.fixture(scope="module")
def text_engine():
    return loaded(TEXT)


@pytest.fixture
def context(tmp_path):
    return LocalRunContext(tmp_path)


def run(model, engine, context, **inputs):
    given = {key: value if isinstance(value, list) else str(value) for key, value in inputs.items()}
    return engine.run(model.inputs(**given), context).values


def without_blanks(text: str) -> str:
    return "".join(text.split())


def results_of(values):
    assert values["ocr_results_minio_url"] == DownloadUrl(values["ocr_results_path"])
    return json.loads(values["ocr_results_path"].read_text())


def worst_error_px(area, ink) -> int:
    return max(abs(side - drawn) for side, drawn in zip(area, ink, strict=True))


# What is read


def test_burnt_in_subtitles_are_read_exactly(text_engine, context, tmp_path):
    texts = [*ZH, *EN]
    images = [draw.scene(1280, 720, number) for number in range(len(texts))]
    for image, text in zip(images, texts, strict=True):
        draw.write(image, text, (640, 670))
    folder = draw.save_all(images, tmp_path / "frames")
    values = run(TEXT, text_engine, context, keyframe_dir=folder)
    frames = results_of(values)["frames"]
    exact = sum(without_blanks(f["text"]) == without_blanks(t) for f, t in zip(frames, texts, strict=True))
    print(f"exact subtitles: {exact} of {len(texts)}")  # noqa: T201 - the score
    assert [without_blanks(frame["text"]) for frame in frames] == [without_blanks(text) for text in texts]
    assert [frame["time_s"] for frame in frames] == [0.0, 0.5, 1.0, 1.5]
    assert (values["total_frames"], values["text_frames"], values["total_lines"]) == (4, 4, 4)
    assert min(line["confidence"] for frame in frames for line in frame["lines"]) > 0.8


def page(mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (640, 360), "white")
    draw.write(image, "Where are you going?", (40, 80), 36, "lm")
    draw.write(image, "欢迎收看晚间新闻", (40, 200), 36, "lm")
    return image.convert(mode)


PAGE_TEXT = "Whereareyougoing?欢迎收看晚间新闻"


def turned(image: Image.Image, path):
    exif = Image.Exif()
    exif[0x0112] = 8  # stored turned a quarter to the right
    image.transpose(Image.Transpose.ROTATE_270).save(path, exif=exif)


WRITERS = {
    "a CMYK jpeg": ("a.jpg", lambda path: page("CMYK").save(path)),
    "16 bits": (
        "a.png",
        lambda path: Image.fromarray(np.asarray(page("L")).astype(np.uint16) * 200).save(path),
    ),
    "turned by its exif": ("a.jpg", lambda path: turned(page(), path)),
    "upside down": ("a.png", lambda path: page().transpose(Image.Transpose.ROTATE_180).save(path)),
}


@pytest.mark.parametrize(("name", "save"), WRITERS.values(), ids=WRITERS)
def test_one_picture_is_read_whatever_its_form(text_engine, context, tmp_path, name, save):
    save(tmp_path / name)
    values = run(TEXT, text_engine, context, image_path=tmp_path / name, languages=["chinese", "en"])
    lines = values["lines"]
    texts = [without_blanks(line["text"]) for line in lines]
    assert sorted(texts) == sorted([PAGE_TEXT[:17], PAGE_TEXT[17:]])
    assert values["text"] == "\n".join(line["text"] for line in lines)
    told = results_of(values)
    assert told["frames"][0]["lines"] == lines
    assert told["languages"] == ["chinese", "en"]


@pytest.mark.parametrize("is_turned", [False, True], ids=["upright", "turned by 180 degrees"])
def test_a_page_of_long_lines_is_read_in_its_order(text_engine, context, tmp_path, is_turned):
    image = Image.new("RGB", (1280, 140), "white")
    texts = [f"The quick brown fox jumps over the lazy dog number {n} and so on" for n in range(4)]
    for number, text in enumerate(texts):
        ImageDraw.Draw(image).text((20, 30 * number + 5), text, "black", ImageFont.load_default(22))
    (image.rotate(180) if is_turned else image).save(tmp_path / "page.png")
    values = run(TEXT, text_engine, context, image_path=tmp_path / "page.png")
    confidence = min(line["confidence"] for line in values["lines"])
    print(f"page {'turned' if is_turned else 'upright'}: {len(values['lines'])} of 4, from {confidence}")  # noqa: T201 - the score
    assert values["text"].splitlines() == texts
    (left, top), _, (right, bottom), _ = values["lines"][0]["box"]
    assert (left > right, top > bottom) == (is_turned, is_turned)


def test_boxes_are_pixels_of_the_picture_as_shown(text_engine, context, tmp_path):
    image = Image.new("RGB", (700, 300), "white")
    ink = draw.write(image, "Good morning", (500, 60), 40)
    turned(image, tmp_path / "a.jpg")
    (line,) = run(TEXT, text_engine, context, image_path=tmp_path / "a.jpg")["lines"]
    corners = np.array(line["box"])
    box = (*corners.min(axis=0), *corners.max(axis=0))
    assert worst_error_px(box, ink) <= 18  # the network draws its boxes wide
    assert corners[0].sum() == corners.sum(axis=1).min()


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (300, 200), "white"),
        Image.new("L", (5000, 3)),
        Image.new("L", (3, 5000)),
    ],
    ids=["one pixel", "blank", "a wide line", "a high line"],
)
def test_a_picture_without_text_has_none(text_engine, context, tmp_path, image):
    image.save(tmp_path / "blank.png")
    values = run(TEXT, text_engine, context, image_path=tmp_path / "blank.png")
    assert (values["text"], values["lines"]) == ("", [])
    assert results_of(values)["frames"][0]["lines"] == []


def test_a_manifest_orders_frames_and_says_their_times(text_engine, context, tmp_path):
    images = []
    for text in ("One", "Two"):
        images.append(Image.new("RGB", (320, 64), "black"))
        draw.write(images[-1], text, (160, 32))
    folder = draw.save_all(images, tmp_path / "frames", "f{}.png")
    manifest = tmp_path / "keyframes.json"
    entries = [{"index": 0, "time_s": 3.5, "file": "f500.png"}, {"index": 1, "time_s": 4, "file": "f0.png"}]
    manifest.write_text(json.dumps({"frames": entries}))
    values = run(TEXT, text_engine, context, manifest_path=manifest, multi_frames_path=folder)
    frames = results_of(values)["frames"]
    assert [(f["file"], f["time_s"], f["text"]) for f in frames] == [
        ("f500.png", 3.5, "Two"),
        ("f0.png", 4.0, "One"),
    ]


def test_equal_frames_are_read_once(text_engine, context, tmp_path, monkeypatch):
    """The second of two equal pictures costs no network; one that differs in a pixel does."""
    image = Image.new("RGB", (320, 64), "black")
    draw.write(image, "Hello", (160, 32))
    other = image.copy()
    other.putpixel((0, 0), (1, 1, 1))
    folder = draw.save_all([image, image, other], tmp_path / "frames", "f{}.png")
    calls = []
    read = text_engine._frames.read
    monkeypatch.setattr(text_engine._frames, "read", lambda *given: calls.append(1) or read(*given))
    frames = results_of(run(TEXT, text_engine, context, keyframe_dir=folder))["frames"]
    assert [frame["text"] for frame in frames] == ["Hello"] * 3
    assert len(calls) == 2


def test_what_cannot_be_read_is_passed_over_and_told(text_engine, context, tmp_path):
    folder = draw.save_all([page()], tmp_path / "frames")
    (folder / "notes.txt").write_text("no picture")
    (folder / "z.jpg").write_bytes((folder / "keyframe_000000000ms.jpg").read_bytes()[:4000])
    values = run(TEXT, text_engine, context, keyframe_dir=folder)
    assert (values["total_frames"], values["skipped_files"]) == (1, 2)
    (skipped,) = results_of(values)["skipped"]
    assert skipped["file"] == "z.jpg"
    assert "damaged" in skipped["reason"]
    assert "2 files were passed over" in values["notes"][0]


def test_a_folder_of_damaged_pictures_is_refused(text_engine, area_engine, context, tmp_path):
    folder = draw.save_all([page()], tmp_path / "frames")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:4000])
    for model, engine in ((TEXT, text_engine), (AREA, area_engine)):
        with pytest.raises(InvalidInput, match="keyframe_dir: none") as caught:
            run(model, engine, context, keyframe_dir=folder)
        assert caught.value.field == "keyframe_dir"


def test_a_cancel_stops_between_frames(text_engine, tmp_path):
    context = LocalRunContext(tmp_path, cancel_at=2)
    image = Image.new("RGB", (64, 32))
    folder = draw.save_all([image] * 30, tmp_path / "frames")
    with pytest.raises(Cancelled):
        run(TEXT, text_engine, context, keyframe_dir=folder)
    assert [(report.done, report.total, report.unit) for report in context.reports] == [
        *((number, 30, "frames") for number in range(3)),
    ]


def test_a_cancel_stops_between_lines(text_engine, tmp_path):
    context = LocalRunContext(tmp_path)
    reads = []

    def check():
        reads.append(1)
        if len(reads) == 3:
            raise Cancelled

    context.check = check
    page().save(tmp_path / "page.png")
    with pytest.raises(Cancelled):
        run(TEXT, text_engine, context, image_path=tmp_path / "page.png")


def test_a_cancel_stops_while_text_is_looked_for(text_engine, tmp_path):
    context, checks = LocalRunContext(tmp_path), []

    def check():
        checks.append(1)
        if len(checks) == 2:  # the first is before the network runs; a blank picture has no lines
            raise Cancelled

    context.check = check
    Image.new("RGB", (1280, 1280), "white").save(tmp_path / "blank.png")
    with pytest.raises(Cancelled):
        run(TEXT, text_engine, context, image_path=tmp_path / "blank.png")


# Where subtitles stand


def subtitled(num_frames: int, middle_y: int, *, logo: bool = False):
    """Frames of 640x360 whose scene changes, with a subtitle on two of three; the ink of all subtitles."""
    texts, inks, images = [*EN, *ZH], [], []
    for number in range(num_frames):
        images.append(draw.scene(640, 360, number))
        if logo:
            draw.write(images[-1], "NEWS 24", (560, 30), 22)
        if number % 3:
            inks.append(draw.write(images[-1], texts[number % 4], (320, middle_y), 24))
        else:
            draw.write(images[-1], "Exit", (90 + 40 * number, 120 + 9 * number), 26)
    return images, draw.around(inks)


@pytest.mark.parametrize("source", ["video_path", "keyframe_dir"])
def test_the_area_is_within_12_pixels(area_engine, context, tmp_path, source):
    images, ink = subtitled(6, 330, logo=True)
    path = (
        draw.video_of(images, tmp_path / "v.mp4")
        if source == "video_path"
        else draw.save_all(images, tmp_path / "f")
    )
    values = run(AREA, area_engine, context, **{source: path})
    print(f"area {values['subtitle_area']}, drawn {ink}, confidence {values['confidence']}")  # noqa: T201 - the score
    assert worst_error_px(values["subtitle_area"], ink) <= MAX_ERROR_PX
    assert values["input_source"] == source
    assert 0.5 <= values["confidence"] <= 1
    assert (values["frame_width"], values["frame_height"], values["sampled_frames"]) == (640, 360, 6)
    assert context.reports[-1].done == context.reports[-1].total == 6


def test_the_area_of_subtitles_at_720_lines(area_engine, context, tmp_path):
    images = [draw.scene(1280, 720, number) for number in range(3)]
    inks = [draw.write(image, text, (640, 670)) for image, text in zip(images, [*ZH, EN[1]], strict=True)]
    values = run(AREA, area_engine, context, keyframe_dir=draw.save_all(images, tmp_path / "frames"))
    error_px = worst_error_px(values["subtitle_area"], draw.around(inks))
    print(f"area off by {error_px} px")  # noqa: T201 - the score
    assert error_px <= MAX_ERROR_PX
    assert values["confidence"] == 1


def test_subtitles_at_the_top(area_engine, context, tmp_path):
    images, ink = subtitled(5, 36)
    values = run(AREA, area_engine, context, keyframe_dir=draw.save_all(images, tmp_path / "frames"))
    assert worst_error_px(values["subtitle_area"], ink) <= MAX_ERROR_PX


def test_a_video_without_subtitles_has_no_area(area_engine, context, tmp_path):
    images = [draw.scene(640, 360, number) for number in range(4)]
    for image in images:
        draw.write(image, "NEWS 24", (560, 30), 22)
    values = run(AREA, area_engine, context, video_path=draw.video_of(images, tmp_path / "v.mp4"))
    assert (values["subtitle_area"], values["confidence"]) == (None, 0)
    assert "no subtitles found" in values["notes"][0]


def test_frames_of_another_size_are_passed_over(area_engine, context, tmp_path):
    images, ink = subtitled(5, 330)
    folder = draw.save_all([*images, Image.new("RGB", (64, 64))], tmp_path / "frames")
    (folder / "notes.txt").write_text("no picture")
    values = run(AREA, area_engine, context, keyframe_dir=folder)
    assert worst_error_px(values["subtitle_area"], ink) <= MAX_ERROR_PX
    assert (values["sampled_frames"], values["skipped_files"]) == (5, 2)
    assert "1 pictures were passed over" in values["notes"][0]


def test_a_long_folder_is_sampled(area_engine, context, tmp_path):
    folder = draw.save_all([Image.new("RGB", (64, 32))] * 100, tmp_path / "frames")
    values = run(AREA, area_engine, context, keyframe_dir=folder)
    assert values["sampled_frames"] == 24
    assert values["subtitle_area"] is None


# What is refused at submit


@pytest.mark.parametrize(
    ("model", "inputs", "text", "field"),
    [
        (TEXT, {}, "give an input: image_path, keyframe_dir, or", "image_path"),
        (TEXT, {"image_path": "a", "keyframe_dir": "b"}, "give one of image_path", "image_path"),
        (TEXT, {"manifest_path": "a"}, "multi_frames_path is missing", "multi_frames_path"),
        (TEXT, {"multi_frames_path": "a"}, "manifest_path is missing", "manifest_path"),
        (AREA, {}, "give keyframe_dir or video_path", "keyframe_dir"),
        (AREA, {"keyframe_dir": "a", "video_path": "b"}, "not both", "video_path"),
    ],
    ids=["nothing", "two", "manifest alone", "folder alone", "no area source", "two area sources"],
)
def test_exactly_one_source(model, inputs, text, field):
    with pytest.raises(InvalidInput, match=text) as caught:
        model.check(model.inputs(**inputs), {})
    assert caught.value.field == field


@pytest.mark.parametrize("languages", [["chinese", "klingon"], []], ids=["unknown", "none"])
def test_languages_are_checked(languages):
    with pytest.raises(ValidationError, match=r"klingon; known: chinese, .*english|at least 1 item"):
        TEXT.inputs(image_path="a", languages=languages)


# The networks of an operator


@pytest.fixture
def models_dir(tmp_path):
    """The layout of the full engine, filled with the networks of the wheel."""
    folder = tmp_path / "models" / "paddleocr"
    folder.mkdir(parents=True)
    embedded = next(spec for spec in TEXT.engines if spec.kind is EngineKind.EMBEDDED)
    for name, weight in zip(("det.onnx", "rec.onnx"), embedded.weights, strict=True):
        shutil.copy(locate(weight), folder / name)
    return folder.parent


def test_the_full_engine_reads_with_the_networks_of_the_operator(models_dir, context, tmp_path):
    site = Site(models_dir=models_dir)
    assert ready_engine(TEXT, site).kind is EngineKind.FULL
    page().save(tmp_path / "page.png")
    values = run(
        TEXT, loaded(TEXT, kind=EngineKind.FULL, site=site), context, image_path=tmp_path / "page.png"
    )
    assert without_blanks(values["text"]) == PAGE_TEXT


@pytest.mark.parametrize("name", ["det.onnx", "rec.onnx"])
def test_a_missing_network_is_named(models_dir, name):
    (models_dir / "paddleocr" / name).unlink()
    full = next(spec for spec in AREA.engines if spec.kind is EngineKind.FULL)
    (problem,) = missing(full, Site(models_dir=models_dir))
    assert f"put {name} into MEDIARAY_MODELS_DIR/paddleocr" in problem
    assert ready_engine(AREA, Site(models_dir=models_dir)).kind is EngineKind.EMBEDDED


@pytest.fixture
def characters(models_dir):
    """Takes the list of characters out of the network, as exports by paddle2onnx have none; the list."""
    rec = models_dir / "paddleocr" / "rec.onnx"
    listed = onnxruntime.InferenceSession(rec).get_modelmeta().custom_metadata_map["character"]
    content = rec.read_bytes()
    assert content.count(b"\x0a\x09character") == 1
    rec.write_bytes(content.replace(b"\x0a\x09character", b"\x0a\x09forgotten"))
    return listed.splitlines()


def test_a_network_without_its_characters_needs_a_list(models_dir, characters):
    with pytest.raises(ModelNotReady, match=r"put rec_keys\.txt into MEDIARAY_MODELS_DIR/paddleocr"):
        loaded(TEXT, kind=EngineKind.FULL, site=Site(models_dir=models_dir))


def test_the_list_of_characters_may_be_a_file(models_dir, characters, context, tmp_path):
    keys = models_dir / "paddleocr" / "rec_keys.txt"
    keys.write_text("\n".join(characters), encoding="utf-8")
    page().save(tmp_path / "page.png")
    engine = loaded(TEXT, kind=EngineKind.FULL, site=Site(models_dir=models_dir))
    values = run(TEXT, engine, context, image_path=tmp_path / "page.png")
    assert without_blanks(values["text"]) == PAGE_TEXT


def test_a_list_of_other_characters_is_refused(models_dir, characters):
    keys = models_dir / "paddleocr" / "rec_keys.txt"
    keys.write_text("\n".join(characters[:6000]), encoding="utf-8")
    with pytest.raises(
        ModelNotReady, match=r"tells 18710 characters apart, its list has 6002: .*rec_keys\.txt"
    ):
        loaded(TEXT, kind=EngineKind.FULL, site=Site(models_dir=models_dir))


def test_a_network_that_is_none_is_named(models_dir):
    (models_dir / "paddleocr" / "det.onnx").write_bytes(b"no network")
    with pytest.raises(ModelNotReady, match=r"det\.onnx"):
        loaded(AREA, kind=EngineKind.FULL, site=Site(models_dir=models_dir))


def test_the_thread_count_is_kept(text_engine):
    session = text_engine._frames._finder._network.text_det.session.session
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
