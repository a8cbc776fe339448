"""Models that hear discrete tokens: rows of their own beside the text's, and the same from audio as from shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_run import save_recipe
from tiny_tokens import save_codec, save_tokenizer

import depthup
from depthup import api
from depthup.cli import main
from depthup.data.shards import make_shards
from depthup.errors import UserError
from depthup.evaluate.loss import validation_loss
from depthup.model import checkpoint
from depthup.model.export import export_standalone
from depthup.model.fingerprint import fingerprint
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.planning.hardware import GPUS
from depthup.planning.planner import plan_training
from depthup.recipe import load_recipe

STREAMS = [20, 16, 16]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A directory with a recipe on tokens, its base and recordings, and shards of their tokens."""
    directory = tmp_path_factory.mktemp("made")
    path = save_recipe(directory, connector={"name": "tokens"}, augment={})
    save_tokenizer(directory / "tokenizer", directory / "audio" / "manifest.jsonl")
    recipe = yaml.safe_load(path.read_text())
    recipe["encoder"] = {"name": str(directory / "tokenizer"), "frame_rate": 50}
    path.write_text(yaml.safe_dump(recipe))
    make_shards(recipe["data"]["train"], directory / "as-flac", shard_clips=5)
    make_shards(str(directory / "as-flac"), directory / "shards", shard_clips=5, tokenizer=directory / "tokenizer")
    return directory


STEPS = ("--train.max_steps=4", "--train.save_steps=2")


def run_words(made: Path, output: Path) -> list[str]:
    """A run on shards alone, with a tokenizer whose audio encoder and codec are not there."""
    return [f"--output_dir={output}", f"--data.train={made / 'shards'}", f"--encoder.name={made / 'bare'}", *STEPS]


@pytest.fixture(scope="module")
def run(made) -> Path:
    shutil.copytree(made / "tokenizer", made / "bare")
    told = json.loads((made / "bare" / "config.json").read_text())
    nowhere = {"encoder": str(made / "gone"), "codec": str(made / "gone")}
    (made / "bare" / "config.json").write_text(json.dumps({**told, **nowhere}))
    return api.train(recipe(made, *run_words(made, made / "run")))


def recipe(made: Path, *words: str) -> depthup.Recipe:
    return load_recipe(made / "recipe.yaml", words)


def ids(frames: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(size, size=frames) for size in STREAMS], axis=1)


