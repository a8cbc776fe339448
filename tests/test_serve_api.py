"""OpenAI's API as its own Python client speaks it, and what it says of options that are not honoured."""

from __future__ import annotations

import base64
import json
import urllib.request
from types import SimpleNamespace

import numpy as np
import openai
import pytest
from serving import MODEL, VAD, Running, running, tiny_checkpoint, tone, wav

from depthup.errors import UserError
from depthup.serve.errors import ApiError
from depthup.serve.options import RESPONSE_FORMATS
from depthup.serve.rows import Row
from depthup.serve.service import Service
from depthup.serve.settings import Settings
from depthup.transcribe.formats import FORMATS
from depthup.transcribe.recordings import transcribe_recordings

CLIP = tone(0.6)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(*tiny_checkpoint(tmp_path_factory.mktemp("serve")), language="en") as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def expected(server: Running):
    """What the same model says of the same clip without a server."""
    return next(iter(transcribe_recordings(server.service.model, server.service.processor, [CLIP], vad=VAD)))


def test_every_response_format_is_what_transcribe_writes(client, expected):
    assert expected.text
    for name in RESPONSE_FORMATS:
        found = client.audio.transcriptions.create(file=("a.wav", wav(CLIP)), model=MODEL, response_format=name)
        if name == "json":
            assert found.text == expected.text
        elif name == "text":
            assert found == expected.text + "\n"
        elif name == "verbose_json":
            assert (found.text, found.duration) == (expected.text, expected.duration)
            assert [(s.start, s.end, s.text) for s in found.segments] == [
                (s.start, s.end, s.text) for s in expected.segments
            ]
            assert not found.words
        else:
            assert found == FORMATS[name](expected)


def test_words_have_times_where_they_are_asked_for(client, expected):
    found = client.audio.transcriptions.create(
        file=("a.wav", wav(CLIP)), model=MODEL, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert [(w.word, w.start, w.end) for w in found.words] == [
        (w.text, w.start, w.end) for w in expected.segments[0].words
    ]


def test_a_prompt_comes_before_the_recipes_own(client, server, expected):
    found = client.audio.transcriptions.create(
        file=("a.wav", wav(CLIP)), model=MODEL, prompt="Names: Bo", language="en"
    )
    processor = server.service.processor
    heard = CLIP[round(16000 * expected.segments[0].start) :]
    batch = processor([f"Names: Bo\n{processor.prompt}"], [heard])
    limit = server.service.model.config.answer_tokens(len(heard) / 16000)
    ids = server.service.model.generate(**batch, max_new_tokens=limit, do_sample=False)[
        0, batch["input_ids"].shape[1] :
    ]
    assert found.text == processor.tokenizer.decode(ids, skip_special_tokens=True).strip() != expected.text


@pytest.mark.parametrize(
    "started_for, writes, asked, told",
    [
        ("", True, "fr", "fr"),
        ("fr", True, None, "fr"),
        ("", True, None, None),
        ("en", False, "en", None),
        ("", True, "xx", "does not know it"),
        ("fr", True, "en", "for fr alone"),
        ("", False, "fr", "--language"),
    ],
)
def test_a_decoder_that_can_be_told_a_language_is_told_the_client_s(started_for, writes, asked, told):
    def languages(language, count):
        if language == "xx":
            raise UserError("language xx: /home/somebody/whisper knows no such language")

    processor = SimpleNamespace(kind=SimpleNamespace(writer=object() if writes else None), languages=languages)
    service = SimpleNamespace(settings=Settings(language=started_for), processor=processor)
    if told and len(told) > 2:
        with pytest.raises(ApiError, match=told) as refused:
            Service.language(service, asked)
        assert "/home" not in str(refused.value) and refused.value.param == "language"
    else:
        assert Service.language(service, asked) == told


def test_each_recording_of_a_batch_is_read_with_its_own_language(server, monkeypatch):
    engine, given = server.service.engine, []
    monkeypatch.setattr(engine, "processor", lambda *args, **options: given.append(options["language"]) or {})
    clip = np.zeros(1600, np.float32)
    engine._inputs([Row("", [clip], 1, 1.0, language="fr"), Row("", [clip, clip], 1, 1.0), Row("", [], 1, 1.0)])
    assert given == [["fr", None, None]]


def test_a_stream_tells_the_text_as_it_is_written(client, expected):
    events = list(
        client.audio.transcriptions.create(file=("a.wav", wav(CLIP)), model=MODEL, temperature=0, stream=True)
    )
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) > 2 and "".join(deltas) == expected.text
    assert events[-1].type == "transcript.text.done" and events[-1].text == expected.text


