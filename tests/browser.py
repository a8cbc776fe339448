"""Chromium without a window, whose microphone plays a recording."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Where it is, if it is."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def page(recording: Path, allowed: Sequence[str] = (), **context: Any) -> Iterator[Any]:
    """A page of Playwright's; `recording` is a WAV file, played once.

    Errors in the browser's console are raised at the end, but for those that hold one of the `allowed` texts.
    """
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={recording}%noloop",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            session = browser.new_context(permissions=["microphone", "clipboard-read", "clipboard-write"], **context)
            opened = session.new_page()
            wrong: list[str] = []
            opened.on("pageerror", lambda error: wrong.append(str(error)))
            opened.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
            yield opened
            assert not [line for line in wrong if not any(text in line for text in allowed)], wrong
        finally:
            browser.close()
