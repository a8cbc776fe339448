"""Every recipe that is shipped: its plan is what its comments say, and a shrunken copy of it trains."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_run import RECIPES as FOLDER
from small_run import save_base, save_recordings, save_whisper, shipped_recipes
from tiny_tokens import save_tokenizer
from transformers import AutoConfig, LlamaConfig, WhisperConfig

from depthup.config import Recipe
from depthup.errors import UserError
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.model.upscale import placement_indices
from depthup.planning.assumptions import Assumptions
from depthup.planning.hardware import GPUS
from depthup.planning.planner import plan_training
from depthup.planning.report import print_training_plan
from depthup.planning.stand_in import build
from depthup.recipe import load_recipe
from depthup.report.terminal import print_summary
from depthup.speech_tokens.config import SpeechTokenizerConfig
from depthup.train.trainer import SpeechTrainer

SHIPPED = [str(path.relative_to(FOLDER)) for path in shipped_recipes()]
PLACEMENTS = ("interleaved", "bottom", "middle", "top", "sandwich")
PAPER = [name for name in SHIPPED if name.startswith("paper/")]
RECIPES = [name for name in SHIPPED if name not in PAPER]
TRAINED = {  # millions, as the paper's table has them; it calls `full` of the smaller base by the base's name
    "paper/smollm2-360m/lora.yaml": 200,
    "paper/smollm2-360m/transformer-interleaved.yaml": 200,
    "paper/smollm2-360m/e_branchformer.yaml": 220,
    "paper/smollm2-1.7b/full.yaml": 1870,
    "paper/smollm2-1.7b/lora.yaml": 660,
    "paper/smollm2-1.7b/transformer-interleaved.yaml": 660,
    "paper/smollm2-1.7b/e_branchformer.yaml": 750,
}
TABLE_ROWS = 49152 + 5000 + 8 * 1024
"""Of the paper's embeddings, and again of its LM head: text, semantic and acoustic tokens. Whole tables are counted."""
PLANNED = [*TRAINED, "paper/smollm2-360m/full.yaml"]
ALIKE = [f"paper/smollm2-360m/transformer-{placement}.yaml" for placement in PLACEMENTS[1:4]]
"""Need not all be trained."""


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> dict[str, str]:
    """Configurations, at their true sizes, of what other recipes find in a package or in a folder."""
    directory = tmp_path_factory.mktemp("configs")
    size = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    LlamaConfig(vocab_size=49152, num_key_value_heads=3, tie_word_embeddings=True, **size).save_pretrained(directory)
    base, tiny = str(directory), str(directory / "whisper-tiny.en")
    WhisperConfig(d_model=384, encoder_attention_heads=6, encoder_ffn_dim=1536).save_pretrained(tiny)
    tokenizer = str(directory / "tokenizer")
    SpeechTokenizerConfig(encoder="tiny", num_clusters=500, codebook_sizes=[500]).save_pretrained(tokenizer)
    return {
        Recipe().base: base,
        "pypi:SmolLM2-135M-Instruct": base,
        "../shared/models/whisper-tiny.en": tiny,
        "runs/fsdd-tokenizer": tokenizer,
    }


@pytest.fixture(scope="module")
def shallow(tmp_path_factory) -> str:
    """Whisper-large-v3's encoder with 2 of its 32 layers: planning the others takes time and tells nothing new."""
    config = AutoConfig.from_pretrained(FOLDER / "whisper-large-v3.json")
    config.encoder_layers = config.decoder_layers = 2
    config.save_pretrained(directory := tmp_path_factory.mktemp("shallow"))
    return str(directory)


def load(name: str, configs: dict[str, str]) -> Recipe:
    recipe = load_recipe(FOLDER / name)
    recipe.configs = {**configs, **recipe.configs}
    return recipe


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_built_without_weights(name, configs):
    summary = build(load(name, configs)).summary()
    print_summary(summary, Console(file=(out := io.StringIO()), width=120))
    assert "of full fine-tuning" in out.getvalue()


