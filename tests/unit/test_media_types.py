"""Media types of real files: the samples, what ffmpeg writes, and hand-made texts."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from cluster.media_types import HEAD_BYTES, PLAIN_TEXT, UNKNOWN, sniff
from models.media import ffmpeg_path

SAMPLES = Path(__file__).parents[2] / "samples"
SOUND = ("-f", "lavfi", "-i", "sine=duration=0.2")
PICTURE = ("-f", "lavfi", "-i", "testsrc=size=32x32:duration=0.2:rate=10")

MADE_BY_FFMPEG = {
    "a.mp4": ("video/mp4", *PICTURE, "-c:v", "mpeg4"),
    "fragmented.mp4": ("video/mp4", *PICTURE, "-c:v", "mpeg4", "-movflags", "frag_keyframe+empty_moov"),
    "a.mov": ("video/quicktime", *PICTURE, "-c:v", "mpeg4"),
    "a.webm": ("video/webm", *PICTURE, "-c:v", "libvpx"),
    "a.mkv": ("video/x-matroska", *PICTURE, "-c:v", "mpeg4"),
    "a.avi": ("video/x-msvideo", *PICTURE, "-c:v", "mpeg4"),
    "a.ts": ("video/mp2t", *PICTURE, "-c:v", "mpeg2video", "-b:v", "1M"),
    "a.flv": ("video/x-flv", *PICTURE, "-c:v", "flv"),
    "a.mpg": ("video/mpeg", *PICTURE, "-c:v", "mpeg1video", "-r", "25"),
    "a.wav": ("audio/wav", *SOUND),
    "big.wav": ("audio/wav", *SOUND, "-rf64", "always"),
    "a.mp3": ("audio/mpeg", *SOUND),
    "untagged.mp3": ("audio/mpeg", *SOUND, "-id3v2_version", "0", "-write_xing", "0"),
    "a.mp2": ("audio/mpeg", *SOUND),
    "a.flac": ("audio/flac", *SOUND),
    "a.ogg": ("audio/ogg", *SOUND, "-c:a", "libvorbis"),
    "a.opus": ("audio/ogg", *SOUND, "-c:a", "libopus"),
    "a.aac": ("audio/aac", *SOUND),
    "a.m4a": ("audio/mp4", *SOUND),
    "a.png": ("image/png", *PICTURE, "-frames:v", "1"),
    "a.jpg": ("image/jpeg", *PICTURE, "-frames:v", "1"),
    "a.webp": ("image/webp", *PICTURE, "-frames:v", "1"),
    "a.gif": ("image/gif", *PICTURE),
    "a.bmp": ("image/bmp", *PICTURE, "-frames:v", "1"),
    "a.tiff": ("image/tiff", *PICTURE, "-frames:v", "1"),
    "a.srt": ("application/x-subrip",),
    "a.vtt": ("text/vtt; charset=utf-8",),
}
SUBTITLES = "1\n00:00:00,000 --> 00:00:01,000\nHello, 世界\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of MADE_BY_FFMPEG, written by one process."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "in.srt").write_text(SUBTITLES)
    command = [ffmpeg_path(), "-v", "error", "-nostdin", *SOUND, *PICTURE, "-i", "in.srt"]
    for name, (_, *options) in MADE_BY_FFMPEG.items():
        source = {SOUND: "0:a", PICTURE: "1:v"}.get(tuple(options[:4]), "2:s")
        command += ["-map", source, *options[4:], name]
    subprocess.run(command, cwd=folder, check=True)
    return folder


def head_of(path: Path) -> bytes:
    return path.read_bytes()[:HEAD_BYTES]


@pytest.mark.parametrize("name", MADE_BY_FFMPEG)
def test_what_ffmpeg_writes(made: Path, name: str) -> None:
    assert sniff(head_of(made / name), name) == MADE_BY_FFMPEG[name][0]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.webm", "a.wav", "a.mp3", "a.aac", "a.m4a", "a.png"])
@pytest.mark.parametrize("wrong_name", ["x.txt", "x.html", "x", "x.jpg"])
def test_the_name_does_not_judge(made: Path, name: str, wrong_name: str) -> None:
    assert sniff(head_of(made / name), wrong_name) == MADE_BY_FFMPEG[name][0]


@pytest.mark.parametrize(
    ("name", "claimed", "expected"),
    [
        ("a.mp4", "A.M4A", "audio/mp4"),
        ("a.webm", "a.weba", "audio/webm"),
        ("a.mkv", "a.mka", "audio/x-matroska"),
    ],
)
def test_the_name_breaks_ties(made: Path, name: str, claimed: str, expected: str) -> None:
    assert sniff(head_of(made / name), claimed) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bigbuckbunny.mp4", "video/mp4"),
        ("carphone_distorted.mp4", "video/mp4"),
        ("conversation.wav", "audio/wav"),
        ("portrait.png", "image/png"),
        ("conversation.rttm", PLAIN_TEXT),
        ("NOTICE.md", PLAIN_TEXT),
    ],
)
def test_samples(name: str, expected: str) -> None:
    assert sniff(head_of(SAMPLES / name), name) == expected


def archive(kind: str) -> bytes:
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as file:
            file.writestr("a.txt", "x")
    elif kind == "empty zip":
        zipfile.ZipFile(content, "w").close()
    elif kind == "tar":
        with tarfile.open(fileobj=content, mode="w") as file:
            file.addfile(tarfile.TarInfo("a"))
    else:
        content.write(gzip.compress(b"x"))
    return content.getvalue()[:HEAD_BYTES]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("zip", "application/zip"),
        ("empty zip", "application/zip"),
        ("tar", "application/x-tar"),
        ("gzip", "application/gzip"),
    ],
)
def test_archives(kind: str, expected: str) -> None:
    assert sniff(archive(kind), "a") == expected


LONG_JSON = json.dumps(
    [{"id": n, "text": 'a "quoted" \\ 世界', "p": -1.5e-3, "ok": None} for n in range(500)]
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('{"a": [1, 2.5, null]}', "application/json", id="object"),
        pytest.param(" \n[]\n", "application/json", id="array with space"),
        pytest.param("\ufeff{}", "application/json", id="byte order mark"),
        pytest.param(LONG_JSON, "application/json", id="cut off"),
        pytest.param('["' + "x" * 9000, "application/json", id="cut off in a string"),
        pytest.param('{"a": 1}\n{"b": 2}\n', PLAIN_TEXT, id="lines of json"),
        pytest.param('{"a": 1}\n' * 2000, PLAIN_TEXT, id="long lines of json"),
        pytest.param('{"a": ', PLAIN_TEXT, id="torn"),
        pytest.param("[00:00:01] hello\n", PLAIN_TEXT, id="timestamps"),
        pytest.param("[00:00:01] hello\n" * 1000, PLAIN_TEXT, id="long timestamps"),
        pytest.param("42", PLAIN_TEXT, id="number"),
        pytest.param("[" * 5000, PLAIN_TEXT, id="deep"),
        pytest.param("BMW and ID3 and GIF89a", PLAIN_TEXT, id="magic words"),
        pytest.param("<!DOCTYPE html><script>alert(1)</script>", PLAIN_TEXT, id="html"),
        pytest.param("<svg xmlns='http://www.w3.org/2000/svg'/>", PLAIN_TEXT, id="svg"),
        pytest.param("\ufeff1\r\n00:00:01,000 --> 00:00:02,000\r\nHi\r\n", "application/x-subrip", id="srt"),
        pytest.param("WEBVTT\n\n00:01.000 --> 00:02.000\nHi\n", "text/vtt; charset=utf-8", id="vtt"),
        pytest.param("世" * 5000, PLAIN_TEXT, id="cut inside a character"),
        pytest.param("\x1b[31mred\x1b[0m\n", PLAIN_TEXT, id="terminal colours"),
    ],
)
def test_texts_whatever_they_are_named(text: str, expected: str) -> None:
    for name in ["a.mp4", "a.html", "a"]:
        assert sniff(text.encode()[:HEAD_BYTES], name) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(b"", UNKNOWN, id="empty"),
        pytest.param(bytes(HEAD_BYTES), UNKNOWN, id="zeros"),
        pytest.param(b"a\0b", UNKNOWN, id="text with a zero"),
        pytest.param("caf\xe9".encode("latin-1"), UNKNOWN, id="latin-1"),
        pytest.param(b"<html>\0<script>", UNKNOWN, id="binary html"),
        pytest.param(b"\xe4\xb8", UNKNOWN, id="torn character at the end of the file"),
        pytest.param(b"\xff\xfeh\0i\0", "text/plain; charset=utf-16", id="utf-16"),
        pytest.param(b"\0\0\0\x08wide\0\0\0\0mdat", "video/quicktime", id="old quicktime"),
        pytest.param(b"RIFF\x04\0\0\0JUNK", UNKNOWN, id="riff of something"),
    ],
)
def test_other_bytes(head: bytes, expected: str) -> None:
    assert sniff(head, "a.mp4") == expected


def test_random_bytes_raise_nothing_and_are_seldom_media() -> None:
    kinds = [sniff(os.urandom(512), "a.mp4") for _ in range(500)]
    assert kinds.count(UNKNOWN) > 490


def test_every_short_head_of_a_real_file_has_a_type(made: Path) -> None:
    for name in MADE_BY_FFMPEG:
        head = head_of(made / name)
        for size_bytes in (*range(0, 64, 3), 257, 512):
            assert "/" in sniff(head[:size_bytes], name)
