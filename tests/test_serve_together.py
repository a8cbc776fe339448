"""Requests that are served together: the same answers as alone, in turns, and one's end is nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import openai
import pytest
from serving import MODEL, VAD, Running, running, tiny_checkpoint, tone, until, wav

from depthup.serve.admission import choose
from depthup.serve.rows import Answer, Row, Work
from depthup.transcribe.recordings import transcribe_recordings

CLIPS = [tone(0.4 + 0.2 * (i % 5), 150 + 40 * i) for i in range(12)]
CHATS = [[{"role": "user", "content": f"{'word ' * (i % 4)}number {i}"}] for i in range(12)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("serve"))


def client_of(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def transcribe(client, clip) -> str:
    return client.audio.transcriptions.create(file=("a.wav", wav(clip)), model=MODEL).text


def chat(client, messages, limit=20) -> str:
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=limit)
    return answer.choices[0].message.content


def base_says(model, processor, messages, limit=20) -> str:
    """The text LLM alone, as transformers run it."""
    inputs = processor.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids = model.load_base().generate(**inputs, max_new_tokens=limit, do_sample=False)
    return processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_text_answers_are_the_bases_also_beside_speech(checkpoint):
    model, processor = checkpoint
    expected = [base_says(model, processor, messages) for messages in CHATS]
    heard = [t.text for t in transcribe_recordings(model, processor, CLIPS, vad=VAD)]
    assert len(set(expected)) > 3 and len(set(heard)) > 3
    with running(model, processor, batch_wait_ms=100) as server, ThreadPoolExecutor(24) as threads:
        client = client_of(server)
        chats = [threads.submit(chat, client, messages) for messages in CHATS]
        texts = [threads.submit(transcribe, client, clip) for clip in CLIPS]
        assert [one.result() for one in chats] == expected
        assert [one.result() for one in texts] == heard
        passes = server.value("depthup_batch_rows_count")
    assert passes < 16  # 24 requests: they were read together


def test_a_full_queue_says_when_to_come_back(checkpoint):
    model, processor = checkpoint
    with running(model, processor, max_requests=3) as server, held(server), ThreadPoolExecutor(8) as threads:
        client = client_of(server)
        waiting = [threads.submit(transcribe, client, clip) for clip in CLIPS[:3]]
        until(lambda: server.service.active == 3)
        with pytest.raises(openai.RateLimitError) as refused:
            transcribe(client, CLIPS[0])
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        go_on(server)
        assert all(one.result() is not None for one in waiting)
        assert transcribe(client, CLIPS[0]) is not None


def test_a_client_that_goes_away_frees_its_work(checkpoint):
    model, processor = checkpoint
    with running(model, processor) as server:
        client = client_of(server)
        long = [{"role": "user", "content": "long"}]
        for options in ({"stream": True}, {"timeout": 0.3}):
            with held(server, after_passes=3), contextlib.suppress(openai.APITimeoutError):
                found = client.chat.completions.create(model=MODEL, messages=long, max_tokens=3000, **options)
                next(iter(found))
                found.close()
            until(lambda: server.service.active == 0)
            until(lambda: server.value("depthup_rows_running") == server.value("depthup_rows_waiting") == 0)
        assert server.value("depthup_tokens_total") < 1000


def test_a_crash_of_one_request_is_its_own(checkpoint):
    model, processor = checkpoint
    heard = [t.text for t in transcribe_recordings(model, processor, CLIPS, vad=VAD)]
    poison = len(CLIPS[4])

    def fails(row):
        return any(abs(len(piece) - poison) < 1000 and row.prompt.startswith("poison") for piece in row.audio)

    with running(model, processor, batch_wait_ms=100) as server, ThreadPoolExecutor(12) as threads:
        engine, begin = server.service.engine, server.service.engine._begin

        def begin_or_fail(rows):
            if any(fails(row) for row in rows):
                raise RuntimeError("this row breaks the model")
            return begin(rows)

        engine._begin = begin_or_fail
        client = client_of(server)
        texts = [threads.submit(transcribe, client, clip) for clip in CLIPS]
        bad = threads.submit(
            lambda: client.audio.transcriptions.create(file=("a.wav", wav(CLIPS[4])), model=MODEL, prompt="poison")
        )
        assert [one.result() for one in texts] == heard
        with pytest.raises(openai.InternalServerError) as crashed:
            bad.result()
        assert "breaks" not in str(crashed.value)


def test_a_crash_between_passes_is_found_in_one_and_the_others_go_on(checkpoint, monkeypatch):
    model, processor = checkpoint
    heard = [t.text for t in transcribe_recordings(model, processor, CLIPS, vad=VAD)]
    with running(model, processor, batch_wait_ms=100) as server, ThreadPoolExecutor(14) as threads:
        from depthup.transcribe.decoding import Decoding

        step = Decoding.step

        def step_or_fail(self, at_once=None):
            if any(not row.tag.transcript and len(row.tokens) == 3 for row in self.rows):
                raise RuntimeError("the third token of a chat breaks the model")
            step(self, at_once)

        monkeypatch.setattr(Decoding, "step", step_or_fail)
        client = client_of(server)
        bad = threads.submit(chat, client, CHATS[0])
        texts = [threads.submit(transcribe, client, clip) for clip in CLIPS]
        assert [one.result() for one in texts] == heard
        with pytest.raises(openai.InternalServerError):
            bad.result()


def test_a_long_recording_takes_turns_with_short_ones(checkpoint):
    model, processor = checkpoint
    long = np.concatenate([np.concatenate([tone(1.2, 200 + 7 * i), np.zeros(16000, np.float32)]) for i in range(40)])
    with running(model, processor, rows=2, batch_seconds=2) as server, ThreadPoolExecutor(2) as threads:
        server.service.intake.vad = "energy"
        client = client_of(server)
        whole = threads.submit(transcribe, client, long)
        until(lambda: server.value("depthup_batch_rows_count") >= 2)
        assert (
            transcribe(client, CLIPS[0])
            == next(iter(transcribe_recordings(model, processor, [CLIPS[0]], vad="energy"))).text
        )
        assert not whole.done()
        assert whole.result() == next(iter(transcribe_recordings(model, processor, [long], vad="energy"))).text


def test_a_server_that_is_stopped_finishes_what_runs(checkpoint):
    model, processor = checkpoint
    with running(model, processor) as server, ThreadPoolExecutor(4) as threads:
        client = client_of(server)
        with held(server):
            texts = [threads.submit(transcribe, client, clip) for clip in CLIPS[:4]]
            until(lambda: server.service.active == 4)
            server.server.should_exit = True  # as SIGTERM sets it
            until(server.service.draining.is_set)
        assert [t.result() for t in texts] == [
            t.text for t in transcribe_recordings(model, processor, CLIPS[:4], vad=VAD)
        ]


def row(work, arrived, size=100.0, **fields) -> Row:
    made = Row("", [], 10, size, **fields)
    made.work, made.arrived = work, arrived
    return made


def test_choosing_takes_turns_and_keeps_to_like_sizes():
    busy, idle, other = (SimpleNamespace(running=n) for n in (3, 0, 0))
    old, new, small = row(busy, 1), row(idle, 2), row(other, 3, size=20)
    assert choose([old, new, small], 4, 1000) == [new, old]  # the idle request first, and what is of like size
    assert choose([old, small], 4, 1000) == [small]
    assert choose([old, new], 4, 150) == [new]  # no more than one pass may hold
    assert choose([old, new], 1, 1000) == [new]
    assert choose([old, new], 0, 1000) == choose([], 4, 1000) == []
    many = [row(busy, 1), *(row(idle, 10 + i) for i in range(6))]
    assert many[0] in choose(many, 5, 10000)  # nobody waits behind all rows of another
    failed = row(idle, 0, alone=True)
    assert choose([failed, old, new], 4, 1000) == [failed]
    assert failed not in choose([row(other, -1), failed, old], 4, 1000)
    assert choose([row(idle, 0, transcript=False), row(other, 1)], 4, 1000)[1:] == []
    assert choose([row(idle, 0, draft_only=True), row(other, 1)], 4, 1000)[1:] == []


def test_what_was_told_is_heard_however_late_it_is_listened_to():
    async def late() -> list[str]:
        work = Work(lambda row: None, partial=True)

        async def rows():
            for _ in range(2):
                yield Row("", [], 3, 1.0)

        found, asked = [], []
        work._put = asked.append
        answers = work.answers(rows())
        listening = asyncio.ensure_future(anext(answers))
        while len(asked) < 2:
            await asyncio.sleep(0)
        for row in asked:
            for text in ("a", "ab", "abc"):
                work.tell(Answer(row, text, len(text), text == "abc"))
        await asyncio.sleep(0.01)  # all of it is there before anything is taken
        found.append((await listening).text)
        found += [answer.text async for answer in answers]
        return found

    assert asyncio.run(late()) == ["a", "ab", "abc", "a", "ab", "abc"]


GATE = threading.Event()


def go_on(server) -> None:
    GATE.set()


@contextlib.contextmanager
def held(server: Running, after_passes: int = 0):
    """The engine waits before a pass until the block ends, so that what must be seen meanwhile is seen."""
    engine, write = server.service.engine, server.service.engine._write
    passes = 0
    GATE.clear()

    def wait_and_write(batch):
        nonlocal passes
        passes += 1
        if passes > after_passes:
            GATE.wait(20)
        write(batch)

    engine._write = wait_and_write
    try:
        yield
    finally:
        engine._write = write
        GATE.set()