@pytest.mark.parametrize("name", TRAINED)
def test_the_papers_recipes_train_as_many_weights_as_the_paper(name):
    model = build(recipe := load_recipe(FOLDER / name))
    assert recipe.connector.name == "tokens"
    tables = 2 * TABLE_ROWS * model.llm.config.hidden_size
    tied = model.get_input_embeddings().weight.numel() if recipe.method == "full" else 0
    trained = sum(p.numel() for p in model.llm.parameters() if p.requires_grad) - tied
    assert trained + tables == pytest.approx(1e6 * TRAINED[name], abs=5e6)


@pytest.mark.parametrize("size, layers", [("360m", 8), ("1.7b", 6)])
def test_the_papers_recipes_are_the_papers_experiments(size, layers):
    found = {Path(name).stem: load_recipe(FOLDER / name) for name in PAPER if f"-{size}/" in name}
    transformers = {f"transformer-{placement}" for placement in PLACEMENTS}
    assert set(found) == {"full", "lora", "e_branchformer", "e_branchformer-random_merge", *transformers}
    depth = AutoConfig.from_pretrained(FOLDER / f"smollm2-{size}/config.json").num_hidden_layers
    places = {name: placement_indices(found[name].upscale, depth) for name in transformers}
    assert len({tuple(p) for p in places.values()}) == 5 and {len(p) for p in places.values()} == {layers}
    for name, recipe in found.items():
        kind, _, placement = name.partition("-")
        assert recipe.method == (kind if kind in ("full", "lora") else "depth_upscale")
        assert recipe.upscale.scope == "all" and recipe.output_dir == f"runs/paper/smollm2-{size}-{name}"
        assert placement in ("", "random_merge", recipe.upscale.placement)
        assert (recipe.upscale.e_branchformer.init == "random_merge") == (placement == "random_merge")
        train = recipe.train
        assert (train.learning_rate, train.warmup_steps, train.lr_schedule) == (1e-4, 25000, "linear")
        assert train.learning_rate * train.min_lr_rate == pytest.approx(2e-5) and recipe.data.batch_positions == 8192


def test_one_line_decides_how_speech_enters_the_papers_recipes(shallow, tmp_path):
    shutil.copytree(FOLDER, folder := tmp_path / "recipes")
    shared = folder / "paper" / "shared.yaml"
    shared.write_text(shared.read_text().replace("extends: tokens.yaml", "extends: continuous.yaml"))
    recipe = load_recipe(folder / "paper/smollm2-360m/e_branchformer.yaml")
    assert (recipe.connector.name, recipe.encoder.name) == ("frames", "openai/whisper-large-v3")
    recipe.configs[recipe.encoder.name] = shallow
    plan = plan_training(recipe, GPUS["h100"], 8, assumed=Assumptions(clip_seconds=15))
    assert plan.fits and plan.hours == pytest.approx(48000, rel=0.02)


@pytest.mark.parametrize("name", [*PLANNED, "librispeech.yaml"])
def test_its_training_plan_is_what_its_comments_say(name):
    recipe = load_recipe(FOLDER / name)
    assert set(recipe.configs) >= {recipe.base, recipe.encoder.name}
    device, gpus, hours = (GPUS["h100"], 8, 48000) if name in PLANNED else (GPUS["rtx4090"], 1, 3 * 960)
    assumed = Assumptions(clip_seconds=15 if name in PLANNED else 12)
    plan = plan_training(recipe, device, gpus, price=2.5, assumed=assumed)
    print_training_plan(plan, Console(file=(out := io.StringIO()), width=120))
    assert "cost at 2.5" in out.getvalue()
    assert plan.fits and plan.hours == pytest.approx(hours, rel=0.02)


