"""The job catalogue: what it refuses, with which line, and which files it reads."""

from __future__ import annotations

import os
import shutil

import pytest

from api.errors import NotFound, Unavailable
from api.job_catalog import SHIPPED, CatalogError, load_jobs
from api.job_files import stored_files
from cluster.errors import StorageFailure
from cluster.local_storage import LocalArtifactStore
from models.catalog import CATALOG
from tests.api_client import SAMPLES

VIDEO = SAMPLES / "carphone_distorted.mp4"
JOB = "jobs:\n  1:\n    task: ffmpeg.extract_audio\n    inputs: {video_path: %s}\n"


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "jobs.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_catalogue_that_ships_runs_over_the_samples():
    catalog = load_jobs(None, CATALOG)
    assert list(catalog.jobs) == list(range(1, len(catalog.jobs) + 1))
    assert {job.task for job in catalog.jobs.values()} >= {
        "ffmpeg.extract_keyframes", "flashvsr.upscale_video", "ffmpeg.extract_audio",
    }  # fmt: skip
    for job in catalog.jobs.values():
        assert all(catalog.path(job, field).is_file() for field in job.files)


def test_the_catalogue_that_ships_is_in_the_package():
    assert SHIPPED.is_file()
    assert 'api = ["*.yaml"]' in (SAMPLES.parent / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("text", "line", "field", "problem"),
    [
        ("jobs:\n  0: {task: diagnostics.echo}\n", 2, "jobs.0", "greater than or equal to 1"),
        ("jobs:\n  one: {task: diagnostics.echo}\n", 2, "jobs.one", "valid integer"),
        ("jobs:\n  1:\n    inputs: {}\n", 3, "jobs.1.task", "Field required"),
        ("jobs:\n  1:\n    task: no.such\n", 3, "jobs.1.task", "unknown task 'no.such'; known: "),
        ("jobs:\n  1:\n    task: diagnostics.echo\n    retries: 3\n", 4, "jobs.1.retries", "Extra inputs"),
        (
            "jobs:\n  1:\n    task: diagnostics.echo\n    inputs:\n      payload: 1\n      sleep_s: -1\n",
            6, "jobs.1.inputs.sleep_s", "greater than or equal to 0",
        ),
        ("jobs:\n  1:\n    task: flashvsr.upscale_video\n", 3, "jobs.1.inputs.video_path", "required"),
        (JOB % "../secret.mp4", 4, "jobs.1.inputs.video_path", "not a file below the root"),
        (JOB % "/etc/passwd", 4, "jobs.1.inputs.video_path", "not a file below the root"),
        (JOB % "http://10.0.0.1/a.mp4", 4, "jobs.1.inputs.video_path", "not a file below the root"),
        ("rot: x\njobs: {}\n", 1, "rot", "Extra inputs"),
        ("[1, 2]\n", 1, "the file", "valid dictionary"),
        ("", 1, "the file", "valid dictionary"),
    ],
    ids=[
        "index 0", "index in words", "no task", "unknown task", "unknown field", "input out of range",
        "missing input", "file above the root", "absolute file", "url", "unknown key", "a list", "empty",
    ],
)  # fmt: skip
def test_a_wrong_file_names_line_and_field(write, text, line, field, problem):
    path = write(text)
    with pytest.raises(CatalogError) as caught:
        load_jobs(path, CATALOG)
    (told,) = str(caught.value).splitlines()[1:]
    assert told.startswith(f"{path}:{line}: {field}: ")
    assert problem in told


