"""What every base must do once it hears; `benchmarks/bases.py` runs it over all families for docs/bases.md."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tiny import VOCAB, clip, inputs_of, merged, shake, text_ids, tiny_speech_lm
from tiny_families import FAMILIES, make_base
from transformers import PreTrainedModel

from depthup.errors import UserError
from depthup.model.base import text_config
from depthup.model.speech_lm import SpeechLM
from depthup.transcribe.decoding import can_draft, decode

SHORT = [text_ids(2, 1), clip(26, 2), text_ids(3, 3)]
LONG = [clip(60, 6), text_ids(9, 7)]
CLOSE = {"rtol": 1e-3, "atol": 2e-3}


@dataclass
class Case:
    """A base, and the same base as a speech LLM whose trained weights have moved."""

    base: PreTrainedModel
    model: SpeechLM


def case_of(family: str, **options: Any) -> Case:
    """Raises UserError where the family is refused."""
    base = make_base(text_config(family, FAMILIES[family]()))
    model = tiny_speech_lm(base, ctc=True, **options)
    return Case(base, shake(model, 0.05))


def text_is_the_base_s(case: Case) -> None:
    """Text alone gives the base's logits bit for bit, also step by step."""
    if not case.model.keeps_text:
        return
    ids = torch.tensor([text_ids(11), text_ids(11, 1)])
    assert torch.equal(case.model(input_ids=ids).logits, case.base(input_ids=ids).logits), "text changed"
    options = {"max_new_tokens": 5, "do_sample": False}
    theirs, ours = case.base.generate(ids, **options), case.model.generate(ids, **options)
    assert torch.equal(theirs, ours), "generated text changed"


def a_clip_is_heard_alike_alone_and_in_a_batch(case: Case) -> None:
    alone = case.model(**inputs_of([SHORT])).logits[0]
    batch = inputs_of([SHORT, LONG], "left")
    places = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    together = case.model(**batch, position_ids=places).logits[0][batch["attention_mask"][0].bool()]
    torch.testing.assert_close(together, alone, **CLOSE)


def step_by_step_is_as_at_once(case: Case) -> None:
    whole = inputs_of([[*SHORT, text_ids(4, 8)]])
    embeds, speech_ids = merged(case.model, whole)
    at_once = case.model(inputs_embeds=embeds, speech_ids=speech_ids).logits
    cache, split = case.model.new_cache(), embeds.shape[1] - 4
    parts = [case.model(inputs_embeds=embeds[:, :split], speech_ids=speech_ids[:, :split], past_key_values=cache)]
    for i in range(split, embeds.shape[1]):
        parts.append(case.model(inputs_embeds=embeds[:, i : i + 1], past_key_values=cache))
    torch.testing.assert_close(torch.cat([part.logits for part in parts], 1), at_once, **CLOSE)


def decoding_is_as_generate(case: Case) -> None:
    inputs = inputs_of([SHORT, LONG], "left")
    generated = case.model.generate(**copy.copy(inputs), max_new_tokens=6, do_sample=False)[:, -6:].tolist()

    def guess(_: object) -> list[list[int]]:
        """Half right, so that tokens are accepted and rejected."""
        return [[*row[1:3], 5, 6] for row in generated]

    for guesses in [None, guess] if can_draft(case.model) else [None]:
        found = decode(case.model, inputs, [6, 6], guesses, word_starts=range(VOCAB)).tokens
        assert found == generated, "decoding differs from generate"


def what_should_learn_gets_gradients(case: Case) -> None:
    model = copy.deepcopy(case.model).train()
    inputs = inputs_of([SHORT, LONG])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == VOCAB, -100)
    model(**inputs, labels=labels).loss.backward()
    learns = [p for p in model.llm.parameters() if p.requires_grad]
    assert learns and all(p.grad is None or p.grad.isfinite().all() for p in learns)
    assert any(p.grad is not None and bool(p.grad.any()) for p in learns), "nothing gets a gradient"
    assert all(p.grad is None for p in model.llm.parameters() if not p.requires_grad)


def kernels_agree(case: Case) -> None:
    """Eager and SDPA attention, chosen later, reach base and inserted layers and give the same."""
    before, found = case.model.llm.config._attn_implementation, []
    try:
        for kernel in ("eager", "sdpa"):
            case.model.set_attn_implementation(kernel)
            found.append(case.model(**inputs_of([SHORT])).logits)
    except UserError as error:
        assert "does not support" in str(error), error
    finally:
        case.model.set_attn_implementation(before)
    if len(found) == 2:
        torch.testing.assert_close(found[0], found[1], **CLOSE)


CHECKS: tuple[Callable[[Case], None], ...] = (
    text_is_the_base_s,
    a_clip_is_heard_alike_alone_and_in_a_batch,
    step_by_step_is_as_at_once,
    decoding_is_as_generate,
    kernels_agree,
    what_should_learn_gets_gradients,
)


def faults(family: str, **options: Any) -> str | None:
    """What is wrong with a family: None where all is well. Raises UserError where it is refused."""
    case = case_of(family, **options)
    for check in CHECKS:
        try:
            with torch.set_grad_enabled(check is what_should_learn_gets_gradients):
                check(case)
        except UserError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines()
            return f"{check.__name__}: {type(error).__name__} {' '.join(lines[:1] + lines[2:4])}"
    return None
