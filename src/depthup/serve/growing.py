"""A recording's transcript while its pieces are heard, which may be through in any order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Optional

from depthup.serve.audio import Recording
from depthup.serve.engine import TOKENS_PER_SECOND
from depthup.serve.rows import Answer, Row
from depthup.serve.service import Service
from depthup.transcribe.guard import judged
from depthup.transcribe.joining import join
from depthup.transcribe.options import Options
from depthup.transcribe.segments import Piece
from depthup.transcribe.transcript import Segment, Transcript

HELD_WORDS = 8
"""Last words that are not told before it is known whether the next piece hears them too; more than 2 s hold."""


class Growing:
    """Segments as they are settled, and the text so far, of which no part is taken back except by what comes last."""

    def __init__(self, service: Service, language: Optional[str]) -> None:
        """`language` is what the client says is spoken."""
        self._language = service.language(language)
        hears = self._language or service.settings.language or service.processor.language
        self.transcript = Transcript("file", language=hears)
        self.settled = 0
        """Pieces whose segments are in the transcript."""
        self.tokens = {"prompt": 0, "answer": 0}
        self._service = service
        self._rate = service.processor.sampling_rate
        self._options = Options()
        self._pieces: list[Piece] = []
        self._all_known = False
        self._through: dict[int, Segment] = {}
        self._partial: dict[int, str] = {}

    async def rows(self, recording: Recording, prompt: str) -> AsyncIterator[Row]:
        """A row for each piece; its `tag` is the piece's number."""
        async for piece in recording.pieces():
            number = len(self._pieces)
            self._pieces.append(Piece(piece.start, piece.samples[:0], piece.shared))
            seconds = len(piece.samples) / self._rate
            size = TOKENS_PER_SECOND * seconds + len(prompt) / 4
            limit = self._service.model.config.answer_tokens(seconds)
            yield Row(prompt, [piece.samples], limit, size, language=self._language, tag=number)
        self._all_known = True
        self.transcript.duration = round(recording.seconds, 3)

    async def take(self, answer: Answer) -> None:
        """What is new of a piece."""
        number = answer.row.tag
        if not answer.through:
            self._partial[number] = answer.text
            return
        self.tokens["prompt"] += answer.row.prompt_tokens
        self.tokens["answer"] += answer.tokens
        self._partial.pop(number, None)
        self._through[number] = await self._service.intake.run(self._judged, answer)
        while self.settled in self._through:
            piece, segment = self._pieces[self.settled], self._through.pop(self.settled)
            self.settled += 1
            join(self.transcript.segments, segment.later(piece.start / self._rate), piece.shared / self._rate)

    def _judged(self, answer: Answer) -> Segment:
        assert answer.row.heard is not None
        seconds = len(answer.row.audio[0]) / self._rate
        return judged(answer.row.heard, seconds, self._service.ctc_rate, self._options)

    @property
    def settled_segments(self) -> list[Segment]:
        """Those that no further piece changes: the next may still cut the last one."""
        return self.transcript.segments if self._last_is_safe(self.settled - 1) else self.transcript.segments[:-1]

    def _last_is_safe(self, piece: int) -> bool:
        """Whether it is known that no later piece hears the end of this one again."""
        following = self._pieces[piece + 1 : piece + 2]
        return not following[0].shared if following else self._all_known

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.transcript.segments)

    def told(self) -> str:
        """The text that nothing but the end may change: without last words that the next piece may hear again."""
        words, last = [self.text] if self.text else [], self.settled - 1
        running = self._partial.get(self.settled)
        if running and not self._pieces[self.settled].shared:
            words, last = [*words, running], self.settled
        text = " ".join(words)
        return text if self._last_is_safe(last) else " ".join(text.split(" ")[:-HELD_WORDS])

    def usage(self) -> dict[str, Any]:
        """Tokens, as OpenAI's API counts them."""
        read, written = self.tokens["prompt"], self.tokens["answer"]
        return {"type": "tokens", "input_tokens": read, "output_tokens": written, "total_tokens": read + written}

    def finish(self) -> Transcript:
        """The whole, once all pieces are through."""
        self.transcript.text = self.text
        return self.transcript


async def heard(service: Service, recording: Recording, prompt: str, growing: Growing, partial_texts: bool) -> Any:
    """Run a recording through the model; gives `growing` back after everything that is new."""
    answers = service.engine.work(partial_texts).answers(growing.rows(recording, prompt))
    try:
        async for answer in answers:
            await growing.take(answer)
            yield growing
    finally:
        await answers.aclose()  # type: ignore[attr-defined]  # a generator
