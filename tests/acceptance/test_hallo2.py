"""The embedded talking portrait, scored on what its video shows: meshes and motion measured on the frames."""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from models import face_topology
from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter, read_audio
from models.engine import Cancelled, InvalidInput, Resources
from models.face_weights import FACE_WEIGHTS
from models.faces import Face, load_face_finder
from models.media import ffmpeg_path, probe
from models.pictures import read_picture
from models.portrait import engine as engine_module
from models.portrait.engine import PortraitEngine
from models.portrait.limits import MAX_SOUND_S, check
from models.video_streams import decode_video
from models.weights import locate
from models.zoo.hallo2 import AnimateInputs
from tests.run_context import LocalRunContext
from tests.spoken_phonemes import PhonemeVoice
from tests.stores import SAMPLES

PORTRAIT = SAMPLES / "portrait.png"
CONVERSATION = SAMPLES / "conversation.wav"
FPS = 25
RATE_HZ = 16_000
FRAME = RATE_HZ // FPS
CUT_S = (4.5, 8.0)  # start and length in the conversation: two silent seconds, then both voices
SENTENCE = "Bob and Pam may buy a big map, but Peter put up a pumpkin."
UPPER_FACE = (
    *(face_topology.LEFT_EYE_UPPER[index] for index in (0, -1)),
    *(face_topology.RIGHT_EYE_UPPER[index] for index in (0, -1)),
    *face_topology.LEFT_BROW_UPPER,
    *face_topology.RIGHT_BROW_UPPER,
    *face_topology.NOSE_BRIDGE[:4],
    face_topology.FOREHEAD,
)
"""Points that neither speech nor a blink moves."""
LEAST_CORRELATION, LEAST_SHUT_SHARE = 0.6, 0.7
MAX_UPPER_FACE_SHARE, MAX_MOTION_PX = 0.02, 1.0
CLOSED = 0.07  # measured opening of lips that meet; the picture's own smile has 0.14, wide vowels 0.16
BLOCK_PX, REACH_PX = 16, 3
NECK_SHARE = 0.15  # of the face's size: so far the skin below the chin follows the jaw


@dataclass(frozen=True)
class Measured:
    """What a video shows: a mesh for each frame, and some of the frames."""

    values: dict
    meshes: np.ndarray  # (T, 468, 3)
    frames: list
    heard: np.ndarray  # (T,) RMS

    @property
    def openings(self):
        """(T,) gap between the lips by the mouth's width."""
        return np.array([face_topology.mouth_opening(mesh) for mesh in self.meshes])


@pytest.fixture(scope="module")
def finder():
    return load_face_finder({file.path: locate(file) for file in FACE_WEIGHTS})


@pytest.fixture(scope="module")
def engine():
    engine = PortraitEngine()
    engine.load(Resources(threads=1, weights={file.path: locate(file) for file in FACE_WEIGHTS}))
    return engine


@pytest.fixture
def animate(engine, tmp_path):
    """Runs the engine; the picture is the sample and the sound a fifth of a second unless they are given."""

    def run(image=PORTRAIT, sound=None, *, context=None, **inputs):
        sound = sound or written(tmp_path / "short.wav", tone(0.2))
        asked = AnimateInputs(image_path=str(image), audio_path=str(sound), **inputs)
        return engine.run(asked, context or LocalRunContext(tmp_path / "run")).values

    return run


@pytest.fixture(scope="module")
def source_face(finder) -> Face:
    return finder.find(read_picture(PORTRAIT))[0]


@pytest.fixture(scope="module")
def measure(engine, finder, source_face, tmp_path_factory):
    """Runs the engine on the sample portrait and measures each frame of its video."""

    def run(sound: Path) -> Measured:
        context = LocalRunContext(tmp_path_factory.mktemp("film"))
        asked = AnimateInputs(image_path=str(PORTRAIT), audio_path=str(sound))
        values = engine.run(asked, context).values
        print(f"\n{values['num_frames']} frames: {values['stage_seconds']}")  # noqa: T201
        meshes, frames = [], []
        for number, (frame, _) in enumerate(decode_video(values["video_path"])):
            meshes.append(finder.mesh(frame, source_face).mesh_px)
            if number % 20 == 0:
                frames.append(frame)
        return Measured(values, np.stack(meshes), frames, envelope(sound, len(meshes)))

    return run


