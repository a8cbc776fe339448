"""A comparison as files: Markdown, JSON and one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Union

from depthup import files
from depthup.report.compare import Comparison
from depthup.report.page import page
from depthup.report.tables import markdown


def write(comparison: Comparison, directory: Union[str, Path]) -> list[Path]:
    """Write compare.md, compare.json and compare.html; earlier ones are replaced, nothing else is touched."""
    reports = {
        Path(directory) / "compare.md": markdown(comparison),
        Path(directory) / "compare.json": json.dumps(comparison.to_dict(), ensure_ascii=False, indent=1) + "\n",
        Path(directory) / "compare.html": page(comparison),
    }
    with files.made(Path(directory)):
        for path, text in reports.items():
            files.write_text(path, text)
    return list(reports)
