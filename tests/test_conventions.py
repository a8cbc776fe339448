"""What tools of the Hugging Face world do with a checkpoint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_run import save_recipe
from tiny import shake
from transformers import (
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    AutoConfig,
    AutomaticSpeechRecognitionPipeline,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    pipeline,
    pipelines,
)

import depthup
from depthup import api
from depthup.recipe import load_recipe

RATE = 16000
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("conventions")
    model = depthup.SpeechLM.from_recipe(load_recipe(save_recipe(directory)))
    shake(model.eval())
    model.save_pretrained(directory / "checkpoint")
    processor = depthup.SpeechProcessor.build(model.config)
    processor.tokenizer.chat_template = CHATML
    depthup.SpeechProcessor.of(model.config, processor.feature_extractor, processor.tokenizer).save_pretrained(
        directory / "checkpoint"
    )
    return directory / "checkpoint"


@pytest.fixture(scope="module")
def model(checkpoint) -> depthup.SpeechLM:
    return depthup.load(checkpoint)[0]


@pytest.fixture(scope="module")
def processor(checkpoint) -> depthup.SpeechProcessor:
    return depthup.load(checkpoint)[1]


def clip(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(int(RATE * seconds)).astype(np.float32) * 0.1


def python(code: str, *arguments: str) -> str:
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_importing_depthup_alone_tells_the_auto_classes(checkpoint):
    code = """
import sys, depthup
assert "transformers" not in sys.modules
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
assert "depthup.model" not in sys.modules
config = AutoConfig.from_pretrained(sys.argv[1])
print(type(AutoProcessor.from_pretrained(sys.argv[1])) is depthup.SpeechProcessor)
print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1], config=config)) is depthup.SpeechLM)
"""
    assert python(code, str(checkpoint)).split() == ["True", "True"]


def test_without_an_import_the_checkpoint_brings_its_own(checkpoint):
    code = """
import sys
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline
try:
    AutoModelForMultimodalLM.from_pretrained(sys.argv[1], trust_remote_code=False)
except ValueError as error:
    print("trust_remote_code=True" in str(error))