@pytest.fixture(scope="module")
def conversation(measure, tmp_path_factory):
    sound = read_audio(CONVERSATION, rate_hz=RATE_HZ, channels=1)[0]
    start, length = (round(seconds * RATE_HZ) for seconds in CUT_S)
    cut = written(tmp_path_factory.mktemp("sound") / "cut.wav", sound[start : start + length])
    return measure(cut)


def written(path, sound, *, rate_hz=RATE_HZ):
    with AudioWriter(path, AudioFormat.WAV, rate_hz=rate_hz, channels=1) as writer:
        writer.write(np.asarray(sound, np.float32)[None])
    return path


def tone(seconds):
    return 0.2 * np.sin(2 * np.pi * 200 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)


def envelope(path, count):
    sound = read_audio(path, rate_hz=RATE_HZ, channels=1)[0]
    padded = np.pad(sound, (0, max(0, count * FRAME - len(sound))))[: count * FRAME]
    return np.sqrt((padded.reshape(count, FRAME) ** 2).mean(axis=1))


def encoded(source, path, *arguments):
    command = [ffmpeg_path(), "-v", "error", "-y", *arguments, "-i", str(source), str(path)]
    subprocess.run(command, check=True)
    return path


# Scores


def test_the_mouth_opens_as_is_spoken(conversation):
    correlation = np.corrcoef(conversation.openings, conversation.heard)[0, 1]
    print(f"\nmouth and envelope: r = {correlation:.2f}")  # noqa: T201 - the score
    assert correlation >= LEAST_CORRELATION


def test_the_mouth_is_closed_in_silence(conversation):
    silent = conversation.openings[5 : round((6.6 - CUT_S[0]) * FPS)]
    wide = np.quantile(conversation.openings, 0.95)
    print(f"\nmeasured opening: {silent.max():.3f} in silence, {wide:.3f} in wide vowels")  # noqa: T201 - the score
    assert silent.max() < CLOSED < 0.5 * wide


def test_the_mouth_closes_on_most_m_b_and_p(measure, tmp_path):
    sound = tmp_path / "sentence.wav"
    said = PhonemeVoice().say(SENTENCE, sound)
    openings, least = measure(sound).openings, []
    for before, phoneme in pairwise(said):
        if phoneme.sign in "mbp":
            # The network tells where a phoneme is released; its closure begins in the one before.
            start_s = max((before.start_s + before.end_s) / 2, phoneme.start_s - 0.08)
            least.append(openings[int(start_s * FPS) : int((phoneme.end_s + 0.02) * FPS) + 1].min())
    share = np.mean(np.array(least) < CLOSED)
    print(f"\nclosed on {share:.2f} of {len(least)} m, b and p: {np.round(least, 3)}")  # noqa: T201 - the score
    assert len(least) >= 12
    assert share >= LEAST_SHUT_SHARE
    assert np.quantile(openings, 0.75) > 1.5 * CLOSED, "the vowels between them are open"


def test_the_upper_face_stays_who_it_is(conversation, source_face):
    points = list(UPPER_FACE)
    away_px = np.linalg.norm(
        (conversation.meshes - source_face.mesh_px)[:, points, :2], axis=2
    )  # (T, points)
    shares = away_px.mean(axis=1) / source_face.size_px
    print(f"\nupper face: at most {shares.max():.4f} of the face's size")  # noqa: T201 - the score
    assert shares.max() <= MAX_UPPER_FACE_SHARE


def test_what_is_not_face_does_not_move(conversation, source_face):
    source = read_picture(PORTRAIT)
    motion_px = [outside_motion_px(source, frame, source_face) for frame in conversation.frames]
    print(f"\noutside the face: {max(motion_px):.2f} px")  # noqa: T201 - the score
    assert len(motion_px) >= 10
    assert max(motion_px) < MAX_MOTION_PX


