"""Instructions from speech: prompts, answers through every method and scope, and agreement with the base's answers."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_run import WORDS, give_opinions, save_recipe
from tiny import LAYERS, SCOPES, shake

import depthup
from depthup.cli import main
from depthup.config import AUDIO_MARKER, DataConfig
from depthup.errors import UserError
from depthup.evaluate import instructions as module
from depthup.evaluate.instructions import evaluate_instruction
from depthup.model.connectors import Speech
from depthup.model.instruction import Example, Instruction
from depthup.recipe import load_recipe
from depthup.transcribe import hearing
from depthup.transcribe.examples import read_examples
from depthup.transcribe.reading import read_audio_file
from depthup.transcribe.recordings import transcribe_files

WAYS = {
    **{method: [f"--method={method}"] for method in ("full", "lora")},
    **{f"{a}-{b}": [f"--upscale.layer={a}", f"--upscale.scope={b}"] for a in LAYERS for b in SCOPES},
    "draft": ["--connector.name=draft", "--train.ctc_weight=0.3"],  # one placeholder a recording, many positions
}
ASKED = Instruction("Say it in French.", [Example("un", "one"), Example("deux trois", "two three")])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """Of a base with opinions, so that answers depend on what was said."""
    recipe = save_recipe(tmp_path_factory.mktemp("run"))
    give_opinions(recipe.parent / "base")
    return recipe


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(module, "COMPARED_TOKENS", 8)
    monkeypatch.setattr(hearing, "ANSWER_TOKENS", 8)


def built(recipe: Path, way: str) -> tuple[depthup.SpeechLM, depthup.SpeechProcessor]:
    model = depthup.SpeechLM.from_recipe(load_recipe(recipe, WAYS[way])).eval()
    return model, depthup.SpeechProcessor.build(model.config)


@pytest.fixture(scope="module")
def processor(recipe):
    return built(recipe, "full")[1]


@pytest.fixture
def manifest(recipe) -> Path:
    return recipe.parent / "audio" / "manifest.jsonl"


def tone(seconds: float) -> np.ndarray:
    return np.sin(np.arange(int(16000 * seconds)) / 20).astype(np.float32)


def without_template(processor):
    plain = copy.deepcopy(processor.tokenizer)
    plain.chat_template = None
    return plain


def test_a_chat_template_is_used_where_there_is_one(processor):
    assert ASKED.prompt(processor.tokenizer) == (
        "user: Say it in French.\none\nassistant: un\n"
        "user: Say it in French.\ntwo three\nassistant: deux trois\n"
        "user: Say it in French.\n<|audio|>\n"
    )


def test_without_a_chat_template_examples_look_like_the_question(processor):
    assert ASKED.prompt(without_template(processor)) == (
        "Say it in French.\nSpeech: one\nAnswer: un\n\nSay it in French.\nSpeech: two three\nAnswer: deux trois\n\n"
        "Say it in French.\nSpeech:<|audio|>\nAnswer:"
    )


def test_the_recording_stands_where_the_instruction_puts_it(processor):
    plain = without_template(processor)
    asked = Instruction('Translate "<|audio|>" into French:')
    assert asked.prompt(plain) == 'Translate "<|audio|>" into French:'
    assert asked.written(plain, "one") == 'Translate "one" into French:'
    assert Instruction("What follows:<|audio|>").written(plain, "one") == "What follows: one"
    assert Instruction("Repeat.").written(processor.tokenizer, "one") == "user: Repeat.\none\n"


def test_recordings_as_examples_are_heard_in_their_places(processor):
    asked = Instruction("Repeat.", [Example("un", audio=tone(0.5)), Example("deux", "two")])
    batch = processor.prompt_batch([tone(0.9), tone(1.1)], instruction=asked)
    one = processor(asked.prompt(processor.tokenizer), [tone(0.5), tone(1.1)])
    assert torch.equal(batch["input_ids"][1], one["input_ids"][0])
    assert torch.equal(batch["input_lengths"], torch.tensor([50, 90, 50, 110]))
    with pytest.raises(UserError, match="cannot hear an example"):
        asked.written(processor.tokenizer, "one")


def test_what_cannot_be_asked_is_refused(processor):
    deaf = copy.deepcopy(processor.tokenizer)
    deaf.chat_template = "{% for m in messages %}{{ m.role }}{% endfor %}"
    with pytest.raises(UserError, match="chat template has no place for the recording"):
        Instruction("Repeat.").prompt(deaf)
    deaf.chat_template = "{{ raise_exception('no user may speak') }}"
    with pytest.raises(UserError, match="refuses it .no user may speak"):
        Instruction("Repeat.").prompt(deaf)
    with pytest.raises(UserError, match="more than once"):
        Instruction(f"{AUDIO_MARKER} and {AUDIO_MARKER}")
    with pytest.raises(UserError, match="is empty"):
        Instruction("\n ")
    for example in ({}, {"text": "a", "audio": tone(0.1)}, {"text": AUDIO_MARKER}):
        with pytest.raises(UserError, match="an example"):
            Example("x", **example)


def test_a_template_that_begins_with_the_first_token_gets_no_second_one(processor):
    first = copy.deepcopy(processor)
    first.tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    first.tokenizer.add_bos_token = True
    ids = first.prompt_batch([tone(0.5)], instruction=Instruction("Hm"))["input_ids"][0]
    assert int((ids == first.tokenizer.bos_token_id).sum()) == 1


@pytest.mark.parametrize("way", WAYS)
def test_answers_are_what_generate_gives(recipe, manifest, way):
    model, processor = built(recipe, way)
    shake(model, 0.1)
    paths = [manifest.parent / f"{n}.flac" for n in range(3)]
    found = [t.text for t in transcribe_files(model, processor, paths, instruction=ASKED, max_new_tokens=12)]
    for path, text in zip(paths, found, strict=True):
        samples = read_audio_file(path, processor.sampling_rate)
        prompt = processor.prompt_batch([samples], instruction=ASKED)
        ids = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert text == processor.decode(ids, skip_special_tokens=True).strip()
    assert len(set(found)) > 1  # the recordings matter


@pytest.fixture(scope="module")
def sayings(tmp_path_factory) -> Path:
    """A manifest of clips that can be told apart by their lengths."""
    folder = tmp_path_factory.mktemp("sayings")
    rows = []
    for n, said in enumerate(WORDS):
        soundfile.write(folder / f"{n}.wav", tone(0.5 + 0.2 * n), 16000)
        rows.append({"audio": f"{n}.wav", "text": said, "duration": round(0.5 + 0.2 * n, 1)})
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "said.jsonl"


def perfect_ears(model, processor) -> None:
    """Let speech embeddings be those of the words in `sayings`."""
    words = {50 + 20 * n: processor.tokenizer(said)["input_ids"] for n, said in enumerate(WORDS)}

    def embed_speech(features: torch.Tensor, lengths: torch.Tensor, *_: object) -> Speech:
        rows = [torch.tensor(words[int(length)]) for length in lengths]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return Speech(model.get_input_embeddings()(ids), torch.tensor([len(row) for row in rows]))

    model.embed_speech = embed_speech
    if model.connector.positions_from_length:
        processor.num_frames = lambda length: len(words[length])


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_hears_perfectly_answers_as_its_base_reads_until_training_changes_it(recipe, sayings, way):
    model, processor = built(recipe, way)
    perfect_ears(model, processor)
    base = model.load_base()
    data = DataConfig()
    same = evaluate_instruction(model, base, processor, str(sayings), ASKED, data)
    assert (same.match, same.clips) == (1.0, 4) and same.kl == pytest.approx(0, abs=1e-6)
    assert {one.said: one.base for one in same.answers} == {one.said: one.answer for one in same.answers}
    assert len({one.base for one in same.answers}) > 1  # what is said matters
    shake(model, 0.3)
    changed = evaluate_instruction(model, base, processor, str(sayings), ASKED, data)
    assert changed.kl > 1e-3 and changed.tokens == same.tokens
    alone = evaluate_instruction(model, base, processor, str(sayings), ASKED, data, batch_seconds=0.1)
    assert (alone.kl, alone.match) == (pytest.approx(changed.kl, rel=1e-3), changed.match)
    assert changed.match == sum(one.base == one.answer for one in changed.answers) / 4


@torch.no_grad()
def test_kl_is_along_the_bases_answer(recipe, sayings):
    """Worked out token by token, one clip, over the answer and its end."""
    model, processor = built(recipe, "e_branchformer-all")
    perfect_ears(shake(model, 0.3), processor)
    base = model.load_base()
    found = evaluate_instruction(model, base, processor, str(sayings), ASKED, DataConfig(), limit=1)
    read = processor(ASKED.written(processor.tokenizer, WORDS[0]))["input_ids"]
    answer = base.generate(read, max_new_tokens=module.COMPARED_TOKENS, do_sample=False)[:, read.shape[1] :]
    heard = processor.prompt_batch([tone(0.5)], instruction=ASKED)
    heard["input_ids"] = torch.cat([heard["input_ids"], answer], 1)
    heard["attention_mask"] = torch.ones_like(heard["input_ids"])
    count = answer.shape[1]
    p = base(torch.cat([read, answer], 1)).logits[0, -count - 1 : -1].log_softmax(-1)
    q = model(**heard).logits[0, -count - 1 : -1].log_softmax(-1)
    assert found.tokens == count
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)


def test_an_answer_ends_with_its_end(recipe, processor):
    """And what a batch pads it with is not part of it."""
    base = depthup.SpeechLM.from_recipe(load_recipe(recipe)).load_base()
    prompts = processor([ASKED.written(processor.tokenizer, said) for said in WORDS])
    free = module._answers(base, prompts)
    base.generation_config.eos_token_id = [free[0][3], 2]
    ended = module._answers(base, prompts)
    assert ended[0] == free[0][: free[0].index(free[0][3]) + 1]
    for row, whole in zip(ended, free, strict=True):
        assert row == whole[: len(row)] and (row[-1] == free[0][3] or len(row) == module.COMPARED_TOKENS)


def test_clips_that_cannot_be_heard_at_once_are_counted(recipe, sayings, caplog):
    model, processor = built(recipe, "full")
    soundfile.write(sayings.with_name("long.wav"), tone(31), 16000)
    with_long = sayings.with_name("long.jsonl")
    row = {"audio": "long.wav", "text": "long", "duration": 31.0}
    with_long.write_text(sayings.read_text() + json.dumps(row) + "\n")
    found = evaluate_instruction(model, model.load_base(), processor, str(with_long), ASKED, DataConfig())
    assert (found.clips, found.skipped) == (4, 1) and "lasts 31.0 s" in caplog.text


BAD_EXAMPLES = {
    "{": "file.jsonl:1: not JSON",
    '{"answer": "x"}': "file.jsonl:1: an example has `answer`, and `text`",
    '{"answer": "x", "text": "y", "audio": "z"}': "file.jsonl:1: an example has",
    '{"answer": 1, "text": "y"}': "file.jsonl:1: an example has",
    '{"answer": "x", "audio": "none.wav"}': "none.wav: no such audio file",
    '{"answer": "<|audio|>", "text": "y"}': "file.jsonl:1: an example is of plain text",
    "\n": "file.jsonl: holds no example",
}


@pytest.mark.parametrize("line", BAD_EXAMPLES)
def test_a_bad_example_is_named(tmp_path, line):
    (tmp_path / "file.jsonl").write_text(line)
    with pytest.raises(UserError, match=BAD_EXAMPLES[line].replace(".", r"\.")):
        read_examples(tmp_path / "file.jsonl", 16000)


def test_the_commands(recipe, sayings, tmp_path, capsys, caplog):
    model, processor = built(recipe, "transformer-speech")
    model.save_pretrained(run := tmp_path / "run")
    processor.save_pretrained(run)
    soundfile.write(tmp_path / "said.wav", tone(0.3), 16000)
    (tmp_path / "examples.jsonl").write_text(
        '{"text": "one", "answer": "un"}\n{"audio": "said.wav", "answer": "deux"}\n'
    )
    audio, examples = str(sayings.with_name("0.wav")), ["--examples", str(tmp_path / "examples.jsonl")]
    asked = ["--instruction", "Say it in French."]
    assert main(["transcribe", str(run), audio, *asked, *examples]) == 0
    told = capsys.readouterr().out.strip()
    shown = Instruction(asked[1], read_examples(examples[1], 16000))
    (expected,) = transcribe_files(model, processor, [audio], instruction=shown)
    assert told == expected.text.strip()
    soundfile.write(tmp_path / "long.wav", tone(40), 16000)
    assert main(["transcribe", str(run), str(tmp_path / "long.wav"), *asked]) == 0
    assert "long.wav: heard in 2 pieces, each answered by itself" in caplog.text
    capsys.readouterr()
    assert main(["evaluate", str(run), "--asr", str(sayings), *asked, "--limit", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["instructions"]
    (name,) = found
    assert name == f"{sayings.parent.name}/said: {asked[1]}" and found[name]["clips"] == 2
    assert set(found[name]) == {"match", "kl", "clips", "tokens", "skipped"}
    assert json.loads((run / "evaluation.json").read_text())["instructions"] == found
    assert main(["evaluate", str(run), "--asr", str(sayings), *asked]) == 0
    assert "Answers equal to the base's to the text" in capsys.readouterr().out
    for words, error in {
        ("transcribe", audio, *examples): "--instruction TEXT too",
        ("transcribe", audio, "--instruction", " "): "instruction: is empty",
        ("evaluate", "--text", audio, *asked): "give --asr MANIFEST too",
        ("evaluate", "--asr", str(sayings), *asked, *examples): "cannot hear an example",
    }.items():
        assert main([words[0], str(run), *words[1:]]) == 2
        told = capsys.readouterr()
        assert error in told.err and "WER" not in told.out, "something was measured before"
