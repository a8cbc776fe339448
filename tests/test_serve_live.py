"""A live microphone: where somebody begins and pauses, text meanwhile, and the text that counts."""

from __future__ import annotations

import asyncio
import base64
import json
from functools import partial
from math import ceil
from types import SimpleNamespace

import numpy as np
import openai
import pytest
import torch
import websockets
from serving import MODEL, Running, running, tiny_checkpoint, tone

from depthup.serve import microphone
from depthup.serve.audio import AudioIntake
from depthup.serve.live import Listener, Settled, agreed
from depthup.serve.session import SessionOptions
from depthup.transcribe.hearing import transcribe_batch
from depthup.transcribe.transcript import Segment, Word
from depthup.transcribe.voice import FRAME

RATE = 16000
TRANSCRIPTION = "conversation.item.input_audio_transcription"


def loud(frame: np.ndarray) -> float:
    return float(np.abs(frame).max() > 0.05)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("serve"))


@pytest.fixture
def server(checkpoint, monkeypatch):
    monkeypatch.setattr(microphone, "detector", lambda *_: loud)
    with running(*checkpoint) as found:
        yield found


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def over(listener: Listener, samples: np.ndarray, chunk: int = 999) -> list:
    found = []
    for start in range(0, len(samples), chunk):
        found += [u for u in listener.take(samples[start : start + chunk]) if u.over]
    return found


def test_an_utterance_begins_before_its_speech_and_is_over_after_a_pause():
    listener = Listener(RATE, loud, 0.5)
    samples = np.concatenate([silence(1), tone(1), silence(0.3), tone(1), silence(1), tone(0.5), silence(1)])
    first, second = over(listener, samples)
    assert 0.6 < first.start < 1.0 and 4.0 < second.start < 4.4
    assert 2.3 < listener.duration(len(first.frames)) < 3.0  # the short pause is within
    for utterance in (first, second):
        at = round(utterance.start * RATE / FRAME) * FRAME
        assert np.array_equal(utterance.samples, samples[at : at + len(utterance.samples)])


def test_speech_without_a_pause_is_cut_and_no_sample_is_lost():
    listener = Listener(RATE, loud, 0.5)
    samples = np.concatenate([tone(20), tone(20, 300), tone(20, 250), silence(2)])
    utterances = over(listener, samples)
    assert len(utterances) > 2 and all(listener.duration(len(u.frames)) <= 28 for u in utterances)
    whole = np.concatenate([u.samples for u in utterances])
    assert np.array_equal(whole[: 60 * RATE], samples[: 60 * RATE])


def test_without_detection_only_the_client_ends_an_utterance():
    listener = Listener(RATE, None, 0.5)
    assert not over(listener, np.concatenate([tone(1), silence(3)]))
    (utterance,) = listener.close()
    assert listener.duration(len(utterance.frames)) == pytest.approx(4, abs=0.05)


def test_a_click_is_no_speech():
    listener = Listener(RATE, loud, 0.5)
    click = np.concatenate([silence(1), tone(0.03), silence(1)])
    assert not any(listener.is_speech(u) for u in over(listener, click))


def test_words_are_told_once_two_hearings_agree_on_them():
    assert agreed("a b", "a b c") == "a b"
    assert agreed("a b c", "a b c") == "a b"  # the last may still grow
    assert agreed("a x c", "a b c d") == "a"
    assert agreed("", "a b") == ""


def heard(text: str, seconds: float, each: float = 1.0) -> Segment:
    """Words of a second each."""
    words = [Word(each * n + 0.1, each * (n + 1) - 0.1, word) for n, word in enumerate(text.split())]
    return Segment(0.0, seconds, text, words)


