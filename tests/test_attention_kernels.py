"""Attention kernels: each gives the same, in every scope; refused in one line; no token waits for a GPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_run import save_recipe
from tiny import LAYERS, SCOPES, clip, inputs_of, shake, text_ids, tiny_base, tiny_speech_lm
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

import depthup
from depthup import api
from depthup.cli import main
from depthup.errors import UserError
from depthup.model import attention_kernels
from depthup.model.attention_kernels import kernel_options
from depthup.recipe import load_recipe

CONVENTIONS = "two_dimensional_masks"
"""Flash attention's, by a name that transformers does not look for in packages."""
ROWS = [
    [text_ids(3), clip(40), text_ids(4)],
    [text_ids(6, 1)],
    [text_ids(2, 2), clip(24, 1), text_ids(2, 3), clip(9, 2)],
]


def like_flash(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
) -> Any:
    """What flash attention computes, by its conventions: a mask [B, keys] or none, causal at the lower right."""
    queries, keys = query.shape[2], key.shape[2]
    allowed = torch.ones(queries, keys, dtype=torch.bool)
    if options.get("is_causal", module.is_causal):
        allowed = allowed.tril(keys - queries)
    allowed = allowed.expand(len(query), 1, -1, -1)
    if mask is not None:
        assert mask.ndim == 2, "flash attention takes no mask of queries by keys"
        allowed = allowed & mask[:, None, None, -keys:].bool()
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    found = F.scaled_dot_product_attention(query, key, value, allowed, scale=options.get("scaling"))
    return found.nan_to_num().transpose(1, 2), None


@pytest.fixture
def flash():
    AttentionInterface.register(CONVENTIONS, like_flash)
    AttentionMaskInterface.register(CONVENTIONS, flash_attention_mask)
    yield CONVENTIONS
    for interface in (AttentionInterface, AttentionMaskInterface):
        del interface._global_mapping[CONVENTIONS]


@pytest.fixture(params=["flex_attention", CONVENTIONS])
def kernel(request, flash):
    with torch.compiler.set_stance("force_eager"):  # flex, without waiting for its compiler
        yield request.param


@torch.no_grad()
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_kernels_agree_in_every_scope(layer, scope, kernel):
    model = shake(tiny_speech_lm(layer=layer, scope=scope))
    found = {}
    for name in ("eager", kernel):
        model.set_attn_implementation(name)
        sides = [inputs_of(ROWS, side) for side in ("left", "right")]
        logits = [model(**inputs).logits[inputs["attention_mask"] > 0] for inputs in sides]
        tokens = model.generate(**sides[0], max_new_tokens=4, do_sample=False)
        found[name] = torch.cat(logits), tokens
    torch.testing.assert_close(found[kernel][0], found["eager"][0], rtol=1e-3, atol=1e-3)
    assert torch.equal(found[kernel][1], found["eager"][1])


def kernels_of(llm: torch.nn.Module) -> set[str]:
    return {part.config._attn_implementation for part in llm.modules() if hasattr(part, "config")}


def test_a_recipe_s_kernel_reaches_base_inserted_layers_and_the_base_beside(tmp_path):
    recipe = save_recipe(tmp_path, attn_implementation="eager")
    model = depthup.SpeechLM.from_recipe(load_recipe(recipe))
    assert kernels_of(model.llm) == {"eager"} == kernels_of(model.load_base())
    model.save_pretrained(tmp_path / "kept")
    assert kernels_of(depthup.SpeechLM.from_pretrained(tmp_path / "kept").llm) == {
        "sdpa"
    }  # the machine's, not the run's
    loaded = depthup.SpeechLM.from_pretrained(tmp_path / "kept", attn_implementation="eager")
    assert kernels_of(loaded.llm) == {"eager"}


def test_a_kernel_reaches_a_base_that_was_trained_whole(tmp_path):
    recipe = load_recipe(save_recipe(tmp_path, method="full"))
    api.upscale(recipe, tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "alone")]) == 0
    loaded = depthup.SpeechLM.from_pretrained(tmp_path / "alone", attn_implementation="eager")
    assert kernels_of(loaded.llm) == {"eager"}


def test_what_cannot_be_used_is_refused_in_one_line_before_anything_is_saved(tmp_path, capsys, monkeypatch):
    recipe = save_recipe(tmp_path, attn_implementation="flash_attention_2")
    assert main(["upscale", str(recipe), str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "attn_implementation flash_attention_2: needs a GPU" in line and not (tmp_path / "run").exists()
    llama = type(tiny_base())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="is not installed; pip install flash-attn"):
        kernel_options("flash_attention_2", llama, torch.bfloat16)
    monkeypatch.setattr(attention_kernels, "is_kernels_available", lambda: True)
    with pytest.raises(UserError, match="16 bits alone; set dtype"):
        kernel_options("flash_attention_3", llama, torch.float32)
    assert kernel_options("flash_attention_3", llama, torch.bfloat16) == {"attn_implementation": "flash_attention_3"}
    monkeypatch.setattr(llama, "_supports_flex_attn", False)
    model = tiny_speech_lm()
    with pytest.raises(UserError, match="LlamaForCausalLM does not support it; use eager or auto"):
        model.set_attn_implementation("flex_attention")
    with pytest.raises(UserError, match="flash2: not known; there are eager, flash_attention_2"):
        model.set_attn_implementation("flash2")
    assert kernels_of(model.llm) == {"sdpa"}


class Waits(TorchDispatchMode):
    """Counts what a GPU would have to be waited for: numbers read from tensors, and shapes that depend on them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave", "bincount"):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_no_token_waits_for_a_gpu_but_for_what_transformers_asks_of_each_mask(layer, scope, monkeypatch):
    """Whether padding is in it: once for the base's mask, and once for that of inserted layers that see all text."""
    base = tiny_base()
    model = tiny_speech_lm(base, layer=layer, scope=scope)
    monkeypatch.setattr(model, "_refuse_placeholders", lambda *_: None)  # looks at ids on CPUs alone behind a cache
    inputs, token = inputs_of([ROWS[0], ROWS[2]], "left"), torch.tensor([[5], [6]])
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    cache = model(**inputs, use_cache=True).past_key_values
    with Waits() as ours:
        model(input_ids=token, attention_mask=mask, past_key_values=cache)
    text = inputs["input_ids"].clamp(max=5)
    cache = base(input_ids=text, attention_mask=inputs["attention_mask"], use_cache=True).past_key_values
    with Waits() as bases:
        base(input_ids=token, attention_mask=mask, past_key_values=cache)
    assert bases.found == {"_local_scalar_dense": 1}
    assert ours.found == {"_local_scalar_dense": 1 if scope == "speech" else 2}
