"""The commands and snippets of the documents, in order. `python tests/docs_blocks.py` lists what is not run, and why.

A line before a block says how it is run where that is not as it stands: `<!-- not run: REASON -->`,
`<!-- slow: REASON -->` (by `make docs-run` alone), `<!-- slow, in the background: REASON -->` (until the page ends).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PAGES = [HERE / "README.md", HERE / "CONTRIBUTING.md", *sorted((HERE / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?:^<!-- (?P<how>not run|slow|slow, in the background): (?P<why>.+?) -->\n+)?"
    r"^```(?P<language>bash|python)\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    how: str
    """Empty where it is run as it stands."""
    why: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(HERE)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each shell command."""
        lines = self.text.replace("\\\n", " ").split("\n")
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    """Of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page, text[: m.start("language")].count("\n") + 1, m["language"], m["text"], m["how"] or "", m["why"] or ""
        )
        for m in FENCE.finditer(text)
    ]


if __name__ == "__main__":
    for block in [block for page in PAGES for block in blocks(page) if block.how]:
        print(f"{block.where}: {block.how}: {block.why}")