assert "depthup" not in sys.modules
asr = pipeline("automatic-speech-recognition", model=sys.argv[1], trust_remote_code=True)
print(type(asr.model).__name__, type(asr).__name__)
print(type(AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)).__module__)
"""
    expected = ["True", "SpeechLM", "SpeechRecognitionPipeline", "depthup.model.processor"]
    assert python(code, str(checkpoint)).split() == expected


def test_the_file_in_a_checkpoint_says_what_to_install(checkpoint):
    code = "import sys; sys.modules['depthup'] = None; exec(open(sys.argv[1]).read())"
    file = str(checkpoint / "modeling_depthup.py")
    run = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1].endswith("needs the Python package depthup: pip install depthup")


@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq])
def test_auto_classes_load_a_checkpoint(auto_class, checkpoint, model, processor):
    loaded, theirs = auto_class.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    inputs = theirs("hear <|audio|> then", clip(0.5))
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_what_is_saved_again_names_the_same_code(checkpoint, tmp_path):
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True)
    loaded.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True).save_pretrained(tmp_path)
    maps = [json.loads((d / "config.json").read_text())["auto_map"] for d in (checkpoint, tmp_path)]
    assert maps[0] == maps[1] and set(maps[0].values()) == {
        "modeling_depthup.SpeechLM",
        "modeling_depthup.SpeechLMConfig",
        "modeling_depthup.SpeechProcessor",
    }
    assert [path.name for path in tmp_path.glob("*.py")] == ["modeling_depthup.py"]


def test_a_transcription_request_is_the_recipe_s_prompt(processor, tmp_path):
    soundfile.write(tmp_path / "a.wav", clip(0.5), RATE, subtype="FLOAT")
    request = processor.apply_transcription_request(str(tmp_path / "a.wav"))
    for given in ([clip(0.5)], {"array": clip(0.5), "sampling_rate": RATE}, torch.from_numpy(clip(0.5))):
        for key, value in processor.apply_transcription_request(given).items():
            assert torch.equal(value, request[key])
    assert processor.apply_transcription_request(clip(0.5), tokenize=False) == [processor.prompt]
    assert {k: v.tolist() for k, v in request.items()} == {
        k: v.tolist() for k, v in processor.prompt_batch([clip(0.5)]).items()
    }


def test_a_prompt_stands_before_the_recipe_s_or_in_its_place(processor):
    texts = processor.apply_transcription_request(
        [clip(0.5)] * 3, prompt=["Names: Ada.", None, "Say <|audio|> twice:"], tokenize=False
    )
    assert texts == [f"Names: Ada.\n{processor.prompt}", processor.prompt, "Say <|audio|> twice:"]
    with pytest.raises(ValueError, match="2 prompts for 1 recordings"):
        processor.apply_transcription_request(clip(0.5), prompt=["a", "b"])


def test_a_language_that_nothing_can_be_told_is_refused(processor):
    with pytest.raises(depthup.UserError, match="language en: the checkpoint hears what it was trained on"):
        processor.apply_transcription_request(clip(0.5), language="en")
    with pytest.raises(ValueError, match="2 languages for 1 recordings"):
        processor(audio=clip(0.5), language=["en", None])


def test_another_sampling_rate_and_unknown_arguments_are_refused(processor):
    with pytest.raises(ValueError, match="sampling_rate=8000: the recordings must be at 16000 Hz"):
        processor(audio=clip(0.5), sampling_rate=8000)
    with pytest.raises(ValueError, match="sampling_rate=8000"):
        processor.apply_transcription_request(clip(0.5), sampling_rate=8000)
    with pytest.raises(TypeError, match="sampling_rat"):
        processor(audio=clip(0.5), sampling_rat=16000)
    with pytest.raises(ValueError, match="takes text and audio"):
        processor("text", images=[0])


def test_chat_templates_take_recordings(processor, tmp_path):
    soundfile.write(tmp_path / "a.wav", clip(0.5), RATE, subtype="FLOAT")
    parts = [{"audio": clip(0.5)}, {"path": str(tmp_path / "a.wav")}, {"url": (tmp_path / "a.wav").as_uri()}]
    chats = [
        [{"role": "user", "content": [{"type": "audio", **part}, {"type": "text", "text": "What is said?"}]}]
        for part in parts
    ]
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    inputs = processor.apply_chat_template(chats, **options)
    text = "<|im_start|>user\n<|audio|>What is said?<|im_end|>\n<|im_start|>assistant\n"
    assert processor.apply_chat_template(chats[0], add_generation_prompt=True) == text
    for key, value in processor([text] * 3, [clip(0.5)] * 3).items():
        assert torch.equal(inputs[key], value)
    with pytest.raises(ValueError, match="0 audio pieces for 1"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}], **options)


def test_chat_templates_leave_text_as_it_was(processor):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    assert processor.apply_chat_template(chat) == expected
    assert processor.tokenizer.apply_chat_template(chat, tokenize=False) == expected
    ids = processor.apply_chat_template(chat, tokenize=True)
    assert processor.decode(ids[0]) == expected


def test_the_leaderboard_s_loop(checkpoint):
    """As its runner loads, prepares, generates and decodes (huggingface/open_asr_leaderboard, transformers)."""
    config = AutoConfig.from_pretrained(checkpoint)
    assert type(config) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
    model = AutoModelForSpeechSeq2Seq.from_pretrained(checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa")
    processor = AutoProcessor.from_pretrained(checkpoint)
    assert model.can_generate() and model.dtype == torch.bfloat16
    batch = [{"array": clip(s, seed=i), "sampling_rate": RATE} for i, s in enumerate((0.5, 0.9))]
    inputs = processor.apply_transcription_request([audio["array"] for audio in batch], sampling_rate=RATE)
    inputs = inputs.to(model.device, model.dtype)
    ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    texts = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)


def test_the_pipeline_transcribes_what_people_pass(checkpoint, model, processor, tmp_path):
    soundfile.write(tmp_path / "a.wav", clip(0.5), RATE, subtype="FLOAT")
    asr = pipeline("automatic-speech-recognition", model=str(checkpoint), device="cpu", batch_size=4, vad="none")
    expected = api.transcribe(model, processor, clip(0.5), max_new_tokens=8, vad="none")
    assert len(expected.text) > 0
    slow = np.repeat(clip(0.5), 2)
    given = [
        str(tmp_path / "a.wav"),
        (tmp_path / "a.wav").read_bytes(),
        clip(0.5),
        {"raw": clip(0.5), "sampling_rate": RATE},
        {"path": None, "array": clip(0.5), "sampling_rate": RATE},
    ]
    told = asr(given, generate_kwargs={"max_new_tokens": 8})
    assert told == [{"text": expected.text}] * len(given)
    assert list(asr((one for one in given[:2]), max_new_tokens=8)) == told[:2]
    assert asr(given[0], max_new_tokens=8, return_timestamps=True)["chunks"] == [
        {"text": expected.text, "timestamp": (0.0, 0.5)}
    ]
    assert asr({"array": slow, "sampling_rate": 2 * RATE}, max_new_tokens=8)["text"]
    with pytest.raises(depthup.UserError, match="CTC head"):
        asr(given[0], return_timestamps="word")
    with pytest.raises(TypeError, match="temperature"):
        asr(given[0], generate_kwargs={"temperature": 0.5})


def test_a_call_takes_what_people_pass(model, processor, tmp_path):
    soundfile.write(tmp_path / "a.wav", clip(0.5), RATE, subtype="FLOAT")
    missing = str(tmp_path / "none.wav")
    said = partial(api.transcribe, model, processor, max_new_tokens=8, vad="none")  # else noise is no speech
    text = said(clip(0.5)).text
    one = [
        str(tmp_path / "a.wav"),
        tmp_path / "a.wav",
        (tmp_path / "a.wav").as_uri(),
        torch.from_numpy(clip(0.5)),
        {"array": clip(0.5).astype(np.float64), "sampling_rate": RATE},
        {"bytes": (tmp_path / "a.wav").read_bytes(), "path": "a.wav"},
    ]
    assert [said(given).text for given in one] == [text] * len(one) and len(text) > 0
    assert [transcript.text for transcript in said(one)] == [text] * len(one)
    assert [(Path(t.path).name, t.text) for t in said(str(tmp_path))] == [("a.wav", text)]
    assert said((clip(0.5) * 32767).astype(np.int16)).text == text
    told = said([str(tmp_path / "a.wav"), missing])
    assert told[0].text == text and "none.wav" in told[1].error
    for wrong, line in ((missing, "none.wav"), (np.zeros((2, 9), np.float32), "shape"), ({"array": [0.0]}, "rate")):
        with pytest.raises(depthup.UserError, match=line):
            said(wrong)


def test_the_page_about_it_runs(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(checkpoint)
    soundfile.write(tmp_path / "speech.wav", clip(0.3), RATE)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "hugging-face.md").read_text()
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(block, names)
    assert names["inputs"]["input_features"].shape[0] == 1


def test_other_models_keep_their_own_pipeline():
    impl = pipelines.SUPPORTED_TASKS["automatic-speech-recognition"]["impl"]
    assert impl.__name__ == "ForAnyModel" and impl._load_tokenizer and not impl._load_processor
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    other = Wav2Vec2ForCTC(Wav2Vec2Config(**small, num_conv_pos_embedding_groups=2, num_conv_pos_embeddings=2))
    made = impl(other, feature_extractor=Wav2Vec2FeatureExtractor(), task="automatic-speech-recognition", device="cpu")
    assert type(made) is AutomaticSpeechRecognitionPipeline and made.type == "ctc"
