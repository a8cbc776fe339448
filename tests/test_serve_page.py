"""The page in a real browser: file and microphone, words to click, files to keep, a chat, keyboard, phone, dark."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from browser import chromium, page
from serving import MODEL, Running, running, tiny_checkpoint, tone

from depthup.data.reader import read
from depthup.serve.app import PAGE
from depthup.transcribe.recordings import transcribe_files

if chromium() is None or importlib.util.find_spec("playwright") is None:
    pytest.skip("needs chromium and playwright", allow_module_level=True)

SECONDS = 120_000
"""Milliseconds that a slow machine may take for a step."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(*tiny_checkpoint(tmp_path_factory.mktemp("serve"))) as found:
        found.service.intake.vad = "auto"
        yield found


@pytest.fixture
def recording(shared: Path, tmp_path: Path) -> Path:
    """Somebody who speaks, pauses, and speaks again."""
    manifest = shared / "speech" / "kathleen-en" / "train.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()[:2]]
    clips = [read(manifest.parent / row["audio"], 16000)[0][: 4 * 16000] for row in rows]
    pause = np.zeros(16000, np.float32)
    path = tmp_path / "said.wav"
    soundfile.write(path, np.concatenate([pause, clips[0], pause, clips[1], pause]), 16000)
    return path


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """For pages that hear nobody."""
    soundfile.write(tmp_path / "tones.wav", tone(2), 16000)
    return tmp_path / "tones.wav"


def until(opened, expression: str) -> None:
    """The page's own rules let nothing be evaluated inside it, so that it is asked from outside."""
    wait_for(opened, lambda: opened.evaluate(expression), expression)