def test_chat_with_text_and_with_a_recording(client, server):
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    whole = client.chat.completions.create(model=MODEL, messages=said, max_completion_tokens=9)
    assert whole.usage.completion_tokens <= 9 and whole.choices[0].message.role == "assistant"
    chunks = list(client.chat.completions.create(model=MODEL, messages=said, max_tokens=9, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    audio = {"data": base64.b64encode(wav(CLIP)).decode(), "format": "wav"}
    parts = [{"type": "text", "text": "What is said?"}, {"type": "input_audio", "input_audio": audio}]
    heard = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=9)
    words = len("user: What is said?\n")
    assert heard.usage.prompt_tokens == words + server.service.processor.num_frames(len(CLIP) // 160)


def test_a_chat_ends_at_a_stop_sequence_and_never_tells_part_of_it(client):
    said = [{"role": "user", "content": "Hello"}]
    whole = client.chat.completions.create(model=MODEL, messages=said, max_tokens=24).choices[0].message.content
    stop = whole[4:7]
    chunks = list(client.chat.completions.create(model=MODEL, messages=said, max_tokens=24, stop=stop, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole[: whole.index(stop)]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_usage_comes_last_in_a_stream_where_it_is_asked_for(client):
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage.completion_tokens == 5 and not chunks[-1].choices


@pytest.mark.parametrize(
    "option, value",
    [
        ("temperature", 0.7),
        ("response_format", "diarized_json"),
        ("prompt", "a <|audio|> b"),
        ("language", "fr"),
        ("include", ["logprobs"]),
        ("chunking_strategy", {"type": "server_vad"}),
        ("known_speaker_names", ["a"]),
        ("keywords", ["a"]),
        ("languages", ["en", "fr"]),
        ("timestamp_granularities", ["word"]),
        ("beam_size", 4),
    ],
)
def test_an_option_of_transcription_that_is_not_honoured_is_refused_by_name(client, option, value):
    sent = {"extra_body": {option: value}} if option == "beam_size" else {option: value}
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(file=("a.wav", wav(CLIP)), model=MODEL, **sent)
    assert refused.value.param.startswith(option) and option in refused.value.message


@pytest.mark.parametrize(
    "option, value",
    [
        ("temperature", 1),
        ("n", 2),
        ("top_p", 0.5),
        ("logprobs", True),
        ("presence_penalty", 1),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["audio"]),
        ("reasoning_effort", "low"),
        ("max_tokens", 10**6),
    ],
)
def test_an_option_of_chat_that_is_not_honoured_is_refused_by_name(client, option, value):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], **{option: value})
    assert option in refused.value.message


def test_options_that_say_what_is_done_anyway_are_taken(client):
    client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=2,
        temperature=0,
        top_p=1,
        n=1,
        seed=7,
        user="somebody",
        response_format={"type": "text"},
        modalities=["text"],
    )


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "tool", "content": "a"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a"}}]}],
        [{"role": "user", "content": "a <|audio|> b"}],
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}]}],
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "QUFBQQ==", "format": "wav"}}]}],
        [{"role": "user", "content": "word " * 5000}],
    ],
)
def test_messages_that_cannot_be_read_are_refused(client, messages):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=messages)


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="model"):
        client.audio.transcriptions.create(file=("a.wav", wav(CLIP)), model="whisper-1")
    with pytest.raises(openai.NotFoundError, match="model"):
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "Hi"}])


def test_models_health_and_metrics(client, server):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with urllib.request.urlopen(f"{server.url}/health") as response:
        assert json.load(response)["status"] == "ok"
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        text = response.read().decode()
    assert "depthup_request_seconds_bucket" in text and 'route="/v1/audio/transcriptions"' in text


def test_unknown_routes_and_methods_are_errors_of_the_same_form(client, server):
    for path in ("/v1/embeddings", "/v1/chat/completions"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{server.url}{path}")
        assert json.load(refused.value)["error"]["message"]
