"""Signed download URLs of the local store, and the header that names a downloaded file.

A token says until when, and is valid for one key only: the key is part of the signature.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import itsdangerous

from cluster.errors import BadSignature, ExpiredUrl

SECRET_BYTES = 32
DOWNLOAD_PATH = "/v1/files/download/"
"""Where the files route serves an object of the local store."""


class DownloadSigner:
    """Signs and verifies download tokens; all processes that share the secret agree."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, key: str, expires_s: int, now: float) -> str:
        """A token that opens `key` until `now` + `expires_s` (seconds since the epoch)."""
        return str(self._serializer(key).dumps(int(now) + expires_s))

    def verify(self, token: str, key: str, now: float) -> int:
        """When the token expires (seconds since the epoch).

        Raises BadSignature (not signed here, or for another key) or ExpiredUrl.
        """
        try:
            expires_at: int = self._serializer(key).loads(token)
        except itsdangerous.BadData as error:
            raise BadSignature(key) from error
        if now >= expires_at:
            raise ExpiredUrl(key)
        return expires_at

    def url(self, key: str, token: str, base_url: str, filename: str | None = None) -> str:
        """The URL of the files route for `key`; a `filename` other than the key's own travels along."""
        query = {"token": token}
        if filename is not None and filename != key.rpartition("/")[2]:
            query["filename"] = filename
        return f"{base_url.rstrip('/')}{DOWNLOAD_PATH}{quote(key)}?{urlencode(query)}"

    def key_of(self, url: str, now: float) -> str | None:
        """The key whose URL was signed here, whatever its host; None for every other URL.

        A server may have many names, and only its token tells it from another server. Raises ExpiredUrl.
        """
        try:
            parts = urlsplit(url)
            tokens = parse_qs(parts.query).get("token", [])
        except ValueError:  # no URL, or a query of too many fields
            return None
        _, is_download, path = parts.path.partition(DOWNLOAD_PATH)
        if not is_download or len(tokens) != 1:
            return None
        key = unquote(path)
        try:
            self.verify(tokens[0], key, now)
        except BadSignature:
            return None
        return key

    def _serializer(self, key: str) -> itsdangerous.URLSafeSerializer:
        return itsdangerous.URLSafeSerializer(
            self._secret,
            salt=f"download:{key}",
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )


def load_secret(path: Path) -> bytes:
    """The secret kept at `path`, made on first use and readable by its owner only.

    Processes that start at once agree on one secret: the file lock lets one of them write, and a
    file that a crash left short is written anew.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.fchmod(fd, 0o600)
        secret = file.read()
        if len(secret) >= SECRET_BYTES:
            return secret
        return _write_secret(fd)


def _write_secret(fd: int) -> bytes:
    secret = secrets.token_bytes(SECRET_BYTES)
    os.ftruncate(fd, 0)
    os.pwrite(fd, secret, 0)
    os.fsync(fd)
    return secret


def inline_disposition(filename: str) -> str:
    """The Content-Disposition value that shows a file in the browser and names it (RFC 6266)."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in filename)
    extended = "" if plain == filename else f"; filename*=UTF-8''{quote(filename, safe='')}"
    return f'inline; filename="{plain}"{extended}'
