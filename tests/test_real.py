"""SmolLM2-135M's real weights, Whisper-tiny's and real recordings: identity, before and after training.

Every layer and scope once; all pairs of them are tested on tiny models (test_identity.py).
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny import LAYERS, merged, shake
from transformers import AutoModelForCausalLM, AutoTokenizer

from depthup.config import DataConfig, EncoderConfig, Recipe, UpscaleConfig
from depthup.data import load_cuts, read_audio
from depthup.errors import UserError
from depthup.model.base import embedding_std, load_base_config
from depthup.model.configuration import SpeechLMConfig
from depthup.model.encoders import encoder_kind
from depthup.model.packaged import fetch_base
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM

pytestmark = pytest.mark.slow
PAIRS = [("e_branchformer", "speech"), ("transformer", "from_speech"), ("e_branchformer", "all")]
TEXT = "The lighthouse stood at the end of a long causeway, and for most of the year nobody lived there."


@pytest.fixture(scope="module")
def base_dir() -> Path:
    try:
        return fetch_base()
    except UserError as error:
        pytest.skip(f"needs SmolLM2-135M-Instruct: {error}")


@pytest.fixture(scope="module")
def base(base_dir):
    return AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32).eval()


def make(base_dir: Path, base, shared: Path | None = None, **upscale) -> tuple[SpeechLM, SpeechProcessor]:
    """A SpeechLM on a copy of the base, with Whisper's encoder where there is one."""
    name = str(shared / "models/whisper-tiny.en") if shared else "fbank"
    upscale = {"num_layers": 2, **upscale}
    recipe = Recipe(base=str(base_dir), upscale=UpscaleConfig(**upscale), encoder=EncoderConfig(name=name))
    encoder = encoder_kind(recipe.encoder).build(load_weights=True)
    config = SpeechLMConfig.from_recipe(
        recipe,
        load_base_config(str(base_dir)),
        frame_stack=round(encoder.kind.frame_rate / 12.5),
        base_embedding_std=embedding_std(base),
        encoder_config=encoder.model.config.to_dict() if shared else None,
    )
    return SpeechLM(config, copy.deepcopy(base), encoder).eval(), SpeechProcessor.build(config)


def recordings(shared: Path, count: int):
    cuts = list(load_cuts(str(shared / "speech/fsdd/test.jsonl"), DataConfig()))[:: 200 // count][:count]
    return [read_audio(cut, 16000) for cut in cuts], [cut.supervisions[0].text for cut in cuts]


@pytest.mark.parametrize(("layer", "scope"), PAIRS)
def test_insertion_changes_no_bit(base_dir, base, shared, layer, scope):
    model, processor = make(base_dir, base, shared, layer=layer, scope=scope)
    audio, _ = recordings(shared, 2)
    batch = processor([f"{TEXT}<|audio|> What?", "<|audio|>"], audio)
    ids = processor(TEXT)["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
        embeds, speech_ids = merged(model, batch)
        mask = batch["attention_mask"]
        heard = model(inputs_embeds=embeds, speech_ids=speech_ids, attention_mask=mask).logits
        assert torch.equal(heard, base(inputs_embeds=embeds, attention_mask=mask).logits)


@pytest.mark.parametrize(("layer", "scope"), [pair for pair in PAIRS if pair[1] != "all"])
def test_text_is_bit_identical_after_training_on_recordings(base_dir, base, shared, layer, scope):
    model, processor = make(base_dir, base, shared, layer=layer, scope=scope)
    audio, texts = recordings(shared, 4)
    batch = {k: v for k, v in processor.training_batch(audio, texts).items() if not k.startswith("ctc")}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(2):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] != losses[1]
    prompt = AutoTokenizer.from_pretrained(base_dir)(TEXT, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**prompt).logits, base(**prompt).logits)
        options = {"max_new_tokens": 12, "do_sample": False}
        assert torch.equal(model.generate(**prompt, **options), base.generate(**prompt, **options))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_recording_is_heard_alike_alone_and_in_a_batch(base_dir, base, shared, layer):
    model, processor = make(base_dir, base, shared, layer=layer, scope="speech")
    shake(model, 0.01)
    audio, _ = recordings(shared, 3)
    with torch.no_grad():
        alone = model(**processor.prompt_batch(audio[:1])).logits[0]
        together = processor.prompt_batch(audio)
        batch = model(**together).logits[0][together["attention_mask"][0].bool()]
    assert (alone - batch).abs().max() < 1e-3 * alone.abs().max()
