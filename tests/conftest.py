import gc
from pathlib import Path

import pytest


def pytest_collection_finish() -> None:
    """What was imported stays, so no garbage collection need go through it: training collects often."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def shared() -> Path:
    """The folder of real recordings and models beside the repository, where there is one."""
    path = Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip(f"needs real data in {path}")
    return path
