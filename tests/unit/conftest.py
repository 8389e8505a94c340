"""What several modules of unit tests stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.absent_gpu import AbsentGpu


@pytest.fixture(scope="module")
def gpu() -> Iterator[AbsentGpu]:
    """A CUDA device that computes nothing, while the module's tests run."""
    from tests.absent_gpu import absent_gpu

    with absent_gpu() as device:
        yield device


@pytest.fixture(scope="module")
def hallo2_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MEDIARAY_MODELS_DIR of an operator who put a tiny Hallo2 into it."""
    from tests.hallo2_tiny import save_tiny_folder

    folder = tmp_path_factory.mktemp("models")
    save_tiny_folder(folder / "hallo2")
    return folder