def test_motion_is_seen_where_there_is_some(source_face):
    """What the score above measures with."""
    source = read_picture(PORTRAIT)
    assert outside_motion_px(source, np.roll(source, 2, axis=1), source_face) >= 2


def outside_motion_px(source, frame, face):
    """The farthest way of a block of pixels outside the face, of those that have a pattern of their own."""
    outline = face.mesh_px[list(face_topology.FACE_OVAL), :2].astype(np.float32)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (source, frame)]
    steps = range(REACH_PX, min(grey[0].shape) - BLOCK_PX - REACH_PX, BLOCK_PX)
    farthest = 0.0
    for top, left in product(steps, steps):
        middle = (left + BLOCK_PX / 2, top + BLOCK_PX / 2)
        block = grey[0][top : top + BLOCK_PX, left : left + BLOCK_PX]
        inside_px = cv2.pointPolygonTest(outline, middle, measureDist=True)
        if inside_px < -NECK_SHARE * face.size_px and has_corners(block):
            rows, columns = (slice(at - REACH_PX, at + BLOCK_PX + REACH_PX) for at in (top, left))
            farthest = max(farthest, way_px(block, grey[1][rows, columns]))
    return farthest


def has_corners(block):
    """Whether a block can be told from itself moved in any direction."""
    return cv2.cornerMinEigenVal(block, BLOCK_PX - 1)[BLOCK_PX // 2, BLOCK_PX // 2] > 1e-3


def way_px(block, around):
    costs = cv2.matchTemplate(around, block, cv2.TM_SQDIFF)
    y, x = np.unravel_index(np.argmin(costs), costs.shape)
    return math.hypot(x - REACH_PX, y - REACH_PX)


# The video


@pytest.mark.parametrize(("suffix", "codec"), [("mp3", "mp3"), ("m4a", "aac")])
def test_sound_that_mp4_carries_is_copied(suffix, codec, animate, tmp_path):
    cut = ("-ss", "7", "-t", "1.3")
    sound = encoded(CONVERSATION, tmp_path / f"sound.{suffix}", *cut)
    values = animate(sound=sound)
    packets = [bytes(packet) for packet in packets_of(sound)]
    assert [bytes(packet) for packet in packets_of(values["video_path"])] == packets
    info = probe(values["video_path"])
    assert info.audio.codec.removesuffix("float") == codec
    assert info.video.num_frames == values["num_frames"]
    assert values["num_frames"] == math.ceil(len(read_audio(sound, rate_hz=RATE_HZ, channels=1)[0]) / FRAME)


def packets_of(path):
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(container.streams.audio[0]) if packet.size]


@pytest.mark.parametrize("seconds", [0.04, 0.5, 1.0, 1.01])
def test_the_video_lasts_as_long_as_the_sound(seconds, animate, tmp_path):
    values = animate(sound=written(tmp_path / "sound.wav", tone(seconds)))
    frames = math.ceil(seconds * FPS)
    assert values["num_frames"] == frames == sum(1 for _ in decode_video(values["video_path"]))
    assert values["duration"] == frames / FPS
    assert values["fps"] == FPS
    length = read_audio(values["video_path"], rate_hz=RATE_HZ, channels=1).shape[1]
    assert length / RATE_HZ >= seconds - 0.001


