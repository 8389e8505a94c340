"""What kind of content a file holds, judged by its first bytes. Pure; owns the table of signatures.

Text is recognised before any signature, and never as HTML or SVG: whatever a caller names a file, it
is not served back as something a browser would run.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from pathlib import PurePosixPath

import puremagic

HEAD_BYTES = 8192
"""How much of a file `sniff` wants; a shorter head is taken for the whole file."""

UNKNOWN = "application/octet-stream"
PLAIN_TEXT = "text/plain; charset=utf-8"

_CONTROL_CHAR = re.compile(r"[\x00-\x07\x0b\x0e-\x1a\x1c-\x1f]")
_SRT = re.compile(r"\s*\d+[ \t]*\r?\n\d{1,3}:\d\d:\d\d[,.]\d{1,3}[ \t]*-->")
_JSON_TOKENS = re.compile(
    r"""(?:[\s{}\[\],:]|"(?:[^"\\]|\\.)*+"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)*+"""
    r"""(?:"(?:[^"\\]|\\.)*+\\?|-?[\d.eE+-]*|[a-z]{1,4})?""",
    re.DOTALL,
)
_MIN_MAGIC_BYTES = 4  # shorter matches of the library hit random bytes

SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"BM", "image/bmp"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"FLV\x01", "video/x-flv"),
    (0, b"\x00\x00\x01\xba", "video/mpeg"),
    (0, b"\x00\x00\x01\xb3", "video/mpeg"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"PK\x05\x06", "application/zip"),
    (0, b"\x1f\x8b\x08", "application/gzip"),
    (257, b"ustar", "application/x-tar"),
    # QuickTime before the ftyp atom existed
    (4, b"moov", "video/quicktime"),
    (4, b"mdat", "video/quicktime"),
    (4, b"wide", "video/quicktime"),
    (0, b"\xff\xfe", "text/plain; charset=utf-16"),
    (0, b"\xfe\xff", "text/plain; charset=utf-16"),
)

_RIFF_FORMS = {b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo", b"WEBP": "image/webp"}
_WAVE_CONTAINERS = {b"RIFF", b"RF64", b"BW64"}

_BRANDS = {
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"M4P ": "audio/mp4",
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
}

TIE_BREAKERS: dict[tuple[str, str], str] = {
    ("video/mp4", ".m4a"): "audio/mp4",
    ("video/mp4", ".m4b"): "audio/mp4",
    ("video/webm", ".weba"): "audio/webm",
    ("video/x-matroska", ".mka"): "audio/x-matroska",
}
"""Where one signature covers two types, the name's suffix chooses between them."""


def sniff(head: bytes, name: str) -> str:
    """The media type of a file that starts with `head`; UNKNOWN where nothing fits.

    `head` is the first HEAD_BYTES, or the whole file if it is shorter. `name` only breaks ties.
    """
    found = next((kind for judge in _JUDGES if (kind := judge(head))), UNKNOWN)
    return TIE_BREAKERS.get((found, PurePosixPath(name).suffix.lower()), found)


def _text(head: bytes) -> str | None:
    is_whole = len(head) < HEAD_BYTES
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=is_whole)
    except UnicodeDecodeError:
        return None
    if not text or _CONTROL_CHAR.search(text):
        return None
    return _text_kind(text.lstrip(), is_whole)


def _text_kind(text: str, is_whole: bool) -> str:
    if _is_json(text, is_whole):
        return "application/json"
    if _SRT.match(text):
        return "application/x-subrip"
    if text.startswith("WEBVTT"):
        return "text/vtt; charset=utf-8"
    return PLAIN_TEXT


def _is_json(text: str, is_whole: bool) -> bool:
    if not text.startswith(("{", "[")):
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):  # cut off, not JSON, or nested to be hostile
        return not is_whole and _JSON_TOKENS.fullmatch(text) is not None
    return not text[end:].strip()


def _signature(head: bytes) -> str | None:
    return next((kind for at, magic, kind in SIGNATURES if head.startswith(magic, at)), None)


def _riff(head: bytes) -> str | None:
    if head[:4] not in _WAVE_CONTAINERS:
        return None
    return _RIFF_FORMS.get(head[8:12], UNKNOWN)


def _iso_media(head: bytes) -> str | None:
    """MP4 and its relatives: the major brand decides, what it does not know is video/mp4."""
    if head[4:8] != b"ftyp":
        return None
    return _BRANDS.get(head[8:12], "video/mp4")


def _matroska(head: bytes) -> str | None:
    if not head.startswith(b"\x1a\x45\xdf\xa3"):
        return None
    doc_type = head[:128].partition(b"\x42\x82")[2][:12]  # id, length of 1 to 8 bytes, text
    return "video/webm" if b"webm" in doc_type else "video/x-matroska"


def _ogg(head: bytes) -> str | None:
    if not head.startswith(b"OggS"):
        return None
    return "video/ogg" if b"\x80theora" in head[:512] else "audio/ogg"


def _mpeg_audio(head: bytes) -> str | None:
    """Frame headers without a tag: ADTS (layer bits 00) is AAC, layers II and III are MPEG audio."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        has_valid_rate = (head[2] >> 2 & 0xF) < 13
        return "audio/aac" if has_valid_rate else None
    has_layer = (head[1] >> 1 & 3) in (1, 2) and (head[1] >> 3 & 3) != 1
    has_rates = (head[2] >> 4) not in (0, 15) and (head[2] >> 2 & 3) != 3
    return "audio/mpeg" if has_layer and has_rates else None


def _transport_stream(head: bytes) -> str | None:
    return "video/mp2t" if head[0:565:188] == b"GGGG" else None


def _other_media(head: bytes) -> str | None:
    """Rarer image, audio and video formats, by the puremagic library."""
    try:
        matches = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):  # nothing known; ValueError: an empty file
        return None
    for match in matches:
        is_media = match.mime_type.startswith(("image/", "audio/", "video/")) and "xml" not in match.mime_type
        if is_media and len(match.byte_match) >= _MIN_MAGIC_BYTES:
            return str(match.mime_type)
    return None


_JUDGES: tuple[Callable[[bytes], str | None], ...] = (
    _text,
    _riff,
    _iso_media,
    _matroska,
    _ogg,
    _mpeg_audio,
    _transport_stream,
    _signature,
    _other_media,
)