def test_everything_that_is_wrong_is_told_at_once(write):
    path = write("jobs:\n  1: {task: a.b}\n  2:\n    task: diagnostics.echo\n    inputs: {sleep_s: x}\n")
    with pytest.raises(CatalogError) as caught:
        load_jobs(path, CATALOG)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()[1:]] == [
        "jobs.1.task", "jobs.2.inputs.sleep_s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("jobs:\n  1: {task: diagnostics.echo}\n  1: {task: diagnostics.echo}\n", "1 is given twice"),
        ("jobs: {1: [}", "line 1"),
        ("jobs: !!python/object:os.system {}\n", "could not determine a constructor"),
    ],
    ids=["an index twice", "not YAML", "a Python object"],
)
def test_what_is_not_yaml(write, text, problem):
    with pytest.raises(CatalogError, match="is not YAML") as caught:
        load_jobs(write(text), CATALOG)
    assert problem in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CatalogError, match="cannot be read"):
        load_jobs(tmp_path / "none.yaml", CATALOG)


def test_a_missing_input_is_told_at_start_and_answers_503(write, caplog):
    catalog = load_jobs(write(JOB % "later.mp4"), CATALOG)
    assert "input file later.mp4 is not on this server" in caplog.text
    with pytest.raises(Unavailable, match="file later"):
        catalog.path(catalog.job(1), "video_path")
    shutil.copy(VIDEO, catalog.root / "later.mp4")
    assert catalog.path(catalog.job(1), "video_path").is_file()


def test_a_link_out_of_the_root_is_not_followed(write, tmp_path_factory):
    catalog = load_jobs(write(JOB % "link.mp4"), CATALOG)
    outside = shutil.copy(VIDEO, tmp_path_factory.mktemp("outside"))
    (catalog.root / "link.mp4").symlink_to(outside)
    with pytest.raises(Unavailable):
        catalog.path(catalog.job(1), "video_path")


def test_an_index_that_is_not_there_names_those_that_are(write):
    text = "jobs:\n" + "".join(f"  {index}: {{task: diagnostics.echo}}\n" for index in range(1, 24))
    with pytest.raises(NotFound, match=r"no job has the index 99; this server has 1, 2, .*, 20 and 3 more"):
        load_jobs(write(text), CATALOG).job(99)


def test_root_is_relative_to_the_file(write, tmp_path):
    (tmp_path / "media").mkdir()
    shutil.copy(VIDEO, tmp_path / "media" / "a.mp4")
    catalog = load_jobs(write(f"root: media\n{JOB % 'a.mp4'}"), CATALOG)
    assert catalog.path(catalog.job(1), "video_path") == (tmp_path / "media" / "a.mp4").resolve()


def test_a_file_is_stored_once_and_again_when_it_changes(write, tmp_path):
    catalog = load_jobs(write(JOB % "a.mp4"), CATALOG)
    store = LocalArtifactStore(tmp_path / "artifacts")
    shutil.copy(VIDEO, catalog.root / "a.mp4")
    first = stored_files(store, catalog, catalog.job(1))["video_path"]
    stored = store.stat(first)
    assert first == f"catalog/{stored.sha256}/a.mp4"
    assert b"".join(store.read(first)) == VIDEO.read_bytes()
    assert stored_files(store, catalog, catalog.job(1)) == {"video_path": first}
    assert store.stat(first).modified_at == stored.modified_at
    (catalog.root / "a.mp4").write_bytes(b"other content")
    second = stored_files(store, catalog, catalog.job(1))["video_path"]
    assert second != first
    assert b"".join(store.read(second)) == b"other content"


def test_a_file_that_changes_while_it_is_stored_is_refused(write, tmp_path, monkeypatch):
    catalog = load_jobs(write(JOB % "a.mp4"), CATALOG)
    path = catalog.root / "a.mp4"
    shutil.copy(VIDEO, path)
    store = LocalArtifactStore(tmp_path / "artifacts")
    put_file = store.put_file

    def put_after_a_change(key, source):
        facts = os.stat(source)
        source.write_bytes(b"x" * facts.st_size)
        return put_file(key, source)

    monkeypatch.setattr(store, "put_file", put_after_a_change)
    with pytest.raises(StorageFailure, match="changed while it was stored"):
        stored_files(store, catalog, catalog.job(1))
    assert list(store.list("catalog/")) == []
