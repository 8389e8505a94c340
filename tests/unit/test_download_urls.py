from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.download_urls import SECRET_BYTES, DownloadSigner, inline_disposition, load_secret
from cluster.errors import BadSignature, ExpiredUrl

REPOSITORY = Path(__file__).parents[2]
KEY = "files/local/a b/视频.mp4"


@pytest.fixture
def signer() -> DownloadSigner:
    return DownloadSigner(b"s" * SECRET_BYTES)


def test_a_token_opens_its_key_until_it_expires(signer: DownloadSigner) -> None:
    token = signer.sign(KEY, 60, now=1000.5)
    signer.verify(token, KEY, now=1000.5)
    signer.verify(token, KEY, now=1059.9)
    with pytest.raises(ExpiredUrl):
        signer.verify(token, KEY, now=1060.0)


def test_a_token_needs_no_quoting_in_a_url(signer: DownloadSigner) -> None:
    token = signer.sign(KEY, 10**6, now=1_800_000_000.0)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


@pytest.mark.parametrize("key", ["files/local/a b/视频.mp", "", "files/other/a b/视频.mp4", f"{KEY}/x"])
def test_a_token_opens_no_other_key(signer: DownloadSigner, key: str) -> None:
    with pytest.raises(BadSignature):
        signer.verify(signer.sign(KEY, 60, now=0.0), key, now=1.0)


def test_every_changed_character_breaks_the_signature(signer: DownloadSigner) -> None:
    token = signer.sign(KEY, 60, now=0.0)
    for at in range(len(token) - 1):  # the last one of base64 carries unused bits
        forged = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(BadSignature):
            signer.verify(forged, KEY, now=1.0)


@pytest.mark.parametrize("token", ["", ".", "a.b", "é", "OTk5OTk5OTk5OQ", "\0", "A" * 10_000], ids=ascii)
def test_garbage_is_refused(signer: DownloadSigner, token: str) -> None:
    with pytest.raises(BadSignature):
        signer.verify(token, KEY, now=1.0)


def test_another_secret_signs_nothing_here(signer: DownloadSigner) -> None:
    with pytest.raises(BadSignature):
        signer.verify(DownloadSigner(b"t" * SECRET_BYTES).sign(KEY, 60, now=0.0), KEY, now=1.0)


@pytest.mark.parametrize("kind", [ExpiredUrl, BadSignature])
def test_refusals_cross_process_borders(kind: type[ExpiredUrl | BadSignature]) -> None:
    assert pickle.loads(pickle.dumps(kind(KEY))).key == KEY


def test_the_secret_is_made_once_and_is_its_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "download.key"
    secret = load_secret(path)
    assert len(secret) == SECRET_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_secret(path) == secret
    assert load_secret(tmp_path / "other.key") != secret


def test_an_open_secret_file_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "download.key"
    secret = load_secret(path)
    path.chmod(0o644)
    assert load_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_secret_that_a_crash_left_short_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "download.key"
    path.write_bytes(b"short")
    secret = load_secret(path)
    assert len(secret) == SECRET_BYTES
    assert path.read_bytes() == secret


LOAD = """
import sys
from pathlib import Path
from cluster.download_urls import load_secret
print("ready", flush=True)
sys.stdin.readline()
for name in range(40):
    print(load_secret(Path(sys.argv[1], str(name))).hex())
"""


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        both = (first, second)
        for process in both:
            assert process.stdout.readline() == "ready\n"
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate()[0].split() for process in both]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0])) == 40


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        pytest.param("a b.mp4", 'inline; filename="a b.mp4"', id="plain"),
        pytest.param("é.mp4", "inline; filename=\"_.mp4\"; filename*=UTF-8''%C3%A9.mp4", id="unicode"),
        pytest.param('a"b\\.x', "inline; filename=\"a_b_.x\"; filename*=UTF-8''a%22b%5C.x", id="quotes"),
        pytest.param(
            "a\r\nX: y", "inline; filename=\"a__X: y\"; filename*=UTF-8''a%0D%0AX%3A%20y", id="lines"
        ),
    ],
)
def test_file_names_cannot_break_out_of_the_header(filename: str, expected: str) -> None:
    assert inline_disposition(filename) == expected
