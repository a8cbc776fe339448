"""The notebooks run from top to bottom, at a small size, and are kept without outputs of recordings or of weight."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_run import save_base

HERE = Path(__file__).resolve().parents[1]
BOOKS = sorted((HERE / "docs/notebooks").glob("*.ipynb"))
LARGEST = 300_000
"""Bytes of a notebook with its pictures."""
SMALL: dict[str, dict[str, Any]] = {
    "adapt": {
        "CLIPS": {"train_clips": 12, "validation_clips": 2, "test_clips": 3},
        "STEPS": {"front_end_steps": 2, "max_steps": 1},
        "TEST_CLIPS": 3,
        "DTYPE": "auto",  # the same wherever it runs
    },
    "inside": {},  # opens what the other trained
}


def cells(book: Path, kind: str = "code") -> list[dict[str, Any]]:
    return [cell for cell in json.loads(book.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.fixture(scope="module")
def here(tmp_path_factory, monkeypatch_module):
    pytest.importorskip("matplotlib", reason="needs matplotlib").use("agg")
    pytest.importorskip("espeakng_loader", reason="needs the extra `quickstart`")
    folder = tmp_path_factory.mktemp("notebooks")
    save_base(folder / "base", layers=8)
    monkeypatch_module.chdir(folder)
    shown = SimpleNamespace(Audio=lambda *args, **options: None, display=print)  # what a notebook server is for
    monkeypatch_module.setitem(
        sys.modules, "IPython", SimpleNamespace(display=shown, get_ipython=lambda: None, version_info=(9, 0))
    )
    monkeypatch_module.setitem(sys.modules, "IPython.display", shown)
    return folder


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.parametrize("book", BOOKS, ids=[book.stem for book in BOOKS])
def test_a_notebook_runs_from_top_to_bottom(book, here, capsys):
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {}
    drawn = 0
    for number, cell in enumerate(cells(book)):
        exec(compile("".join(cell["source"]), f"{book.name}:{number}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            assert set(SMALL[book.stem]) <= set(names)
            names |= SMALL[book.stem] | ({"BASE": str(here / "base")} if "BASE" in names else {})
        drawn += len(plt.get_fignums())
        plt.close("all")
    assert drawn >= 3
    assert "logits identical, bit for bit" in capsys.readouterr().out


def test_notebooks_are_small_and_hold_no_recordings():
    assert {book.stem for book in BOOKS} == set(SMALL)
    for book in BOOKS:
        assert book.stat().st_size < LARGEST, book.name
        assert "data:audio" not in book.read_text(encoding="utf-8"), book.name
