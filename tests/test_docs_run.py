"""Every command and snippet of the documents runs, page by page and in order.

CI runs `depthup` in this process, on tiny models; `make docs-run` runs whole blocks in a shell, and the slow ones too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from docs_blocks import HERE, PAGES, Block, blocks
from docs_stage import build

from depthup import doctor
from depthup.cli import main
from depthup.new import choices

WHOLE = os.environ.get("DEPTHUP_DOCS") == "whole"
ADDRESS = "http://127.0.0.1:8000"
RUN = [page for page in PAGES if any(not block.how or (WHOLE and "slow" in block.how) for block in blocks(page))]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("docs"))


@pytest.fixture
def stage(built, tmp_path, monkeypatch) -> Path:
    shutil.copytree(built.parent, tmp_path / "docs")
    monkeypatch.chdir(tmp_path / "docs/stage")
    for name in ("LEAST_FRONT_END_STEPS", "LEAST_STEPS"):
        monkeypatch.setattr(choices, name, 2)
    monkeypatch.setattr(doctor, "hub_answers", lambda: True)  # asks the network
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return tmp_path / "docs/stage"


@pytest.mark.parametrize("page", RUN, ids=[str(page.relative_to(HERE)) for page in RUN])
def test_a_page_s_blocks_run_in_order(page, stage, monkeypatch, capsys):
    text = page.read_text(encoding="utf-8")
    made = re.findall(r"--output(?:_dir)? (\S+)", text) + [f"runs/{n}" for n in re.findall(r"new (\w+)\.yaml", text)]
    for directory in made:
        shutil.rmtree(stage / directory, ignore_errors=True)
    names: dict[str, object] = {}
    background: list[subprocess.Popen[bytes]] = []
    try:
        for block in blocks(page):
            if block.how == "not run" or (block.how and not WHOLE):
                continue
            if block.language == "python":
                exec(compile(block.text, block.where, "exec"), names)
            elif "background" in block.how:
                background.append(subprocess.Popen(["bash", "-c", f"exec {block.text}"], start_new_session=True))
                wait_for_server(background[-1])
            elif WHOLE:
                run_in_shell(block)
            else:
                run_here(block, monkeypatch, capsys)
    finally:
        for process in background:
            process.terminate()
            process.wait(30)


def run_here(block: Block, monkeypatch, capsys) -> None:
    """Its `depthup` commands, without a process of their own; others in a shell."""
    for program, *words in block.commands():
        if program != "depthup":
            subprocess.run([program, *words], check=True)
            continue
        with open("talk.wav") as talk:
            monkeypatch.setattr(sys, "stdin", talk)
            status = main(words)
        assert status == 0, f"{block.where}: depthup {' '.join(words)}\n{capsys.readouterr().err}"


def run_in_shell(block: Block) -> None:
    """Of steps, of which `depthup new` writes hundreds, two are enough here."""
    few = r"\1 --train.front_end_steps 2 --train.max_steps 2"
    text = re.sub(r"^(depthup train mine\.yaml)", few, block.text, flags=re.MULTILINE)
    text = re.sub(r"(--train\.\w+_steps) \d+", r"\1 2", text)
    with open("talk.wav", "rb") as talk:
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], stdin=talk, capture_output=True, text=True)
    assert done.returncode == 0, f"{block.where}\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def wait_for_server(process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"{ADDRESS}/health", timeout=5)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"no answer from {ADDRESS}")


def test_what_is_not_run_says_why():
    marked = [block for page in PAGES for block in blocks(page) if block.how]
    assert all(len(block.why.split()) >= 3 for block in marked)
    assert [block.where for block in marked if block.language == "python" and block.how == "not run"] == []
