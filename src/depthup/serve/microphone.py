"""One live session's speech: what is being said, again and again until a pause, and then for good."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Optional

import numpy as np

from depthup.serve.engine import TOKENS_PER_SECOND
from depthup.serve.errors import ApiError, crashed
from depthup.serve.live import Listener, Settled, Utterance, agreed
from depthup.serve.rows import Row
from depthup.serve.service import Service
from depthup.serve.session import SessionOptions
from depthup.transcribe.guard import LOOP, Heard, judged
from depthup.transcribe.options import Options
from depthup.transcribe.transcript import Segment
from depthup.transcribe.voice import FRAME, Detector, detector

PARTIAL_SECONDS = 0.5
"""New audio after which an utterance is heard again."""
WAITING = 4
"""Utterances that may wait for their text before the client has to wait."""
TRANSCRIPTION = "conversation.item.input_audio_transcription"

Send = Callable[..., Awaitable[None]]


class Microphone:
    """Takes samples at the model's rate and sends OpenAI's events.

    While somebody speaks, the utterance so far is heard every half second, a long one without its first words, and by
    the front end alone where it writes a draft. `partial` (ours) tells the whole text, which may change, and up to
    where it was heard; `delta` tells the words on which two hearings in a row agree. After a pause all of it is heard,
    by the LLM too, and `completed` tells the text that counts. One hearing is in work at a time, so that none queues.
    """

    def __init__(self, service: Service, options: SessionOptions, send: Send) -> None:
        self.service, self.send = service, send
        self.over: deque[Utterance] = deque()
        self.news = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self.names: dict[int, str] = {}
        self.previous: Optional[str] = None
        self.options = options
        self.listener = Listener(service.processor.sampling_rate, None, options.pause_ms / 1000)
        self.ready = False
        self.before = ""
        """Text of what is being said, as far as it was heard."""

    async def apply(self, options: SessionOptions) -> None:
        """Go on with these options, also with what has begun."""
        self.options, self.ready = options, True
        rate, run = self.service.processor.sampling_rate, self.service.intake.run
        detect: Optional[Detector] = await run(detector, "auto", rate, live=True) if options.pauses else None
        self.listener.configure(detect, options.pause_ms / 1000)

    async def feed(self, samples: np.ndarray) -> None:
        await self.room.wait()
        if not self.ready:
            await self.apply(self.options)
        if self.listener.seconds > self.service.intake.max_seconds:
            most = f"{self.service.intake.max_seconds:g} s"
            raise ApiError(
                413, f"the session has heard {most}, which is the most; begin another", code="session_too_long"
            )
        for utterance in await self.service.intake.run(self.listener.take, samples, live=True):
            await self._noticed(utterance)
        self.news.set()

    async def commit(self) -> bool:
        """End the utterance that has begun; false where there is none."""
        ended = self.listener.close()
        for utterance in ended:
            await self._noticed(utterance)
        return bool(ended)

    def clear(self) -> None:
        self.listener.clear()

    async def close(self) -> None:
        """End what has begun, and wait until all text is sent."""
        await self.commit()
        while self.over:
            await asyncio.sleep(0.02)

    async def _noticed(self, utterance: Utterance) -> None:
        if not utterance.over:
            name = self.names[utterance.number] = f"item_{secrets.token_hex(8)}"
            at = round(1000 * utterance.start)
            await self.send("input_audio_buffer.speech_started", audio_start_ms=at, item_id=name)
            return
        name = self.names[utterance.number]
        at = round(1000 * self.listener.seconds)
        await self.send("input_audio_buffer.speech_stopped", audio_end_ms=at, item_id=name)
        await self.send("input_audio_buffer.committed", item_id=name, previous_item_id=self.previous)
        self.previous = name
        self.over.append(utterance)
        self.news.set()
        if len(self.over) >= WAITING:
            self.room.clear()

    async def write(self) -> None:
        """Hear what is said, for as long as the session lasts; utterances that are over go first."""
        told, heard, settled = "", (-1, 0), Settled()
        while True:
            await self.news.wait()
            self.news.clear()
            while self.over:
                await self._complete(self.over[0])
                self.names.pop(self.over[0].number)
                self.over.popleft()
                self.room.set()
                self.before, told, settled = "", "", Settled()
            current = self.listener.current
            if current is None or not self._due(current, heard):
                continue
            heard = (current.number, len(current.frames))
            guess = self.before.removeprefix(settled.text).rpartition(" ")[0]  # its last word may have grown
            self.news.set()  # more may come meanwhile
            try:
                segment = await self._hear(current.samples[settled.frames * FRAME :], guess, final=False)
            except ApiError:  # it is heard again
                continue
            text = settled.with_rest(segment.text)
            told_of = {"item_id": self.names[current.number], "content_index": 0}
            at = round(1000 * (current.start + self.listener.duration(heard[1])))
            await self.send(f"{TRANSCRIPTION}.partial", **told_of, transcript=text, audio_end_ms=at)
            sure = agreed(self.before, text)
            if len(sure) > len(told) and sure.startswith(told):
                await self.send(f"{TRANSCRIPTION}.delta", **told_of, delta=sure[len(told) :])
                told = sure
            self.before, settled = text, settled.further(sure, segment, self.listener.rate)

    def _due(self, current: Utterance, heard: tuple[int, int]) -> bool:
        """Whether there is enough to hear again; where a pause begins, all that was said, however little, and once."""
        number, frames = heard
        known, kept = frames if number == current.number else 0, self.listener.kept(current)
        if kept < len(current.frames):
            return known < kept
        return self.listener.duration(kept - known) >= PARTIAL_SECONDS

    async def _complete(self, utterance: Utterance) -> None:
        name = self.names[utterance.number]
        try:
            segment = Segment(0.0, self.listener.duration(len(utterance.frames)), "")
            if self.listener.is_speech(utterance):
                segment = await self._hear(utterance.samples, self.before)
        except Exception as error:
            told = error if isinstance(error, ApiError) else crashed()
            await self.send(f"{TRANSCRIPTION}.failed", item_id=name, content_index=0, error=told.body()["error"])
            return
        segment = segment.later(utterance.start)
        await self.send(
            f"{TRANSCRIPTION}.completed",
            item_id=name,
            content_index=0,
            transcript=segment.text,
            start=segment.start,
            end=segment.end,
            usage={"type": "duration", "seconds": round(self.listener.duration(len(utterance.frames)), 3)},
            words=[{"word": word.text, "start": word.start, "end": word.end} for word in segment.words],
        )

    async def _hear(self, samples: np.ndarray, guess: str, final: bool = True) -> Segment:
        """Text that is not `final` is the front end's where it writes a draft.

        It ends where it begins to say the same over and over, as it does in half a word.
        """
        service = self.service
        seconds = len(samples) / service.processor.sampling_rate
        prompt = service.prompt(self.options.prompt)
        size = TOKENS_PER_SECOND * seconds + len(prompt) / 4
        row = Row(
            prompt,
            [samples],
            service.model.config.answer_tokens(seconds),
            size,
            draft_only=not final and service.model.reads_draft,
            guess=guess,
            language=service.language(self.options.language),
        )

        async def rows() -> AsyncIterator[Row]:
            yield row

        answers: Any = service.engine.work(partial=not final).answers(rows())
        try:
            async for answer in answers:
                loop = None if final else LOOP.search(answer.text)
                if answer.through or loop:
                    heard = answer.row.heard or Heard("")
                    if loop:
                        heard = replace(heard, text=answer.text[: loop.end(1)])
                    return await service.intake.run(judged, heard, seconds, service.ctc_rate, Options(), live=True)
        finally:
            await answers.aclose()
        raise crashed()