def test_a_long_utterance_is_heard_again_without_the_words_that_are_sure():
    none = Settled()
    assert none.further("a b c", heard("a b c d", 4.0), RATE) == none  # short
    first = none.further("a b c d e", heard("a b c d e f", 6.0), RATE)
    assert first.text == "a b c" and first.frames == int(3.0 * RATE / FRAME)  # the last 2.5 s are heard again
    assert none.further("a b", heard("a b x d e f", 6.0), RATE).text == "a b"  # no word that is not sure
    assert none.further("", heard("a b c d e f", 6.0), RATE) == none
    assert none.further("", heard("a b c d e f g", 7.0), RATE).text == "a b c d"  # or it would grow without end
    assert none.further("a b c d e", Segment(0.0, 6.0, "a b c d e f"), RATE) == none  # no times
    text = first.with_rest("d e f g h i")
    assert text == "a b c d e f g h i"
    second = first.further(agreed(text, text), heard("d e f g h i", 6.0), RATE)
    assert second.text == "a b c d e f" and second.frames == 2 * first.frames


def test_what_is_said_is_heard_again_every_half_second_and_once_where_a_pause_begins():
    listener = Listener(RATE, loud, 0.5)
    due = partial(microphone.Microphone._due, SimpleNamespace(listener=listener))
    listener.take(np.concatenate([silence(1), tone(1)]))
    said = listener.current
    assert due(said, (-1, 0)) and not due(said, (said.number, len(said.frames) - 10))
    assert due(said, (said.number, len(said.frames) - 16))
    heard = said.number, len(said.frames) - 2
    listener.take(silence(0.2))
    assert not due(said, heard)  # a short one, which words have in them
    listener.take(silence(0.15))
    assert due(said, heard) and not due(said, (said.number, len(said.frames)))
    (ended,) = over(listener, silence(0.5))
    assert not listener.current and len(ended.frames) <= heard[1] + 12


async def session(
    server: Running, samples: np.ndarray, input_: dict, commit: bool = False, wait_at: float = 0
) -> list[dict]:
    """All events of a client that speaks like this, faster than people do, until all is heard.

    At second `wait_at` it waits for the first text.
    """
    url = server.url.replace("http", "ws") + f"/v1/realtime?model={MODEL}&intent=transcription"
    events = []
    async with websockets.connect(url) as socket:
        update = {
            "type": "transcription",
            "audio": {"input": {"format": {"type": "audio/pcm", "rate": RATE}, **input_}},
        }
        await socket.send(json.dumps({"type": "session.update", "session": update}))

        async def speak():
            pcm = (samples * 32767).astype("<i2").tobytes()
            for start in range(0, len(pcm), 6400):
                audio = base64.b64encode(pcm[start : start + 6400]).decode()
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
                while wait_at and start >= 2 * RATE * wait_at and not of(events, f"{TRANSCRIPTION}.partial"):
                    await asyncio.sleep(0.01)
            if commit:
                await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))

        speaking = asyncio.create_task(speak())
        waiting = None
        while waiting != 0 or not speaking.done():
            event = json.loads(await asyncio.wait_for(socket.recv(), 30))
            events.append(event)
            waiting = sum(e["type"] == "input_audio_buffer.committed" for e in events)
            waiting = waiting - sum(e["type"] == f"{TRANSCRIPTION}.completed" for e in events) if waiting else None
            if event["type"] == "error":
                break
        await speaking
    return events


def of(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event["type"] == kind]


def test_partial_text_while_somebody_speaks_and_the_final_text_at_the_pause(server, checkpoint):
    samples = np.concatenate([silence(0.5), tone(2.5), silence(0.8), tone(1.0, 300), silence(0.8)])
    events = asyncio.run(session(server, samples, {}, wait_at=2))
    assert events[0]["type"] == "session.created" and events[1]["type"] == "session.updated"
    completed = of(events, f"{TRANSCRIPTION}.completed")
    assert len(completed) == len(of(events, "input_audio_buffer.speech_started")) == 2
    pcm = (samples * 32767).astype("<i2").astype(np.float32) / 32768
    pieces = [pcm[round(e["start"] * RATE) : round(e["end"] * RATE)] for e in completed]
    alone = transcribe_batch(*checkpoint, pieces)
    assert [e["transcript"] for e in completed] == [segment.text for segment in alone] != ["", ""]
    first = completed[0]["item_id"]
    parts = [e for e in events[: events.index(completed[0])] if e["type"] == f"{TRANSCRIPTION}.partial"]
    assert parts and all(e["item_id"] == first for e in parts)
    assert all(0.5 < e["audio_end_ms"] / 1000 - completed[0]["start"] <= 3.1 for e in parts)
    assert [w["word"] for w in completed[0]["words"]] == completed[0]["transcript"].split()
    assert all(
        completed[0]["start"] <= w["start"] <= w["end"] <= completed[0]["end"] + 0.1 for w in completed[0]["words"]
    )