def shrunken(recipe: Recipe, directory: Path) -> Recipe:
    """The same recipe over a base as deep but 32 wide, a random encoder, a few recordings, and one step."""
    layers = AutoConfig.from_pretrained(recipe.configs[recipe.base]).num_hidden_layers
    recipe.base = str(save_base(directory / "base", layers=layers))
    recipe.data.train, recipe.data.validation = str(save_recordings(directory / "audio")), None
    if recipe.connector.name == "tokens":
        recipe.encoder.name = str(directory / "tokenizer")
        save_tokenizer(directory / "tokenizer", Path(str(recipe.data.train)))
    elif recipe.encoder.name != "fbank":
        mels = AutoConfig.from_pretrained(recipe.configs[recipe.encoder.name]).num_mel_bins
        recipe.encoder.name = str(save_whisper(directory / "encoder", mels))
    recipe.encoder.width, recipe.lora.rank = 16, 2
    for name in ("feed_forward_width", "cgmlp_width"):
        if getattr(recipe.upscale.e_branchformer, name):
            setattr(recipe.upscale.e_branchformer, name, 32)
    recipe.output_dir = str(directory / "run")
    recipe.data.batch_seconds, recipe.data.min_duration, recipe.data.num_workers = 3, 0.1, 0
    recipe.train.max_steps, recipe.train.warmup_steps = 1, 0
    recipe.train.front_end_steps = min(recipe.train.front_end_steps, 1)
    recipe.train.save_steps, recipe.train.report_to = 1000, []
    return recipe


@pytest.mark.parametrize("name", [*RECIPES, *(name for name in PAPER if "360m" in name and name not in ALIKE)])
def test_a_shrunken_copy_trains_and_what_is_frozen_stays(name, configs, tmp_path):
    recipe = shrunken(load(name, configs), tmp_path)
    if recipe.base_quantization == "nf4":
        pytest.importorskip("bitsandbytes", reason="needs the extra `quantized`")
    model = SpeechLM.from_recipe(recipe)
    before = {key: parameter.clone() for key, parameter in model.named_parameters()}
    trainer = SpeechTrainer(model, SpeechProcessor.build(model.config), recipe)
    trainer.train()
    assert trainer.state.global_step == 1 + recipe.train.front_end_steps
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    moved = {key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])}
    assert moved <= trained
    assert any(key.startswith("llm.") for key in moved) and any(key.startswith("connector.") for key in moved)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_recipe_extends_another_key_by_key(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "shared.yaml").write_text("configs: {a: a.json}\ntrain: {max_steps: 7, warmup_steps: 3}\nseed: 1\n")
    child = tmp_path / "below" / "child.yaml"
    child.write_text("extends: ../shared.yaml\nconfigs: {b: b.json}\ntrain: {max_steps: 8}\n")
    recipe = load_recipe(child, ["--train.warmup_steps=4"])
    assert (recipe.train.max_steps, recipe.train.warmup_steps, recipe.seed) == (8, 4, 1)
    assert recipe.configs == {"a": str(tmp_path / "a.json"), "b": str(tmp_path / "below" / "b.json")}


@pytest.mark.parametrize("shared, words", [("extends: child.yaml", "itself"), ("sed: 1", "shared.yaml.*seed")])
def test_a_mistake_in_what_is_extended_is_named(shared, words, tmp_path):
    (tmp_path / "child.yaml").write_text("extends: shared.yaml\n")
    (tmp_path / "shared.yaml").write_text(shared)
    with pytest.raises(UserError, match=words):
        load_recipe(tmp_path / "child.yaml")


def test_a_configuration_belongs_to_a_name(configs, tmp_path):
    """Another base on the command line is not planned with the recipe's own configuration."""
    overrides = [f"--base={tmp_path / 'none'}", f"--output_dir={tmp_path}"]
    with pytest.raises(UserError, match="none"):
        plan_training(load_recipe(FOLDER / "librispeech.yaml", overrides), GPUS["h100"])
    (tmp_path / "broken.json").write_text(json.dumps({"model_type": "none of all"}))
    recipe = load_recipe(FOLDER / "librispeech.yaml")
    recipe.configs[recipe.encoder.name] = str(tmp_path / "broken.json")
    with pytest.raises(UserError, match="encoder"):
        plan_training(recipe, GPUS["h100"])