def test_the_same_request_gives_the_same_video(animate, tmp_path):
    sound = written(tmp_path / "sound.wav", tone(0.5))
    paths = [
        animate(sound=sound, context=LocalRunContext(tmp_path / str(run)))["video_path"] for run in range(2)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_result_says_what_it_is(animate):
    values = animate()
    assert "not Hallo2" in values["notes"][0]
    assert values["seed"] == 42
    assert set(values["stage_seconds"]) == {"load", "listen", "face", "render", "mux", "total"}
    assert values["video_path"].is_file()


def test_silence_is_a_video_of_a_closed_mouth(animate, finder, source_face, tmp_path):
    values = animate(sound=written(tmp_path / "sound.wav", np.zeros(RATE_HZ)))
    assert any("No speech" in note for note in values["notes"])
    for frame, _ in decode_video(values["video_path"]):
        assert face_topology.mouth_opening(finder.mesh(frame, source_face).mesh_px) < CLOSED


# Pictures


def picture_file(form, folder):
    portrait = Image.open(PORTRAIT).convert("RGB")
    path = folder / f"{form}.{'jpg' if form in {'cmyk', 'exif'} else 'png'}"
    if form == "cmyk":
        portrait.convert("CMYK").save(path, quality=95)
    elif form == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # shown after a quarter turn clockwise
        portrait.rotate(90).save(path, quality=95, exif=exif)
    elif form == "16 bit":
        cv2.imwrite(str(path), np.asarray(portrait)[:, :, ::-1].astype(np.uint16) * 257)
    elif form == "16 bit grey":
        Image.fromarray(np.asarray(portrait.convert("L")).astype(np.uint16) * 257).save(path)
    return path


@pytest.mark.parametrize("form", ["cmyk", "exif", "16 bit", "16 bit grey"])
def test_pictures_of_every_form_are_shown_upright(form, animate, finder, source_face, tmp_path):
    values = animate(picture_file(form, tmp_path))
    assert (values["width"], values["height"]) == (512, 512)
    face = finder.find(next(decode_video(values["video_path"]))[0])[0]
    assert np.abs(np.array(face.box_px) - source_face.box_px).max() < 0.1 * source_face.size_px


@pytest.mark.parametrize(
    ("size", "shown"), [((301, 301), (300, 300)), ((1400, 1401), (1024, 1024))], ids=["odd", "large"]
)
def test_sides_are_even_and_at_most_1024(size, shown, animate, tmp_path):
    path = tmp_path / "picture.png"
    Image.open(PORTRAIT).convert("RGB").resize(size).save(path)
    values = animate(path)
    assert (values["width"], values["height"]) == shown
    assert any("reduced" in note for note in values["notes"]) == (max(size) > 1024)


def test_of_two_faces_the_larger_one_speaks(animate, tmp_path):
    portrait = Image.open(PORTRAIT).convert("RGB")
    both = Image.new("RGB", (800, 512))
    both.paste(portrait.crop((60, 0, 412, 352)).resize((512, 512)), (0, 0))
    both.paste(portrait.crop((60, 0, 412, 352)).resize((280, 280)), (515, 0))
    both.save(tmp_path / "both.png")
    values = animate(tmp_path / "both.png")
    assert any("2 faces" in note for note in values["notes"])


def drawing(path):
    canvas = np.full((256, 256, 3), 255, np.uint8)
    cv2.circle(canvas, (128, 128), 90, (0, 0, 0), 2)
    for middle in ((98, 105), (158, 105)):
        cv2.circle(canvas, middle, 8, (0, 0, 0), -1)
    cv2.ellipse(canvas, (128, 160), (40, 20), 0, 0, 180, (0, 0, 0), 2)
    cv2.imwrite(str(path), canvas)


def no_face(path):
    Image.effect_noise((300, 300), 60).save(path)


def one_pixel(path):
    Image.new("RGB", (1, 1)).save(path)


def huge(path):
    Image.new("1", (20_000, 20_000)).save(path)


def long_strip(path):
    Image.new("RGB", (20_000, 100), "white").save(path)


def text(path):
    path.write_text("this is no picture")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_face, "no face"),
        (drawing, "no face"),
        (one_pixel, "no face"),
        (long_strip, "no face"),
        (huge, "pixels"),
        (text, "not a picture"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_pictures_without_a_face_are_refused(make, says, animate, tmp_path):
    path = tmp_path / "picture.png"
    make(path)
    with pytest.raises(InvalidInput, match=says) as refused:
        animate(path)
    assert refused.value.field == "image_path"


# Sounds


def test_text_named_wav_is_refused(animate, tmp_path):
    path = tmp_path / "sound.wav"
    path.write_text("this is no sound\n" * 100)
    with pytest.raises(InvalidInput, match="not a media file") as refused:
        animate(sound=path)
    assert refused.value.field == "audio_path"


def test_a_sound_without_samples_is_refused(animate, tmp_path):
    with pytest.raises(InvalidInput) as refused:
        animate(sound=written(tmp_path / "empty.wav", np.zeros(0)))
    assert refused.value.field == "audio_path"


def test_a_picture_is_no_sound(animate, tmp_path):
    with pytest.raises(InvalidInput, match="no audio stream") as refused:
        animate(sound=PORTRAIT)
    assert refused.value.field == "audio_path"


def test_more_than_an_hour_is_refused(animate, tmp_path):
    path = tmp_path / "long.flac"
    source = f"anullsrc=r=8000:cl=mono:d={MAX_SOUND_S + 1}"
    subprocess.run([ffmpeg_path(), "-v", "error", "-f", "lavfi", "-i", source, str(path)], check=True)
    with pytest.raises(InvalidInput, match="at most 3600 s") as refused:
        animate(sound=path)
    assert refused.value.field == "audio_path"
    with pytest.raises(InvalidInput, match="at most 3600 s"):
        check(None, {"audio_path": probe(path)})


def test_a_picture_over_the_limit_is_refused_at_submit(tmp_path):
    wide = probe(PORTRAIT)
    check(None, {"image_path": wide, "audio_path": probe(CONVERSATION)})
    huge = type(wide)(**{**fields_of(wide), "video": type(wide.video)(**{**fields_of(wide.video), **SIDES})})
    with pytest.raises(InvalidInput, match="20000x20000") as refused:
        check(None, {"image_path": huge})
    assert refused.value.field == "image_path"


SIDES = {"width_px": 20_000, "height_px": 20_000}


def fields_of(value):
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


# The attempt


def test_frames_are_reported_and_a_cancel_stops_between_them(animate, tmp_path):
    context = LocalRunContext(tmp_path / "cancelled", cancel_at=6)
    with pytest.raises(Cancelled):
        animate(sound=written(tmp_path / "sound.wav", tone(1)), context=context)
    assert context.reports[-1].done == 6
    assert context.reports[-1].total == 25
    assert {report.unit for report in context.reports} == {"frames"}
    assert not list(context.output_dir.iterdir())


def test_an_attempt_goes_on_where_the_one_before_was_lost(animate, monkeypatch, tmp_path):
    monkeypatch.setattr(engine_module, "_CHUNK_FRAMES", 8)
    sound = written(tmp_path / "sound.wav", tone(1))
    whole = LocalRunContext(tmp_path / "whole")
    expected = animate(sound=sound, context=whole)
    assert len(whole.commits) == 4
    for number, part in enumerate(whole.commits[:2]):
        shutil.copy(part, tmp_path / part.name)
        assert part.name.endswith(f"{number:06d}.mp4")
    kept = [tmp_path / part.name for part in whole.commits[:2]]
    resumed = LocalRunContext(tmp_path / "resumed", kept=kept)
    values = animate(sound=sound, context=resumed)
    assert [report.done for report in resumed.reports if report.stage == "render"][:2] == [16, 17]
    assert values["video_path"].read_bytes() == expected["video_path"].read_bytes()
    other = LocalRunContext(tmp_path / "other", kept=kept)
    animate(sound=sound, context=other, seed=1)
    assert next(report.done for report in other.reports if report.stage == "render") == 0


def test_the_faces_of_a_picture_are_found_once(animate, engine, monkeypatch, tmp_path):
    looked = []
    finder = engine._faces._finder
    monkeypatch.setattr(
        finder, "find", lambda picture: looked.append(1) or type(finder).find(finder, picture)
    )
    path = tmp_path / "mirrored.png"
    Image.open(PORTRAIT).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    animate(path)
    animate(shutil.copy(path, tmp_path / "copy.png"))
    assert len(looked) == 1, "the same content"
    animate(path, use_cache=False)
    assert len(looked) == 2