def wait_for(opened, happened: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + SECONDS / 1000
    while not happened():
        assert time.monotonic() < end, what
        opened.wait_for_timeout(50)


def words_on(opened) -> list[str]:
    return opened.locator("#transcript .word").all_inner_texts()


def test_a_file_is_written_down_heard_and_kept(server: Running, recording: Path):
    expected = next(iter(transcribe_files(server.service.model, server.service.processor, [recording])))
    with page(recording) as opened:
        asked = []
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(server.url)
        until(opened, f"document.getElementById('model').textContent === '{MODEL}'")
        opened.set_input_files("#file", recording)
        until(opened, "document.getElementById('status').textContent.startsWith('Done')")
        assert " ".join(words_on(opened)) == expected.text
        opened.locator("#transcript .word").nth(1).click()
        start = expected.segments[0].words[1].start
        until(opened, f"Math.abs(document.getElementById('audio').currentTime - {start}) < 1.5")
        opened.click("#copy")
        copied = opened.evaluate("navigator.clipboard.readText()")
        assert copied.split() == expected.text.split()
        for name, begins in (("txt", expected.segments[0].text), ("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n00:00:0")):
            with opened.expect_download() as kept:
                opened.click(f"[data-format={name}]")
            assert Path(kept.value.path()).read_text().startswith(begins)
        assert {urlsplit(url).netloc for url in asked if url.startswith("http")} == {urlsplit(server.url).netloc}


def test_a_microphone_is_written_down_while_it_speaks(server: Running, recording: Path):
    with page(recording) as opened:
        opened.goto(server.url)
        opened.wait_for_selector("#record:enabled", timeout=SECONDS)
        opened.keyboard.press("Alt+r")
        opened.wait_for_selector("#transcript .word", timeout=SECONDS)  # after the first pause, while it still records
        assert opened.get_attribute("#record", "aria-pressed") == "true"
        opened.keyboard.press("Alt+r")
        until(opened, "document.getElementById('status').textContent.startsWith('Done')")
        until(opened, "document.getElementById('audio').duration > 2")
        opened.locator("#transcript .word").first.press("Enter")
        until(opened, "document.getElementById('audio').currentTime > 0")


def test_a_chat_and_a_question_about_the_recording(server: Running, recording: Path):
    with page(recording) as opened:
        opened.goto(server.url)
        opened.wait_for_selector("#record:enabled", timeout=SECONDS)
        opened.fill("#question", "Hello")
        opened.keyboard.press("Enter")
        opened.wait_for_selector(".message.assistant:not(.waiting)", timeout=SECONDS)
        opened.set_input_files("#file", recording)
        opened.wait_for_selector("#about [value=sound]:enabled", state="attached", timeout=SECONDS)
        opened.select_option("#about", "sound")
        opened.fill("#question", "What is said?")
        opened.click("#send")
        until(opened, "document.querySelectorAll('.message.assistant:not(.waiting)').length === 2")
        assert opened.locator(".message.wrong").count() == 0
        assert "with the recording" in opened.locator(".message.user").nth(1).inner_text()


def focused(opened) -> str:
    """What has the focus, and can be seen to have it: an id, a format, or the text of a word."""
    return opened.evaluate("""(() => {
        const at = document.activeElement;
        const shown = at.type === "file" ? at.nextElementSibling : at;
        const seen = getComputedStyle(shown).outlineStyle !== "none" && shown.getBoundingClientRect().width > 1;
        return seen ? at.id || at.dataset.format || at.textContent : "invisible " + at.outerHTML;
    })()""")


def test_all_of_it_by_keyboard_alone(server: Running, recording: Path):
    with page(recording, viewport={"width": 360, "height": 740}, color_scheme="dark") as opened:
        key = opened.keyboard.press

        def tab_to(name: str) -> list[str]:
            """What is passed on the way."""
            passed = []
            while (now := focused(opened)) != name:
                assert len(passed) < 20 and not now.startswith("invisible"), passed
                passed.append(now)
                key("Tab")
            return passed

        choosers: list[Any] = []
        # Now, since the browser may hear of it later than of the key.
        opened.on("filechooser", lambda chooser: choosers.append(chooser))
        opened.goto(server.url)
        opened.wait_for_selector("#record:enabled", timeout=SECONDS)
        key("Tab")
        assert focused(opened) == "To the transcript"
        assert tab_to("file")[1:] == ["record"]
        key("Space")
        wait_for(opened, lambda: choosers, "the browser asks for a file")
        choosers[0].set_files(recording)
        until(opened, "document.getElementById('status').textContent.startsWith('Done')")
        tab_to("wave")
        key("End")
        key("ArrowLeft")
        until(opened, "document.getElementById('audio').currentTime > 4")
        first, second = words_on(opened)[:2]
        key("Tab")
        assert focused(opened) == first
        key("ArrowRight")
        assert focused(opened) == second
        key("Enter")
        until(opened, "document.getElementById('audio').currentTime < 4")
        key("Tab")
        assert focused(opened) == "copy"
        key("Enter")
        until(opened, "document.getElementById('status').textContent === 'Copied.'")
        for kind in ("txt", "srt", "vtt"):
            key("Tab")
            assert focused(opened) == kind
            with opened.expect_download():
                key("Enter")
        tab_to("about")
        key("ArrowDown")
        assert opened.input_value("#about") == "text"
        assert tab_to("question")[1:] == ["forget"]
        opened.keyboard.type("What is said?")
        key("Enter")
        opened.wait_for_selector(".message.assistant:not(.waiting)", timeout=SECONDS)
        assert focused(opened) == "question" and "with the transcript" in opened.inner_text(".message.user")


def test_a_server_that_goes_away_is_told_of_and_the_recording_ends(tones: Path, tmp_path: Path):
    with running(*tiny_checkpoint(tmp_path)) as server, page(tones) as opened:
        opened.goto(server.url)
        opened.wait_for_selector("#record:enabled", timeout=SECONDS)
        opened.click("#record")
        until(opened, "document.getElementById('status').textContent.startsWith('Listening')")
        server.server.should_exit = True  # as SIGTERM sets it
        until(opened, "document.getElementById('status').textContent.startsWith('The server ended')")
        assert opened.get_attribute("#record", "aria-pressed") == "false"


# Elements with text of their own, and the first ground that is behind each: how much lighter one is than the other.
CONTRASTS = """[...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && !e.disabled &&
    [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).map((e) => {
        const lightness = (color) => {
            const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255).map(
                (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        let behind = e;
        while (/, 0\\)$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
        const colors = [getComputedStyle(e).color, getComputedStyle(behind).backgroundColor];
        const [low, high] = colors.map(lightness).sort((a, b) => a - b);
        return [(high + 0.05) / (low + 0.05), e.outerHTML.slice(0, 80)];
    })"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_in_the_dark_and_names_everything(server: Running, tones: Path, scheme: str):
    with page(tones, viewport={"width": 320, "height": 640}, color_scheme=scheme, has_touch=True) as opened:
        opened.goto(server.url)
        opened.wait_for_selector("#record:enabled", timeout=SECONDS)
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert [found for found in opened.evaluate(CONTRASTS) if found[0] < 4.5] == []
        small = """[...document.querySelectorAll('button, .button, select')].filter((e) => e.checkVisibility() &&
            Math.min(e.offsetWidth, e.offsetHeight) < 40).map((e) => e.outerHTML)"""
        assert opened.evaluate(small) == []  # for a thumb
        assert "Alt" not in opened.inner_text("footer")
        assert not opened.is_visible("#stop") and not opened.is_visible("#key")
        assert opened.evaluate("document.querySelector('.skip').getBoundingClientRect().right <= 0")
        red, green, blue = opened.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(red, green, blue) < 60 if scheme == "dark" else min(red, green, blue) > 200
        nameless = """[...document.querySelectorAll('button, input, select, textarea, [role=slider]')].filter(
            (e) => !(e.ariaLabel || e.textContent.trim() || (e.labels && e.labels.length))).map((e) => e.outerHTML)"""
        assert opened.evaluate(nameless) == []


def test_a_key_is_asked_for(tones: Path, tmp_path: Path):
    with running(*tiny_checkpoint(tmp_path), api_key="secret") as server, page(tones, allowed=["401"]) as opened:
        opened.on("dialog", lambda dialog: dialog.accept("secret"))
        opened.goto(server.url)
        opened.wait_for_selector("#record:enabled", timeout=SECONDS)
        assert opened.inner_text("#model") == MODEL


def test_nothing_of_the_page_is_from_elsewhere():
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text.replace('"https:"', ""), file.name
    assert sum(file.stat().st_size for file in PAGE.iterdir()) < 50_000
