"""Plans against real steps of tiny models: operations, kept activations, weights; and the arithmetic after them."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest
import torch
from tiny import FAMILIES, LAYERS, SCOPES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, conv_backward_flop
from transformers import Wav2Vec2Config, WhisperConfig

from depthup.config import Recipe
from depthup.errors import UserError
from depthup.model.speech_lm import SpeechLM
from depthup.planning.assumptions import Assumptions
from depthup.planning.check import check
from depthup.planning.hardware import GPUS, Device, device, matmul_tflops
from depthup.planning.memory import Weights
from depthup.planning.meter import FLOPS, Meter, aten, convolution_backward_flops
from depthup.planning.planner import CTC, SPEECH, TEXT, measure_steps, plan_training
from depthup.planning.stand_in import build, drop_contents, speech_batch
from depthup.planning.step import Step
from depthup.recipe import dump_recipe, load_recipe

ASSUMED = Assumptions(clip_seconds=1.5)
CPU = Device("cpu", 0.1)
ENCODERS = {
    "whisper": WhisperConfig(
        vocab_size=20,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        pad_token_id=0,
    ),
    "waveform": Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8, 8, 8, 8, 8, 8),
        feat_extract_norm="layer",
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        layerdrop=0.0,
    ),
}
CASES = {
    "full": ["--method=full"],
    "lora": ["--method=lora"],
    "lora, layers": ["--method=depth_upscale+lora"],
    **{
        f"{layer} {scope}": [f"--upscale.layer={layer}", f"--upscale.scope={scope}"]
        for layer in LAYERS
        for scope in SCOPES
    },
    "narrow": ["--upscale.e_branchformer.width=24"],
    "ctc": ["--train.ctc_weight=0.3"],
    "whisper": ["--encoder.name=whisper"],
    "whisper, trained": ["--encoder.name=whisper", "--encoder.train=true", "--method=full"],
    "whisper, padded": ["--encoder.name=whisper", "--encoder.pad_to_30s=true"],
    "waveform": ["--encoder.name=waveform", "--encoder.train=true"],
    "gemma": ["--base=gemma", "--upscale.layer=transformer"],
    "one clip": ["--data.batch_seconds=1.5"],
}


@pytest.fixture(scope="module")
def recipe_of(tmp_path_factory):
    """Makes a recipe over tiny bases and encoders of which there is nothing but a configuration."""
    tmp_path = tmp_path_factory.mktemp("configurations")
    for name, config in {**FAMILIES, **ENCODERS}.items():
        config.save_pretrained(tmp_path / name)

    def make(overrides: list[str]) -> Recipe:
        settings = [
            "--upscale.num_layers=2",
            "--upscale.e_branchformer.kernel_size=3",
            "--lora.rank=2",
            "--data.batch_seconds=6",
        ]
        encoder = ["--encoder.width=16", "--encoder.num_mel_bins=8"]
        recipe = load_recipe(None, ["--base=llama", *settings, *encoder, *overrides])
        recipe.base = str(tmp_path / recipe.base)
        if recipe.encoder.name != "fbank":
            recipe.encoder.name = str(tmp_path / recipe.encoder.name)
        return recipe

    return make


def real_step(recipe: Recipe) -> tuple[SpeechLM, dict, float]:
    """A model with (random) weights, in training, and the planned batch with contents."""
    model = SpeechLM.from_recipe(recipe, load_weights=False).train()
    batch, seconds = speech_batch(model, recipe, ASSUMED)
    batch["input_features"] = torch.randn(batch["input_features"].shape)
    return model, {**batch, "ctc_weight": recipe.train.ctc_weight}, seconds


PLANNED: dict[str, Step] = {}


def planned_step(recipe: Recipe) -> Step:
    key = dump_recipe(recipe)
    if key not in PLANNED:
        PLANNED[key] = measure_steps(recipe, build(recipe), mixed=False, assumed=ASSUMED)[SPEECH]
    return PLANNED[key]


def total(step: Step, phase: str) -> int:
    return sum(phases.get(phase, 0) for phases in step.flops.values())


@pytest.mark.parametrize("case", CASES)
def test_operations_are_those_of_the_real_step(case, recipe_of):
    recipe = recipe_of(CASES[case])
    step = planned_step(recipe)
    model, batch, _ = real_step(recipe)
    # torch counts attention where it is made of matrix products, and miscounts backward convolutions with groups.
    counter = FlopCounterMode(display=False, custom_mapping={aten.convolution_backward: _counts_outputs})
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), counter:
        loss = model(**batch).loss
        forward = counter.get_total_flops()
        loss.backward()
    assert torch.isfinite(loss)
    assert total(step, "forward") == forward
    # Attention kernels make the scores once more: five products in place of four.
    once_more = step.attention["backward"] / 5
    trained_encoder = recipe.encoder.train and recipe.encoder.name != "fbank"
    # Where its input needs no gradient, attention made of products skips what a kernel computes anyway.
    tolerance = 0.02 if trained_encoder else 1e-9
    assert total(step, "backward") - once_more == pytest.approx(counter.get_total_flops() - forward, rel=tolerance)


def _counts_outputs(*args, out_val=None, **kwargs) -> int:
    return convolution_backward_flops(*args, **kwargs)


_counts_outputs._get_raw = True  # hand it tensors, not shapes


def test_backward_convolutions_count_as_torch_counts_each_channel_alone():
    channels, kernel, length = 6, 3, 10
    x, weight, gradient = (
        torch.empty(2, channels, 12),
        torch.empty(channels, channels, kernel),
        torch.empty(2, channels, length),
    )
    rest = ([channels], [1], [0], [1], False, [0], 1, [True, True, True])
    whole = (torch.empty_like(x), torch.empty_like(weight), None)
    assert convolution_backward_flops(gradient, x, weight, *rest) == conv_backward_flop(
        gradient, x, weight, *rest, out_val=whole
    )
    one = (gradient[:, :1], x[:, :1], weight[:1, :1])
    alone = conv_backward_flop(*one, *rest, out_val=(one[1], one[2], None))
    grouped = convolution_backward_flops(gradient, x, weight[:, :1], *rest)
    assert grouped == channels * alone
    assert FLOPS[aten.convolution_backward] is convolution_backward_flops


def kept_bytes(model: SpeechLM, batch: dict) -> int:
    """Bytes of floats that a real forward pass keeps for the backward pass, each storage once, weights left out."""
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), batch["input_features"])}
    kept: dict[int, int] = {}
    held = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # else its address could be another's
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch).loss
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("case", CASES)
def test_kept_activations_are_those_of_the_real_step(case, recipe_of):
    recipe = recipe_of(CASES[case])
    model, batch, _ = real_step(recipe)
    assert planned_step(recipe).activations == pytest.approx(kept_bytes(model, batch), rel=0.01)


@pytest.mark.parametrize("method", ["full", "depth_upscale", "lora"])
def test_and_under_autocast(method, recipe_of):
    recipe = recipe_of([f"--method={method}"])
    model, batch, _ = real_step(recipe)
    for parameter in model.llm.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        kept = kept_bytes(model, batch)
    mixed = measure_steps(recipe, build(recipe), mixed=True, assumed=ASSUMED)[SPEECH]
    assert mixed.activations == pytest.approx(kept, rel=0.01)
    assert mixed.total_flops == planned_step(recipe).total_flops


@pytest.mark.parametrize("method", ["full", "lora", "depth_upscale"])
def test_weights_gradients_and_optimizer_are_counted_to_the_byte(method, recipe_of):
    recipe = recipe_of([f"--method={method}"])
    memory = plan_training(recipe, GPUS["h100"], assumed=ASSUMED).memory
    model, batch, _ = real_step(recipe)
    frozen = sum(p.numel() * 2 for p in model.llm.parameters() if not p.requires_grad)
    assert memory.frozen_weights == frozen + sum(p.nbytes for p in model.encoder.parameters() if not p.requires_grad)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(**batch).loss.backward()
    optimizer.step()
    assert memory.trained_weights == sum(p.nbytes for p in trained)
    assert memory.gradients == sum(p.grad.nbytes for p in trained)
    assert memory.adam == sum(t.nbytes for s in optimizer.state.values() for t in s.values() if t.ndim)


def test_a_dtype_that_the_recipe_names_is_the_one_on_any_device(recipe_of):
    @functools.cache
    def planned(dtype, device):
        plan = plan_training(recipe_of([f"--dtype={dtype}"]), device, assumed=ASSUMED)
        return plan.memory.frozen_weights, plan.steps_by_kind[SPEECH].activations

    gpu, cpu = GPUS["h100"], CPU
    assert planned("bfloat16", cpu) == planned("bfloat16", gpu) == planned("auto", gpu)
    assert planned("float32", gpu) == planned("float32", cpu) == planned("auto", cpu) != planned("auto", gpu)


def test_the_backward_pass_is_told_apart_by_what_trains(recipe_of):
    frozen = planned_step(recipe_of(["--upscale.scope=all", "--upscale.layer=transformer"])).flops
    full = planned_step(recipe_of(["--method=full"])).flops
    assert set(frozen) >= {
        "encoder (trained)",
        "connector",
        "base layers (frozen)",
        "inserted layers",
        "LM head, at labels",
    }
    base, inserted = frozen["base layers (frozen)"], frozen["inserted layers"]
    # Frozen layers hand gradients on and make none; trained ones do both. Attention adds its scores once more.
    assert 1 < base["backward"] / base["forward"] < 1.5
    assert 2 < inserted["backward"] / inserted["forward"] < 2.5
    assert inserted["forward"] == base["forward"] / 2  # 2 copies of 4 layers, at every position
    assert full["base layers (trained)"]["forward"] == base["forward"]
    assert full["base layers (trained)"]["backward"] - base["backward"] == base["forward"] - frozen_attention(
        base, inserted
    )
    assert full["LM head, at labels"]["backward"] == 2 * frozen["LM head, at labels"]["backward"]


def frozen_attention(base: dict[str, int], inserted: dict[str, int]) -> int:
    """Attention scores of the base's forward pass, from what backward passes with and without weights cost.

    Frozen: linears + 2.5 scores. Trained: 2 linears + 2.5 scores. Forward: linears + scores.
    """
    linears = 2 * inserted["backward"] - base["backward"]
    return base["forward"] - linears


def test_a_frozen_encoder_costs_no_backward_pass_and_keeps_nothing(recipe_of):
    step = planned_step(recipe_of(["--encoder.name=whisper"]))
    assert set(step.flops["encoder (frozen)"]) == {"forward"}
    # Its last frames alone, which the connector's norm reads.
    assert 0 <= step.saved.get("encoder (frozen)", 0) <= 4 * 16 * 4 * 80
    assert step.peak > step.activations


@pytest.mark.parametrize("layer", LAYERS)
def test_checkpointing_trades_memory_for_a_second_forward_pass(layer, recipe_of):
    changes = [f"--upscale.layer={layer}", "--method=depth_upscale"]
    plain = planned_step(recipe_of(changes))
    spared = planned_step(recipe_of([*changes, "--train.gradient_checkpointing=true"]))
    assert spared.activations < plain.activations / 3 and spared.peak < plain.peak
    for part in ("base layers (frozen)", "inserted layers"):
        # The meter takes a depthwise convolution that runs again for a part of the backward pass.
        assert spared.flops[part]["backward"] == pytest.approx(plain.flops[part]["backward"], rel=0.01)
        assert spared.flops[part]["forward"] == plain.flops[part]["forward"]
        # A frozen layer's last product need not be made again.
        assert 0.6 < spared.flops[part]["recompute"] / plain.flops[part]["forward"] <= 1
    assert "recompute" not in spared.flops["connector"]


def test_peaks_of_a_chain_of_known_size():
    """tanh keeps its output; a linear keeps its input and has a gradient; x is given."""
    mode, size, rows = FakeTensorMode(allow_non_fake_inputs=True), 64, 1000
    chain = torch.nn.Sequential(
        *(m for _ in range(3) for m in (torch.nn.Linear(size, size, bias=False), torch.nn.Tanh()))
    )
    drop_contents(chain, chain, torch.float32, mode)
    with mode:
        x = torch.empty(rows, size)
    with Meter([("chain", chain)], [*chain.parameters(), x]) as meter:
        loss = chain(x).sum()
        kept = meter.live["chain"]
        loss.backward()
    states, gradient = rows * size * 4, size * size * 4
    assert kept == 3 * states + 4
    assert meter.live["chain"] == 4 and meter.gradients == 3 * gradient
    assert 4 * states <= meter.peak <= 6 * states


def test_steps_follow_from_hours_and_hours_from_steps(recipe_of):
    recipe = recipe_of(["--train.max_steps=50", "--train.gradient_accumulation_steps=2"])
    by_steps = plan_training(recipe, CPU, assumed=ASSUMED)
    audio = by_steps.steps_by_kind[SPEECH].audio_seconds
    assert (by_steps.steps, by_steps.epochs) == (50, None)
    assert by_steps.hours * 3600 == pytest.approx(50 * 2 * audio)
    assert audio == pytest.approx(1.5 + 3 * 1.5 * 0.95, rel=0.01)  # four clips in 6 seconds, the first in full

    two = plan_training(recipe, GPUS["h100"], gpus=2, hours=1.0, epochs=2, price=3.0, assumed=ASSUMED)
    four = plan_training(recipe, GPUS["h100"], gpus=4, hours=1.0, epochs=2, price=3.0, assumed=ASSUMED)
    assert two.hours >= 2.0 > two.hours - 2 * 2 * audio / 3600
    assert two.epochs == pytest.approx(2, rel=0.01)
    assert two.steps == pytest.approx(2 * four.steps, abs=1)
    assert two.seconds == pytest.approx(2 * four.seconds, rel=0.01)
    assert two.cost == pytest.approx(3.0 * 2 * two.seconds / 3600)


def test_time_is_operations_over_what_the_device_reaches_and_the_optimizer_s_traffic(recipe_of):
    plan = plan_training(recipe_of([]), GPUS["h100"], assumed=ASSUMED)
    flops = plan.steps_by_kind[SPEECH].total_flops
    seconds = flops / (989e12 * 0.35) + plan.model.trainable * 28 / 3.35e12
    assert plan.step_seconds == pytest.approx(seconds)
    assert plan.seconds == pytest.approx(1000 * seconds)
    assert plan.flops == 1000 * flops


def test_warm_up_and_replay_have_batches_of_their_own(recipe_of):
    replay = ["--replay.text=some.txt", "--replay.share=0.25", "--replay.batch_tokens=64", "--replay.row_tokens=32"]
    changes = ["--method=full", "--train.ctc_weight=0.3", "--train.front_end_steps=10", "--train.max_steps=40"]
    plan = plan_training(recipe_of([*changes, *replay]), CPU, assumed=ASSUMED)
    assert plan.batches == {SPEECH: 30, CTC: 10, TEXT: 10}
    assert plan.hours * 3600 == pytest.approx(40 * plan.steps_by_kind[SPEECH].audio_seconds)
    assert plan.steps_by_kind[CTC].total_flops < plan.steps_by_kind[SPEECH].total_flops
    assert plan.steps_by_kind[TEXT].text_tokens == 64
    distilled = plan_training(recipe_of([*changes, *replay, "--replay.loss=distill"]), CPU, assumed=ASSUMED)
    assert distilled.steps_by_kind[TEXT].total_flops > plan.steps_by_kind[TEXT].total_flops
    assert distilled.memory.frozen_weights - plan.memory.frozen_weights == plan.model.base_parameters * 4
    with pytest.raises(UserError, match="replay.text"):
        plan_training(recipe_of(replay), CPU, assumed=ASSUMED)
    with pytest.raises(UserError, match="front_end_steps"):
        plan_training(recipe_of(changes), CPU, hours=0.001, assumed=ASSUMED)


def test_sharding_divides_what_data_parallel_copies(recipe_of):
    recipe = recipe_of(["--method=full"])
    one, copied, sharded = (
        plan_training(recipe, GPUS["h100"], gpus=gpus, sharding=sharding, assumed=ASSUMED).memory
        for gpus, sharding in ((1, "none"), (4, "none"), (4, "full"))
    )
    for part in ("frozen_weights", "trained_weights", "adam", "gradients"):
        assert getattr(copied, part) == getattr(one, part) == 4 * getattr(sharded, part)
    assert (one.gathered, copied.gathered) == (0, one.gradients)
    model = build(recipe)
    layer = max(sum(4 * p.numel() for p in m.parameters()) for m in (*model.llm.model.layers, model.encoder))
    assert sharded.gathered == 2 * max(layer, model.get_input_embeddings().weight.numel() * 4)
    assert Weights.of(model).count == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_plan_survives_json(recipe_of):
    told = json.loads(json.dumps(plan_training(recipe_of([]), GPUS["l40s"], hours=10, assumed=ASSUMED).to_dict()))
    assert told["assumed"] == dataclasses.asdict(ASSUMED)
    assert told["fits"] is True and told["cost"] is None and told["flops"] > 0


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: device("h1000"), "h100"),
        (lambda: device("custom"), "--tflops"),
        (lambda: device("h100", tflops=1.0), "custom"),
        (lambda: Assumptions(utilisation=35), "--utilisation"),
        (lambda: Assumptions(clip_seconds=0), "--clip-seconds"),
        (lambda: plan_training(Recipe(), CPU, epochs=2), "--hours"),
    ],
)
def test_what_cannot_be_planned_is_said(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_clips_that_the_recipe_skips_are_refused(recipe_of):
    with pytest.raises(UserError, match="max_duration"):
        plan_training(recipe_of([]), CPU, assumed=Assumptions(clip_seconds=40))


def test_a_run_is_held_against_its_plan(recipe_of, tmp_path):
    recipe = recipe_of(["--train.max_steps=20"])
    plan = plan_training(recipe, CPU, assumed=ASSUMED)
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    # It heard half as much per step, at half the utilisation.
    (run / "training.json").write_text(
        json.dumps(
            {
                "plan": {"trainable": plan.model.trainable},
                "steps": 20,
                "ctc_steps": 0,
                "audio_hours": plan.hours / 2,
                "step_seconds": plan.step_seconds,
                "peak_memory_gb": 1.0,
            }
        )
    )
    found = check(run, CPU, ASSUMED)
    assert found.trainable[0] == found.trainable[1]
    assert found.step_seconds[0] == pytest.approx(plan.step_seconds / 2)
    assert found.utilisation == pytest.approx(ASSUMED.utilisation / 2)
    assert found.memory_gb == (plan.memory.total / 1e9, 1.0)
    with pytest.raises(UserError, match="training.json"):
        check(tmp_path, CPU)
    assert 1e-4 < matmul_tflops(256, 2) < 100