def test_a_long_utterance_is_heard_in_its_last_seconds_while_it_goes_on_and_at_its_end_as_a_whole(monkeypatch):
    monkeypatch.setattr(microphone, "detector", lambda *_: loud)
    service = SimpleNamespace(intake=AudioIntake(RATE, 3600), processor=SimpleNamespace(sampling_rate=RATE))
    says = np.linspace(0.2, 0.8, 14 * RATE, dtype=np.float32)  # where in it any part is can be read from its samples
    events, lengths, guesses = [], [], []

    async def hear(samples, guess, final=True):
        """A word for every second."""
        first, last = ((s - 0.2) / 0.6 * 14 for s in (samples[samples > 0.1][0], samples[samples > 0.1][-1]))
        guesses.append((guess, f"w{ceil(first - 0.2)}"))
        lengths.append(len(samples) / RATE)
        words = [
            Word(n - first + 0.1, n - first + 0.9, f"w{n}") for n in range(14) if first < n + 0.2 and n + 0.9 < last
        ]
        return Segment(0.0, lengths[-1], " ".join(word.text for word in words), words)

    async def send(kind, **fields):
        events.append({"type": kind, **fields})

    async def talk():
        listening = microphone.Microphone(service, SessionOptions(MODEL), send)
        listening._hear = hear
        writing = asyncio.create_task(listening.write())
        for part in np.array_split(np.concatenate([silence(1), says, silence(1)]), 32):
            await listening.feed(part)
            await asyncio.sleep(0.01)
        await listening.close()
        writing.cancel()

    asyncio.run(talk())
    whole = " ".join(f"w{n}" for n in range(14))
    (completed,) = of(events, f"{TRANSCRIPTION}.completed")
    assert completed["transcript"] == whole and lengths[-1] > 14 and max(lengths[:-1]) < 7
    assert all(guess.split()[0] == begins for guess, begins in guesses[4:])  # what was heard there the last time
    parts = of(events, f"{TRANSCRIPTION}.partial")
    assert len(parts) > 12 and all(whole.startswith(event["transcript"]) for event in parts)
    assert "".join(event["delta"] for event in of(events, f"{TRANSCRIPTION}.delta")).startswith("w0 w1 w2 w3 w4 w5 w6")


def test_text_that_is_not_final_is_the_front_end_s_draft_and_costs_the_llm_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(microphone, "detector", lambda *_: loud)
    model, processor = tiny_checkpoint(tmp_path, connector="draft")
    with torch.no_grad():  # it spells letters
        model.ctc_head.linear.bias.view(-1, 257)[:, [0, *range(98, 123)]] += 100
    samples = np.concatenate([silence(0.5), tone(2.5), silence(1)])
    with running(model, processor) as server:
        engine, asked = server.service.engine, []
        begin = engine._begin
        monkeypatch.setattr(engine, "_begin", lambda rows: asked.extend(rows) or begin(rows))
        events = asyncio.run(session(server, samples, {}, wait_at=2))
        (completed,) = of(events, f"{TRANSCRIPTION}.completed")
        (part, *_) = of(events, f"{TRANSCRIPTION}.partial")
    pcm = (samples * 32767).astype("<i2").astype(np.float32) / 32768
    times = completed["start"], part["audio_end_ms"] / 1000, completed["end"]
    first, at, last = (round(second * RATE) for second in times)
    inputs = processor(audio=[pcm[first:at]])
    (draft,) = model.make_out(inputs["input_features"], inputs["input_lengths"])
    (final,) = transcribe_batch(model, processor, [pcm[first:last]])
    assert part["transcript"] == draft.strip() != "" and completed["transcript"] == final.text
    assert len(asked) == 1  # for the final text


