"""What is saved comes back; a wrong, changed, missing or truncated thing is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_run import save_base, save_recipe, save_whisper
from tiny import shake, tiny_base

import depthup
from depthup.model.checkpoint import FRONT_END, load_trained
from depthup.model.fingerprint import fingerprint
from depthup.recipe import load_recipe

WEIGHTS = "model.safetensors"
SHAPES = {
    "transformer all": {"upscale": {"layer": "transformer", "scope": "all", "num_layers": 2}},
    "e_branchformer speech": {"upscale": {"num_layers": 2, "e_branchformer": {"kernel_size": 3, "width": 16}}},
    "lora": {"method": "lora"},
    "full": {"method": "full"},
    "hybrid with ctc": {"method": "depth_upscale+lora", "upscale": {"num_layers": 1}, "train": {"ctc_weight": 0.3}},
}


def saved(tmp_path: Path, **changes: object) -> tuple[depthup.SpeechLM, Path]:
    model = depthup.SpeechLM.from_recipe(load_recipe(save_recipe(tmp_path, **changes)))
    shake(model.eval())
    model.save_pretrained(tmp_path / "checkpoint")
    depthup.SpeechProcessor.build(model.config).save_pretrained(tmp_path / "checkpoint")
    return model, tmp_path / "checkpoint"


def inputs(processor: depthup.SpeechProcessor) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(n).astype(np.float32) for n in (9000, 5000)]
    return dict(processor(["hear <|audio|> then", "<|audio|>?"], clips))


@pytest.mark.parametrize("shape", SHAPES)
def test_loaded_gives_identical_logits(tmp_path, shape):
    model, checkpoint = saved(tmp_path, **SHAPES[shape])
    loaded, processor = depthup.load(checkpoint)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs(processor)).logits, model(**inputs(processor)).logits)
    stored = set(load_file(checkpoint / WEIGHTS))
    assert stored == {n for n, p in model.named_parameters() if p.requires_grad}
    if shape not in ("full",):
        assert not any(n.endswith("embed_tokens.weight") for n in stored)


def test_others_may_read_what_other_files_let_them_read(tmp_path):
    (tmp_path / "plain").touch()
    _, checkpoint = saved(tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (checkpoint / "config.json", checkpoint / WEIGHTS)}
    assert set(modes.values()) == {(tmp_path / "plain").stat().st_mode & 0o777}, modes


def test_loaded_in_bfloat16_text_is_still_the_bases(tmp_path):
    loaded, _ = depthup.load(saved(tmp_path)[1], dtype="bfloat16")
    assert {p.dtype for p in loaded.llm.parameters()} == {torch.bfloat16}
    ids = torch.arange(3, 35)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, loaded.load_base()(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("trained_in", "there"), [("bfloat16", "bfloat16"), ("auto", "bfloat16"), ("float32", "float32")]
)
def test_a_gpu_loads_what_was_trained_in_and_a_cpu_float32(trained_in, there, tmp_path, monkeypatch):
    _, checkpoint = saved(tmp_path)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"dtype_policy": trained_in}))
    assert depthup.load(checkpoint)[0].llm.dtype == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert depthup.SpeechLM.from_pretrained(checkpoint).llm.dtype == getattr(torch, there)


def test_loaded_in_bfloat16_it_hears_as_it_was_trained_to(tmp_path):
    loaded, processor = depthup.load(saved(tmp_path)[1], dtype="bfloat16")
    given = inputs(processor)
    audio = given["input_features"], given["input_lengths"]
    with torch.no_grad():
        alone = loaded.embed_speech(*audio).embeddings
        with torch.autocast("cpu", torch.bfloat16):  # as training computes it
            assert torch.equal(alone, loaded.embed_speech(*audio).embeddings)
        exact = loaded.connector(*loaded.encoder(*audio), loaded.get_input_embeddings(), False).embeddings
    assert not torch.equal(alone, exact.bfloat16())
    torch.testing.assert_close(alone.float(), exact, rtol=0.1, atol=0.1)


def test_in_float16_the_base_is_known_and_hears_about_the_same(tmp_path):
    _, checkpoint = saved(tmp_path)
    (exact, processor), (half, _) = depthup.load(checkpoint), depthup.load(checkpoint, dtype="float16")
    assert {p.dtype for p in half.llm.parameters()} == {torch.float16}
    given = inputs(processor)
    with torch.no_grad():
        torch.testing.assert_close(half(**given).logits.float(), exact(**given).logits, rtol=0.05, atol=0.05)
        moved = processor("<|audio|>", torch.zeros(9000)).to("cpu", torch.float16)  # as runners move their inputs
        assert half(**moved).logits.isfinite().all()
    with pytest.raises(depthup.UserError, match="dtype int8: choose float32"):
        depthup.load(checkpoint, dtype="int8")


def test_the_whole_model_goes_to_one_device(tmp_path):
    _, checkpoint = saved(tmp_path)
    for device_map in ("auto", "cpu", {"": "cpu"}, {"llm": "cpu", "encoder": torch.device("cpu")}):
        assert depthup.SpeechLM.from_pretrained(checkpoint, device_map=device_map).device.type == "cpu"
    for device_map in ("balanced", {"llm": "cpu", "encoder": 1}, "gpu"):
        with pytest.raises(depthup.UserError, match="device_map .*goes to one device"):
            depthup.SpeechLM.from_pretrained(checkpoint, device_map=device_map)


def test_a_front_end_that_heard_no_silence_starts_none_that_hears_it(tmp_path):
    whisper = str(save_whisper(tmp_path / "whisper", positions=100))
    _, without = saved(tmp_path, encoder={"name": whisper, "train": True, "pad_to_30s": False})
    model, few = depthup.SpeechLM.from_pretrained(without), depthup.SpeechLM.from_pretrained(without).config
    load_trained(model, without, part=FRONT_END)
    few.encoder = few.encoder | {"pad_to_30s": None}
    model.config = few
    with pytest.raises(depthup.UserError, match=r"encoder.pad_to_30s False, which is None here; give the same"):
        load_trained(model, without, part=FRONT_END)
    # An encoder that pads to no 30 s means the same by both.
    model, plain = saved(tmp_path / "plain")
    assert model.config.encoder["pad_to_30s"] is None
    model.config.encoder = model.config.encoder | {"pad_to_30s": False}
    load_trained(model, plain)


def test_unknown_arguments_are_refused(tmp_path):
    _, checkpoint = saved(tmp_path)
    with pytest.raises(TypeError, match="unknown arguments low_cpu, nonsense"):
        depthup.SpeechLM.from_pretrained(checkpoint, nonsense=1, low_cpu=True)
    model = depthup.SpeechLM.from_pretrained(checkpoint)
    with pytest.raises(TypeError, match="unknown arguments max_shard"):
        model.save_pretrained(tmp_path / "again", max_shard=1)
    kernel = depthup.SpeechLM.from_pretrained(checkpoint, attn_implementation="eager").llm.config._attn_implementation
    assert kernel == "eager"


def test_tools_find_the_sizes_and_may_pass_ids_as_labels(tmp_path):
    model, checkpoint = saved(tmp_path)
    config = model.llm.config
    assert (model.config.vocab_size, model.config.hidden_size) == (config.vocab_size, config.hidden_size)
    given = inputs(depthup.load(checkpoint)[1])
    ids = given["input_ids"]
    with torch.no_grad():
        masked = model(**given, labels=ids.masked_fill(ids == model.config.audio_token_id, -100)).loss
        assert torch.equal(model(**given, labels=ids).loss, masked)
    with pytest.raises(depthup.UserError, match="resize_token_embeddings"):
        model.resize_token_embeddings(config.vocab_size + 1)
    assert depthup.SpeechLM.from_pretrained(checkpoint, torch_dtype=torch.bfloat16).dtype == torch.bfloat16


def test_what_is_saved_names_no_place_of_this_machine_but_base_and_encoder(tmp_path):
    model, checkpoint = saved(tmp_path)
    for file in checkpoint.iterdir():
        if file.name != "model.safetensors":
            assert file.read_text().count(str(tmp_path)) == (file.name == "config.json"), file
    assert json.loads((checkpoint / "config.json").read_text())["base"] == model.config.base


def test_a_wrong_or_changed_base_is_refused(tmp_path):
    model, checkpoint = saved(tmp_path)
    other = save_base(tmp_path / "other", seed=1)
    with pytest.raises(depthup.UserError, match="other weights"):
        depthup.load(checkpoint, base=str(other))
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.norm.weight"][3] += 0.01
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(depthup.UserError, match="other weights"):
        depthup.load(checkpoint)


def test_a_base_that_has_moved_can_be_named(tmp_path):
    model, checkpoint = saved(tmp_path)
    shutil.move(tmp_path / "base", tmp_path / "elsewhere")
    with pytest.raises(depthup.UserError, match="no causal LM there"):
        depthup.load(checkpoint)
    loaded, _ = depthup.load(checkpoint, base=str(tmp_path / "elsewhere"))
    assert fingerprint(loaded.load_base()) == model.config.base_hash
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (checkpoint / "config.json").read_text()


def test_a_truncated_checkpoint_is_refused(tmp_path):
    _, checkpoint = saved(tmp_path)
    whole = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(depthup.UserError, match="truncated"):
        depthup.load(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(depthup.UserError, match="model.safetensors is missing"):
        depthup.load(checkpoint)


BROKEN = {
    "not JSON": ("config.json", "{", "cannot be read as JSON"),
    "a list": ("config.json", "[]", "not of a depthup checkpoint"),
    "nothing in it": ("config.json", '{"model_type": "depthup"}', "damaged, or of another version"),
    "an unknown base": ("config.json", {"base_config": {"model_type": "zzz"}}, "damaged, or of another version"),
    "an unknown key": ("config.json", {"encoder": {"nme": 1}}, "damaged, or of another version .*nme"),
    "other layers": ("config.json", {"upscale": {"layr": 1}}, "another version of depthup"),
    "an unknown layer": ("config.json", {"upscale": {"layer": "xyz"}}, "upscale.layer is 'xyz'"),
    "an unknown method": ("config.json", {"method": "zzz"}, "method is 'zzz'"),
    "a base that is no name": ("config.json", {"base": 5}, "base is 5"),
    "a prompt that is no text": ("config.json", {"prompt": 3}, "prompt is 3"),
    "no encoder": ("config.json", {"encoder": None}, "encoder.name is None"),
    "a method without its layers": ("config.json", {"upscale": None}, "upscale is missing"),
    "what cannot be set": ("config.json", {"vocab_size": "a"}, "damaged, or of another version"),
    "no tokenizer": ("tokenizer_config.json", None, "processor's files are missing"),
    "half a processor": ("processor_config.json", "{", "processor's files are missing or damaged"),
}


def test_a_foreign_or_damaged_folder_is_refused_in_one_line(tmp_path):
    _, checkpoint = saved(tmp_path)
    for name, (file, content, line) in BROKEN.items():
        broken = tmp_path / name
        shutil.copytree(checkpoint, broken)
        if isinstance(content, dict):
            content = json.dumps(json.loads((broken / file).read_text()) | content)
        if content is None:
            for path in [broken / file, *broken.glob("tokenizer.*")]:
                path.unlink()
        else:
            (broken / file).write_text(content)
        with pytest.raises(depthup.UserError, match=line) as error:
            depthup.load(broken)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600, name


def test_a_base_without_adaptation_is_no_checkpoint(tmp_path):
    with pytest.raises(depthup.UserError, match="not of a depthup checkpoint"):
        depthup.load(save_base(tmp_path / "base"))


def test_bfloat16_and_float32_bases_have_one_fingerprint():
    base = tiny_base().bfloat16()
    assert fingerprint(base) == fingerprint(base.float())
