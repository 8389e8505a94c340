"""The tree keeps its own rules: names, sizes, cold imports, and prose that points at real files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDERS = ("api", "cluster", "models", "deployments", "mediaray", "emo_hallo", "training")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
BANNED = {"utils", "helpers", "common", "misc", "base", "manager", "handler", "service"}


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_module_has_a_name_without_meaning() -> None:
    assert not [ids(path) for path in SOURCES if path.stem in BANNED]


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    limit = 600 if "networks" in path.parts else 400
    assert text.count("\n") <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, f"{node.name} in {ids(path)}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.stem != "settings"], ids=ids)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    assert not re.search(r"os\.(environ|getenv)", path.read_text())


@pytest.mark.parametrize("module", ["api.app", "models.catalog", "mediaray.client"])
def test_cold_imports_bring_no_torch_and_no_ray(module: str) -> None:
    program = f"import sys, {module}; print([m for m in ('torch', 'ray') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_prose_points_at_files_that_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    named = re.findall(
        r"`((?:api|cluster|models|deployments|mediaray|tests|docs|scripts|training)/[\w./-]*)", text
    )
    assert named
    assert not [name for name in named if not (ROOT / name.removesuffix(":")).exists() and "NAME" not in name]


def test_serve_config_is_what_the_code_does_by_default() -> None:
    """`mediaray serve` uses the defaults, `serve deploy` the file: the same application."""
    from deployments.app import AppArgs
    from models.catalog import SERVICES

    application = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]
    from_file = AppArgs.model_validate(application["args"])
    assert application["import_path"] == "deployments.app:build"
    assert {name: from_file.service(name) for name in SERVICES} == {
        name: AppArgs().service(name) for name in SERVICES
    }


def test_one_table_of_dependencies() -> None:
    """The extra [server] of pyproject.toml and requirements/server.txt pin the same versions."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = (ROOT / "requirements" / "server.txt").read_text().splitlines()
    pinned = {line for line in lines if line and not line.startswith("#")}
    assert set(extras["server"]) <= pinned