def test_a_client_may_end_utterances_itself(server):
    events = asyncio.run(session(server, np.concatenate([tone(1), silence(1)]), {"turn_detection": None}, commit=True))
    assert len(of(events, f"{TRANSCRIPTION}.completed")) == 1


@pytest.mark.parametrize(
    "option, given",
    [
        ("noise_reduction", {"type": "near_field"}),
        ("turn_detection", {"type": "semantic_vad"}),
        ("turn_detection", {"type": "server_vad", "threshold": 0.9}),
        ("format", {"type": "audio/pcmu"}),
        ("transcription", {"model": MODEL, "language": "fr"}),
        ("transcription", {"model": "whisper-1"}),
        ("transcription", {"keywords": ["a"]}),
    ],
)
def test_an_option_of_a_session_that_is_not_honoured_is_refused_by_name(server, option, given):
    events = asyncio.run(session(server, silence(0.1), {option: given}))
    (error,) = of(events, "error")
    names = (option, *given)
    assert any(name in error["error"]["message"] for name in names) and not of(events, "session.updated")


def test_what_is_no_event_is_an_error_and_the_session_goes_on(server):
    async def talk():
        async with websockets.connect(server.url.replace("http", "ws") + "/v1/realtime") as socket:
            json.loads(await socket.recv())
            for sent in (
                "no json",
                "[]",
                b"\x00",
                '{"type": "response.create"}',
                '{"type": "input_audio_buffer.append", "audio": "!"}',
            ):
                await socket.send(sent)
                assert json.loads(await socket.recv())["type"] == "error", sent
            await socket.send('{"type": "input_audio_buffer.clear"}')
            assert json.loads(await socket.recv())["type"] == "input_audio_buffer.cleared"

    asyncio.run(talk())


def test_openais_own_client_speaks_it(server):
    async def talk() -> str:
        client = openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", websocket_base_url=server.url.replace("http", "ws") + "/v1", api_key="none"
        )
        async with client.realtime.connect(model=MODEL) as connection:
            input_ = {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": {"type": "server_vad"}}
            await connection.session.update(session={"type": "transcription", "audio": {"input": input_}})
            samples = np.concatenate([tone(1.0, rate=24000), np.zeros(24000, np.float32)])
            pcm = (samples * 32767).astype("<i2").tobytes()
            for start in range(0, len(pcm), 9600):
                await connection.input_audio_buffer.append(audio=base64.b64encode(pcm[start : start + 9600]).decode())
            async for event in connection:
                if event.type == f"{TRANSCRIPTION}.completed":
                    return event.item_id
        return ""

    assert asyncio.run(asyncio.wait_for(talk(), 30))


@pytest.mark.parametrize("query, status", [("model=whisper-1", 404), ("intent=conversation", 400)])
def test_a_session_of_another_kind_is_refused_before_it_begins(server, query, status):
    async def ask():
        async with websockets.connect(server.url.replace("http", "ws") + f"/v1/realtime?{query}"):
            pass

    with pytest.raises(websockets.InvalidStatus, match=str(status)):
        asyncio.run(ask())


def test_pages_of_other_origins_hear_nothing_and_the_stop_brings_the_last_words(server):
    url = server.url.replace("http", "ws") + "/v1/realtime"

    async def elsewhere():
        async with websockets.connect(url, origin="https://elsewhere.example"):
            pass

    with pytest.raises(websockets.InvalidStatus, match="403"):
        asyncio.run(elsewhere())

    async def talk() -> list[dict]:
        events = []
        async with websockets.connect(url) as socket:
            pcm = (tone(1.0, rate=24000) * 32767).astype("<i2").tobytes()
            await socket.send(
                json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()})
            )
            while not events or events[-1]["type"] != "input_audio_buffer.speech_started":
                events.append(json.loads(await socket.recv()))
            server.server.should_exit = True  # as SIGTERM sets it
            async for message in socket:
                events.append(json.loads(message))
        return events

    assert of(asyncio.run(asyncio.wait_for(talk(), 30)), f"{TRANSCRIPTION}.completed")
