"""The benchmarks that wait for a GPU: they can be run on a CPU, go on where they stopped, and compare what they say."""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES
from transformers import AutoModelForCausalLM

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import gpu  # noqa: E402
import packing  # noqa: E402
import parity  # noqa: E402

from depthup.sweep import METHODS  # noqa: E402

SCRIPT = """
import json, sys, time
print("said", flush=True)
time.sleep({sleep})
if {fails}: sys.exit("it broke")
json.dump({{"device": "cpu", "rows": [{{"n": {n}}}]}}, open(sys.argv[-1], "w"))
"""


@pytest.fixture
def scripts(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    for name, n, sleep, fails in (("first", 1, 0, 0), ("broken", 2, 0, 1), ("slow", 3, 60, 0), ("last", 4, 0, 0)):
        (tmp_path / f"{name}.py").write_text(SCRIPT.format(n=n, sleep=sleep, fails=fails))
    return tmp_path


def listed(*names: str) -> list[gpu.Step]:
    return [gpu.Step(name, (f"{name}.py",), lambda row: ("case", str(row["n"]))) for name in names]


def test_what_is_done_is_not_done_again_and_the_rest_goes_on(scripts):
    out, names = scripts / "out", ("first", "broken", "slow", "last")
    gpu.run(listed("first", "broken"), out, 60)
    began = time.monotonic()
    found = gpu.run(listed("first", "slow", "last"), out, 1.5)
    assert time.monotonic() - began < 30
    told = {name: found[name]["status"] for name in found}
    assert told == {"first": gpu.DONE, "broken": "failed: it broke", "slow": "cut off"}
    (scripts / "first.py").write_text("raise SystemExit('again')")
    for name in ("broken", "slow"):
        (scripts / f"{name}.py").write_text(SCRIPT.format(n=9, sleep=0, fails=0))
    found = gpu.run(listed(*names), out, 60)
    assert {found[name]["status"] for name in names} == {gpu.DONE}
    text = gpu.table([*listed(*names), gpu.Step("more", ("x.py",), lambda row: ("", ""), "--x")], found)
    assert [line.split("| ")[-1] for line in text.splitlines()[2:7]] == [
        "1 |",
        "9 |",
        "9 |",
        "4 |",
        "not measured: give --x |",
    ]
    assert "said" in (out / "logs" / "first.txt").read_text()


def test_the_table_is_put_into_a_document(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{gpu.BEGIN}\nold\n{gpu.END}\nafter\n")
    for text in ("| new |\n", "| newer |\n"):
        gpu.include(text, page)
        assert page.read_text() == f"before\n{gpu.BEGIN}\n\n{text}\n{gpu.END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="page.md"):
        gpu.include("", page)
    assert gpu.BEGIN in (BENCHMARKS.parent / "docs" / "performance.md").read_text()


@pytest.mark.parametrize("small", [False, True])
def test_every_step_names_what_is_there(tmp_path, small):
    options = argparse.Namespace(
        small=small, out=tmp_path, espnet=None, speech=Path("s"), text_data=Path("t"), read=[], base="b"
    )
    steps = gpu.steps(options)
    assert len({step.name for step in steps}) == len(steps) > 15
    for step in steps:
        script, *words = step.words
        assert (BENCHMARKS / script).is_file()
        assert all(Path(word).is_file() for word in words if word.endswith(".yaml"))
        methods = words[words.index("--methods") + 1].split(",") if "--methods" in words else []
        assert set(methods) <= set(METHODS)
    assert {script for script in (*gpu.SMALL, *gpu.LARGE)} <= {step.words[0] for step in steps}


def test_clips_of_a_packed_row_do_not_see_each_other():
    torch.manual_seed(0)
    decoder = AutoModelForCausalLM.from_config(FAMILIES["llama"]).eval().get_decoder()
    lengths = next(packing.MadeUp(800).packed())
    row, rows = packing.in_one_row(lengths, 800), packing.padded(lengths)
    embeddings = torch.randn(1, 800, 32)
    parts = embeddings[0, : lengths.sum()].split(lengths.tolist())
    with torch.no_grad():
        packed = decoder(inputs_embeds=embeddings, use_cache=False, **row).last_hidden_state[0]
        alone = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
        apart = decoder(inputs_embeds=alone, use_cache=False, **rows).last_hidden_state
    assert len(lengths) > 1
    found = packed[: lengths.sum()].split(lengths.tolist())
    for clip, expected, length in zip(found, apart, lengths, strict=True):
        torch.testing.assert_close(clip, expected[:length], rtol=1e-4, atol=1e-4)


def test_made_up_batches_hold_each_clip_once_within_the_positions():
    clips = packing.MadeUp(2000)
    for batches in (clips.bucketed, clips.shuffled, clips.packed):
        found = list(batches())
        assert sum(len(batch) for batch in found) == packing.CLIPS
    assert max(batch.max() * len(batch) for batch in clips.shuffled()) <= 2000
    assert max(batch.sum() for batch in clips.packed()) <= 2000


def test_a_device_that_computes_otherwise_is_found_out(monkeypatch):
    """Between two CPUs nothing differs; a copy that is changed on its way does."""
    right = parity.compare("e_branchformer-speech", 2, torch.device("cpu"))
    assert right["fine"] and right["logits"] == right["gradients"] == 0 and right["answers"] == 1 and right["text"]
    assert 1e-4 < right["bfloat16"] < 0.1

    def spoiled(model):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.llm.lm_head.weight.mul_(1 + 1e-3 * torch.randn_like(other.llm.lm_head.weight))
        return other

    monkeypatch.setattr(parity, "copy", argparse.Namespace(deepcopy=spoiled))
    wrong = parity.compare("e_branchformer-speech", 2, torch.device("cpu"))
    assert not wrong["fine"] and wrong["logits"] > 1e-4
