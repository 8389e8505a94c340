"""Artifact stores: a folder, and a bucket of a moto server in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cluster.local_storage import LocalArtifactStore
from cluster.s3_storage import S3ArtifactStore
from cluster.storage import ArtifactStore
from tests.stores import BUCKET, SECRET


@pytest.fixture(scope="module")
def s3_client() -> Iterator[Any]:
    """A client of a moto server, both set up through the environment as an operator would."""
    import boto3  # these two take a second, which the other contract tests need not wait for
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "mediaray")
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_MAX_ATTEMPTS", "1")
        client = boto3.session.Session().client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
        client.close()
    server.stop()


@pytest.fixture(scope="module")
def s3_origin(s3_client) -> S3ArtifactStore:
    """The store that makes its own client, once: that takes boto3 a second."""
    return S3ArtifactStore(BUCKET)


@pytest.fixture
def local_store(tmp_path: Path) -> LocalArtifactStore:
    return LocalArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def s3_store(s3_origin: S3ArtifactStore) -> S3ArtifactStore:
    return S3ArtifactStore(BUCKET, f"deep/{uuid4().hex}", s3_origin._client)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> ArtifactStore:
    return request.getfixturevalue(f"{request.param}_store")
