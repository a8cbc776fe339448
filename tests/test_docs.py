"""What the documents tell a reader to type exists: commands, options, recipes, files, Python names."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

import depthup
from depthup.cli import COMMANDS, main
from depthup.rooms import Room

HERE = Path(__file__).resolve().parents[1]
PAGES = [HERE / "README.md", HERE / "CONTRIBUTING.md", *sorted((HERE / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(HERE)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Each `depthup ...` of the page's shell blocks, as words."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").split("\n")
    words = [shlex.split(line, comments=True) for line in lines]
    started = [w[w.index("depthup") + 1 :] for w in words if "depthup" in w]
    as_module = [w[w.index("depthup.cli") + 1 :] for w in words if "depthup.cli" in w]
    return [w[: w.index("|")] if "|" in w else w for w in started + as_module if w]


@cache
def help_of(command: str) -> str:
    import contextlib
    import io

    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return told.getvalue().replace("-", "_")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_their_options_exist(page):
    for command, *words in commands(page):
        assert command in COMMANDS, command
        for word in words:
            option = word.split("=")[0].replace("-", "_")
            if option.startswith("__") and option != "__":
                known = help_of(command) + (help_of("train") if command in ("sweep", "plan", "upscale") else "")
                assert option in known, f"depthup {command} {word}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_of_this_repository_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\b((?:recipes|benchmarks|tests|src)/[\w./-]+\.(?:yaml|py|json|sh))", text))
    linked = {target for target in re.findall(r"\]\(([^)#:]+)\)", text) if not target.startswith("#")}
    assert [name for name in sorted(named) if not (HERE / name).exists()] == []
    assert [name for name in sorted(linked) if not (page.parent / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_is_valid_and_imports_what_there_is(page):
    for block in blocks(page, "python"):
        for node in ast.parse(block).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                exec(compile(ast.Module([node], []), str(page), "exec"), {})


@pytest.mark.parametrize("page", [HERE / "docs", HERE / "README.md"], ids=["site", "README"])
def test_every_page_is_reached_from_the_first(page):
    first = page / "index.md" if page.is_dir() else page
    seen, waiting = set(), [first]
    while waiting:
        here = waiting.pop()
        seen.add(here.resolve())
        for target in re.findall(r"\]\(([^)#:]+\.md)", here.read_text(encoding="utf-8")):
            if (there := (here.parent / target).resolve()) not in seen:
                waiting.append(there)
    pages = [path for path in sorted((HERE / "docs").glob("*.md")) if path.name != "index.md"]
    assert [path.name for path in pages if path.resolve() not in seen] == []


def test_every_public_name_is_in_the_reference():
    told = re.findall(r"^::: (\S+)", (HERE / "docs/reference.md").read_text(encoding="utf-8"), re.MULTILINE)
    for name in depthup.__all__:
        value = getattr(depthup, name)
        if name != "__version__":
            home = "depthup.api" if isinstance(value, Room) else value.__module__
            assert home in told or f"{home}.{name}" in told, name