def trained(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


@pytest.mark.parametrize("stack", [1, 4])
def test_a_position_holds_the_sum_of_the_rows_of_its_ids(stack, made):
    model = SpeechLM.from_recipe(recipe(made, f"--encoder.frame_rate={50 / stack}")).eval()
    clip = ids(9)
    clip[3, 1] = -1
    speech = model.embed_speech(torch.from_numpy(clip)[None], torch.tensor([9]))
    assert model.connector.table.weight.shape == (sum(STREAMS) * stack, 32)
    for position in range(-(-9 // stack)):
        expected, first = torch.zeros(32), 0
        for place in range(stack):
            for stream, size in enumerate(STREAMS):
                frame = position * stack + place
                if frame < 9 and clip[frame, stream] >= 0:
                    expected += model.connector.table.weight[first + clip[frame, stream]]
                first += size
        torch.testing.assert_close(speech.embeddings[0, position], expected)


def test_speech_begins_at_the_scale_of_text(made):
    model = SpeechLM.from_recipe(recipe(made))
    speech = model.embed_speech(torch.from_numpy(ids(2000))[None], torch.tensor([2000]))
    assert speech.embeddings.std().item() == pytest.approx(model.config.base_embedding_std, rel=0.1)


def test_a_clip_is_heard_alike_alone_and_in_a_batch(made):
    model = SpeechLM.from_recipe(recipe(made)).eval()
    processor = SpeechProcessor.build(model.config)
    short, long = ids(7), ids(30, seed=1)
    with torch.no_grad():
        alone = model(**processor("<|audio|> hm", [short])).logits[0]
        batch = processor(["<|audio|> hm"] * 2, [short, long])
        together = model(**batch).logits[0]
    torch.testing.assert_close(together[batch["attention_mask"][0].bool()], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["full", "lora", "depth_upscale", "depth_upscale+lora"])
def test_with_every_method_new_rows_learn_and_the_texts_stay_and_are_all_that_is_predicted(method, made):
    model = SpeechLM.from_recipe(recipe(made, f"--method={method}", "--lora.rank=2", "--upscale.scope=all"))
    processor = SpeechProcessor.build(model.config)
    batch = processor.training_batch([ids(12), ids(5, seed=1)], ["one", "two three"])
    batch = {name: value for name, value in batch.items() if not name.startswith("ctc")}
    model(**batch).loss.backward()
    heard = torch.zeros(sum(STREAMS), dtype=torch.bool)
    for clip in (ids(12), ids(5, seed=1)):
        heard[(clip + np.array([0, 20, 36])).ravel()] = True
    assert torch.equal(model.connector.table.weight.grad.abs().sum(1) > 0, heard)
    text = model.get_input_embeddings().weight
    assert (text.grad is not None) == (method == "full")
    assert model(input_ids=torch.tensor([[5, 6]])).logits.shape[-1] == len(text) == model.load_base().config.vocab_size


def test_training_on_shards_is_training_on_audio_and_needs_neither_audio_nor_encoder(made, run, tmp_path):
    audio = str(made / "as-flac")
    spoken = api.train(recipe(made, f"--output_dir={tmp_path}", f"--data.train={audio}", *STEPS))
    first, second = trained(spoken), trained(run)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    # And what was trained on tokens transcribes audio, and is measured alike on either.
    model, processor = api.load(run, encoder=str(made / "audio-encoder"), codec=str(made / "codec"))
    data, tokens = recipe(made).data, str(made / "shards")
    losses = [validation_loss(model, processor, source, data) for source in (tokens, audio)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    found = api.evaluate(model, processor, [tokens, audio], data=data).asr
    heard, again = ([example.hypothesis for example in report.examples] for report in found.values())
    assert heard == again
    assert api.transcribe(model, processor, [made / "audio" / "0.flac"], vad="none")[0].text == heard[0]


def test_a_killed_run_on_shards_goes_on_as_if_it_had_not_been(made, run, tmp_path):
    cut = tmp_path / "run"
    shutil.copytree(run, cut)
    for path in (cut / "model.safetensors", cut / "checkpoint-4"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = [word.replace(str(run), str(cut)) for word in run_words(made, run)]
    first, second = trained(run), trained(api.train(recipe(made, *words)))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (cut / "centroids.safetensors").is_file()


def test_text_is_the_bases_bit_for_bit_and_no_encoder_is_kept(made, run, tmp_path):
    model, _ = api.load(run)
    base = model.load_base()
    prompt = torch.tensor([[5, 9, 30, 7]])
    with torch.no_grad():
        assert torch.equal(model(prompt).logits, base(prompt).logits)
    assert model.config.base_hash == fingerprint(base)
    assert {name.partition(".")[0] for name in trained(run)} == {"llm", "connector"}
    with pytest.raises(UserError, match="audio encoder and codec do not go into"):
        export_standalone(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_front_end_of_tokens_learns_to_spell(made, tmp_path):
    words = ["--train.front_end_steps=2", "--train.max_steps=1", f"--output_dir={tmp_path}"]
    assert (api.train(recipe(made, *words)) / "model.safetensors").is_file()


def test_a_plan_needs_only_configurations_and_counts_the_new_rows(made, tmp_path):
    plain = recipe(made)
    for name in (plain.encoder.name, plain.base):
        (tmp_path / Path(name).name).mkdir()
        shutil.copy(Path(name) / "config.json", tmp_path / Path(name).name)
    changed = recipe(made, "--encoder.name=org/tokenizer", "--base=org/base")
    changed.configs = {"org/tokenizer": str(tmp_path / "tokenizer"), "org/base": str(tmp_path / "base")}
    plan = plan_training(changed, GPUS["h100"], hours=1)
    rows = {row[0]: row for row in api.summary(changed).rows}
    assert rows["connector"][2] == rows["connector"][3] == sum(STREAMS) * 32
    assert rows["encoder"][2] == 0
    assert plan.steps_by_kind["speech"].speech_tokens == pytest.approx(50 * plan.steps_by_kind["speech"].audio_seconds)
    assert main(["upscale", str(made / "recipe.yaml"), "--dry-run"]) == 0


def test_a_codec_whose_frames_come_elsewhen_alone_works_too(made, tmp_path):
    codec = save_codec(tmp_path / "mimi", "mimi")
    assert main(["tokenizer", "--codec", str(codec), "--codec-streams", "2", "--output", str(tmp_path / "out")]) == 0
    words = [f"--encoder.name={tmp_path / 'out'}", "--encoder.frame_rate=12.5", "--train.max_steps=1"]
    run = api.train(recipe(made, f"--output_dir={tmp_path / 'run'}", *words))
    model, processor = api.load(run)
    assert processor.num_frames(13) == 13 and not (run / "centroids.safetensors").exists()
    assert api.transcribe(model, processor, [made / "audio" / "0.flac"])[0].error is None


def another_tokenizer(made: Path) -> str:
    if not (made / "another").exists():
        save_tokenizer(made / "another", made / "audio" / "manifest.jsonl", seed=1)
    return str(made / "another")


REFUSED = {
    "tokens of another tokenizer": (["--data.train=SHARDS", "--encoder.name=ANOTHER"], "tokens of another speech tok"),
    "tokens for frames": (["--data.train=SHARDS", "--encoder.name=fbank", "--connector.name=frames"], "holds speech"),
    "validation on others": (["--data.validation=SHARDS", "--encoder.name=ANOTHER"], "tokens of another speech tok"),
    "another speed for tokens": (["--data.train=SHARDS", "--augment.speed=[0.9, 1.1]"], "cannot be changed"),
    "masks without features": (["--augment.time_masks=2"], "could be masked"),
    "tokens to a connector of frames": (["--connector.name=frames"], "gives tokens; choose tokens"),
    "frames to a connector of tokens": (["--encoder.name=fbank", "--encoder.frame_rate=12.5"], "gives frames; choose"),
    "a tokenizer that trains": (["--encoder.train=true"], "nothing learns"),
    "a rate that stacking cannot give": (["--encoder.frame_rate=20"], "encoder.frame_rate 20"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_line(case, made, tmp_path):
    words, message = REFUSED[case]
    for name, place in {"SHARDS": str(made / "shards"), "ANOTHER": another_tokenizer(made)}.items():
        words = [word.replace(name, place) for word in words]
    with pytest.raises(UserError, match=message) as error:
        api.train(recipe(made, f"--output_dir={tmp_path / 'run'}", *words))
    assert "\n" not in str(error.value)
    if "SHARDS" in str(REFUSED[case][0]):
        assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_another_tokenizer(made, run):
    model = SpeechLM.from_recipe(recipe(made, f"--encoder.name={another_tokenizer(made)}"))
    with pytest.raises(UserError, match="trained with another speech encoder"):
        checkpoint.load_trained(model, run)


def test_an_evaluation_on_tokens_of_another_tokenizer_is_refused(made):
    model = SpeechLM.from_recipe(recipe(made, f"--encoder.name={another_tokenizer(made)}")).eval()
    processor = SpeechProcessor.build(model.config)
    with pytest.raises(UserError, match="another speech tokenizer than the model's"):
        api.evaluate(model, processor, str(made / "shards"))
