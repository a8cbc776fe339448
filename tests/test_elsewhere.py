"""On a device that is not the CPU everything stays there, and comes out as on the CPU."""

from __future__ import annotations

import pytest
import torch
from elsewhere import elsewhere
from tiny import FAMILIES, LAYERS, SCOPES, VOCAB, clip, inputs_of, shake, text_ids, tiny_base, tiny_speech_lm

from depthup.model.connectors import Speech
from depthup.transcribe.decoding import can_draft, decode

UPSCALED = [("depth_upscale", {"layer": layer, "scope": scope}) for layer in LAYERS for scope in SCOPES]
NARROW = ("depth_upscale", {"layer": "e_branchformer", "scope": "from_speech", "e_branchformer": {"width": 16}})
METHODS = [("full", {}), ("lora", {}), *UPSCALED, NARROW]


def tuned(family: str, method: str, upscale: dict):
    torch.manual_seed(0)
    model = shake(tiny_speech_lm(tiny_base(family), method=method, ctc=True, **upscale))
    model.generation_config.eos_token_id = [5]
    return model


def moved(inputs: dict, device: str) -> dict:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def test_the_device_computes_and_refuses_tensors_of_the_cpu():
    with elsewhere() as there:
        x = torch.arange(4.0, device=there)
        assert x.cpu().numpy().sum() == 6.0
        assert x.device.type == there and (x * 2).tolist() == [0.0, 2.0, 4.0, 6.0] and float(x.sum()) == 6.0
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.ones(4)
        with pytest.raises(TypeError, match="cpu"):
            x.numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("method", "upscale"), METHODS)
def test_training_stays_on_its_device(family: str, method: str, upscale: dict):
    model = tuned(family, method, upscale).train()
    inputs = inputs_of([[text_ids(3, 1), clip(30, 2), text_ids(4, 3)], [text_ids(5, 4), clip(44, 5)], [text_ids(6, 7)]])
    no_label = (inputs["attention_mask"] == 0) | (inputs["input_ids"] == VOCAB)
    inputs["labels"] = inputs["input_ids"].masked_fill(no_label, -100)
    ctc = {"ctc_labels": torch.tensor([[7, 8, 9], [7, 8, 0]]), "ctc_label_lengths": torch.tensor([3, 2])}
    expected = model(**inputs, **ctc, ctc_weight=0.3).loss
    with elsewhere() as there:
        model = model.to(there)
        loss = model(**moved({**inputs, **ctc}, there), ctc_weight=0.3).loss
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        assert gradients and all(grad is not None and grad.device.type == there for grad in gradients)


@pytest.mark.parametrize("drafts", [True, False])
@pytest.mark.parametrize(("method", "upscale"), METHODS)
def test_decoding_stays_on_its_device(method: str, upscale: dict, drafts: bool):
    model = tuned("llama", method, upscale)
    inputs = inputs_of([[text_ids(2, i), clip(20 + 9 * i, i), text_ids(3, i)] for i in range(4)], "left")

    def guess(speech: Speech) -> list[list[int]]:
        return [[byte % VOCAB for byte in text.encode()] for text in speech.made_out()]

    drafted = guess if drafts and can_draft(model) else None
    expected = decode(model, inputs, [8] * 4, drafted, range(0, VOCAB, 3)).tokens
    with elsewhere() as there:
        # As it stands beneath its decorator, which was applied before.
        found = decode.__wrapped__(model.to(there), moved(inputs, there), [8] * 4, drafted, range(0, VOCAB, 3)).tokens
    assert found == expected and any(expected)
