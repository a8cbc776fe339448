"""Comparison of runs: what is shown, what is not claimed, and names that try to break the page."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from depthup.errors import UserError
from depthup.evaluate.paired import difference
from depthup.report.compare import Comparison, compare
from depthup.report.tables import NOT_MEASURED, markdown, print_comparison, tables
from depthup.report.write import write

HOSTILE = "a|*b*</script><b>x`<!--data-->"


def asr(wer: float = 0.1, interval: tuple[float, float] = (0.05, 0.15), clips: int = 20, **values: float) -> dict:
    """A test set's results, with a WER for each speaker of `values`."""
    groups = {}
    if values:
        best, worst = min(values, key=values.get), max(values, key=values.get)
        told = {name: {"wer": w, "interval": [w, w], "words": 50, "clips": 10} for name, w in values.items()}
        groups = {"speaker": {"gap": values[worst] - values[best], "best": best, "worst": worst, "values": told}}
    counts = {"substitutions": 1, "deletions": 1, "insertions": 1, "reference_words": 100, "clips": clips, "skipped": 0}
    return {"wer": wer, "cer": wer, "interval": list(interval), "counts": counts, "groups": groups}


def task(score: float, base: float = 0.6, chance: float = 0.25, questions: int = 100) -> dict:
    identical = score == base
    found = {"metric": "acc", "score": score, "stderr": 0.01, "base": base, "chance": chance}
    return found | {"questions": questions, "identical": identical}


def training(method: str = "depth_upscale", layer: str | None = "transformer", **kwargs: object) -> dict:
    plan = {"method": method, "layer": layer, "scope": "all", "num_layers": 8 if layer else 0}
    return {
        "plan": plan | {"total": 1000, "trainable": 250, "share_of_full": 0.25},
        "base": "some/base",
        "learning_rate": 5e-4,
        "steps": 20,
        "ctc_steps": 0,
        "device": "cpu",
        "audio_hours": 1.5,
        "wall_seconds": 100.0,
        "step_seconds": 2.0,
        "peak_memory_gb": 3.0,
        "history": [{"step": 10, "audio_hours": 0.5, "loss": 2.0}],
    } | kwargs


def save(directory: Path, trained: dict | None = None, **evaluation: dict) -> Path:
    """A run directory with a `training.json` and, of `asr`, `drift` and `tasks`, what is given."""
    directory.mkdir(parents=True)
    (directory / "training.json").write_text(json.dumps(training() if trained is None else trained))
    if evaluation:
        (directory / "evaluation.json").write_text(json.dumps(evaluation))
    return directory


def row(comparison: Comparison, title: str, label: str) -> dict[str, str]:
    """A row of a table, by column."""
    table = next(t for t in tables(comparison) if t.title == title)
    return next(
        dict(zip(table.header, (cell.text for cell in cells), strict=True))
        for cells in table.rows
        if cells[0].text == label
    )


def test_the_order_given_is_kept_everywhere(tmp_path):
    names = ["zebra", "ant", "mole"]
    found = compare([save(tmp_path / name, asr={"t": asr()}) for name in names])
    assert [run.label for run in found.runs] == names
    for table in tables(found):
        assert [cells[0].text for cells in table.rows] == names
    text = markdown(found)
    assert text.index("| zebra") < text.index("| ant") < text.index("| mole")


def test_answers_to_instructions_stand_beside_the_error_rates(tmp_path):
    asked = {"a/test: Translate.": {"match": 0.0, "kl": 0.25, "clips": 9, "tokens": 80, "skipped": 0}}
    found = compare([save(tmp_path / "asked", instructions=asked), save(tmp_path / "not")])
    told, missing = (row(found, "Speech", label) for label in ("asked", "not"))
    columns = ["answers as its base reads, a/test: Translate.", "KL a/test: Translate."]
    assert [told[name] for name in columns] == ["0.0 %", "0.25"]
    assert [missing[name] for name in columns] == [NOT_MEASURED] * 2


def test_what_was_not_measured_is_missing_and_not_zero(tmp_path):
    heard = save(tmp_path / "heard", asr={"t": asr(0.0, (0.0, 0.0), anna=0.0, bert=0.0)})
    read = save(tmp_path / "read", training(step_seconds=None, peak_memory_gb=float("nan")), tasks={"arc": task(0.6)})
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "depthup", "method": "full", "base": "some/base"}')
    found = compare([heard, read, tmp_path / "bare"])
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    for run in plain["runs"][1:]:
        assert run["asr"] == {"t": None} and run["step_seconds"] is None and run["peak_memory_gb"] is None
    assert plain["runs"][0]["tasks"] == {"arc": None} and plain["runs"][0]["identical"] is None
    assert plain["runs"][0]["degradation"]["mean"]["points"] is None
    assert plain["runs"][2]["trainable"] is None and plain["runs"][2]["method"] == "full"
    for label in ("read", "bare"):
        assert row(found, "Speech", label)["WER t"] == NOT_MEASURED
        assert row(found, "Speech", label)["speaker gap t"] == NOT_MEASURED
        assert row(found, "Cost", label)["step time"] == NOT_MEASURED
    assert row(found, "Speech", "heard")["WER t"] == "0.0 % (0.0 to 0.0)"
    assert row(found, "Text", "heard")["mean lost, points"] == NOT_MEASURED
    assert row(found, "Text", "read")["mean lost, points"] == "0"
    assert row(found, "Cost", "bare")["trainable"] == NOT_MEASURED


def test_degradation_and_its_relation_to_the_first_full_run_are_those_done_by_hand(tmp_path):
    # Base 60 and 80: full loses 20 and 10 (mean 15), the other 4 and 0 (mean 2): 2 / 15 - 1 = -87 %.
    full = {"arc": task(0.40), "piqa": task(0.70, 0.80, 0.5)}
    worse = {"arc": task(0.25), "piqa": task(0.50, 0.80, 0.5)}
    ours = {"arc": task(0.56), "piqa": task(0.80, 0.80, 0.5)}
    paths = [
        save(tmp_path / "ours", tasks=ours),
        save(tmp_path / "full", training("full", None), tasks=full),
        save(tmp_path / "second-full", training("full", None), tasks=worse),
    ]
    found = compare(paths)
    mean = found.runs[0].degradation["mean"]
    assert mean["points"] == pytest.approx(0.02)
    assert mean["relative"] == pytest.approx(0.02 / 0.70)
    assert mean["above_chance"] == pytest.approx(0.02 / (0.70 - 0.375))
    assert mean["relative_to_full"] == pytest.approx(2 / 15 - 1)
    assert found.runs[1].degradation["mean"]["relative_to_full"] == 0
    shown = row(found, "Text", "ours")
    assert (shown["mean lost, points"], shown["relative to full"]) == ("2.0", "-87 %")
    base = row(found, "Text", "base: base")
    assert (base["arc"], base["piqa"], base["mean lost, points"]) == ("60.0", "80.0", NOT_MEASURED)
    assert tables(found)[1].rows[0][0].text == "base: base"


@pytest.mark.parametrize("full", [None, {"arc": task(0.6)}, {"arc": task(0.7)}, {"other": task(0.4)}, {}], ids=str)
def test_without_a_comparable_loss_of_full_fine_tuning_nothing_is_related_to_it(tmp_path, full):
    paths = [save(tmp_path / "ours", tasks={"arc": task(0.5)})]
    if full is not None:
        paths.append(save(tmp_path / "full", training("full", None), tasks=full))
    found = compare(paths)
    assert found.runs[0].degradation["mean"]["relative_to_full"] is None
    assert row(found, "Text", "ours")["relative to full"] == NOT_MEASURED


def test_overlapping_intervals_are_not_called_better(tmp_path):
    paths = [
        save(tmp_path / "best", asr={"t": asr(0.10, (0.08, 0.12))}),
        save(tmp_path / "near", asr={"t": asr(0.13, (0.11, 0.15))}),
        save(tmp_path / "far", asr={"t": asr(0.30, (0.25, 0.35))}),
    ]
    assert compare(paths).findings == [
        "Lowest WER on t: best (10.0 %). near: not told apart by these intervals. far: its interval lies above."
    ]
    assert compare(paths[:1]).findings == []


def test_runs_on_the_same_clips_are_compared_clip_by_clip(tmp_path):
    """Clips differ far more than the runs, so the intervals overlap; of each clip one run is a little worse."""
    rng = np.random.default_rng(0)
    errors = rng.integers(0, 9, 200)
    runs = {"best": errors, "worse": errors + (rng.random(200) < 0.2), "same": rng.permutation(errors) + 0}
    each = {name: {str(i): [int(e), 10, f"s{i % 20}"] for i, e in enumerate(of)} for name, of in runs.items()}
    paths = [
        save(tmp_path / name, asr={"t": asr(sum(e for e, *_ in of.values()) / 2000, (0.3, 0.5)) | {"each": of}})
        for name, of in each.items()
    ]
    worse, same = (compare([paths[0], path]) for path in paths[1:])
    assert "worse: higher, +1.9 points (+1.5 to" in worse.findings[0]
    assert "paired bootstrap over speakers" in worse.findings[0]
    assert "not told apart" in same.findings[0]
    assert "each" not in worse.runs[0].asr["t"]
    fewer = {name: told for name, told in each["worse"].items() if name != "0"}
    assert difference(each["best"], fewer) is None
    assert difference(each["best"], each["best"]).interval == [0.0, 0.0]


def test_what_makes_runs_incomparable_is_said(tmp_path):
    alike = [save(tmp_path / name, asr={"t": asr()}, tasks={"arc": task(0.5)}) for name in ("a", "b")]
    assert compare(alike).notes == []
    for name, run, said in (
        ("clips", {"asr": {"t": asr(clips=30)}}, "t: different test clips"),
        ("questions", {"tasks": {"arc": task(0.5, questions=50)}}, "arc: different numbers of questions"),
        ("tasks", {"tasks": {"arc": task(0.5), "piqa": task(0.5)}}, "over different tasks"),
    ):
        (note,) = compare([*alike, save(tmp_path / name, **run)]).notes
        assert said in note and "(a, b)" in note and f"({name})" in note
    (note,) = compare([*alike, save(tmp_path / "base", training(base="another/base"))]).notes
    assert "another/base (base)" in note and "some/base (a, b)" in note
    (note,) = compare([*alike, save(tmp_path / "device", training(device="cuda"))]).notes
    assert "devices" in note
    for path, packed in zip(alike, ("none", "nf4"), strict=True):
        (path / "config.json").write_text(json.dumps({"model_type": "depthup", "base_quantization": packed}))
    (note,) = compare(alike).notes
    assert "none (a)" in note and "nf4 (b)" in note


def test_bases_are_told_apart_by_the_hash_of_their_weights(tmp_path):
    paths = [save(tmp_path / name, training(base=f"/at/{name}"), tasks={"arc": task(0.5)}) for name in "ab"]

    def differ(*hashes: str) -> bool:
        for path, base_hash in zip(paths, hashes, strict=True):
            config = {"model_type": "depthup", "method": "full", "base_hash": base_hash}
            (path / "config.json").write_text(json.dumps(config))
        found = compare(paths)
        assert len(found.bases) == 1 + any("base models" in note for note in found.notes)
        return len(found.bases) == 2

    assert not differ("same", "same")
    assert differ("one", "two")


def test_runs_in_directories_of_one_name_are_told_apart(tmp_path):
    found = compare([save(tmp_path / "a" / "run"), save(tmp_path / "b" / "run"), save(tmp_path / "other")])
    assert [run.label for run in found.runs] == ["a/run", "b/run", "other"]


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    empty, model = tmp_path / "empty", tmp_path / "model"
    empty.mkdir()
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    broken = save(tmp_path / "broken")
    (broken / "training.json").write_text('{"plan": ')
    damaged = save(tmp_path / "damaged")
    save_file({"a": torch.zeros(8)}, damaged / "model.safetensors")
    content = (damaged / "model.safetensors").read_bytes()
    compare([damaged])
    (damaged / "model.safetensors").write_bytes(content[:-4])
    odd = save(tmp_path / "odd")
    (odd / "config.json").write_text('{"model_type": "depthup", "encoder": "x"}')
    run = save(tmp_path / "run")
    for paths in (
        [tmp_path / "nowhere"],
        [empty],
        [model],
        [broken],
        [damaged],
        [odd],
        [run, tmp_path / "." / "run"],
        [],
    ):
        with pytest.raises(UserError) as raised:
            compare(paths)
        assert "\n" not in str(raised.value) and all(str(path.name) in str(raised.value) for path in paths[-1:])


class Parsed(HTMLParser):
    """What a browser makes of a page: its tags with attributes, and the texts inside and outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while tag in self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        (self.scripts if self.inside[-1:] == ["script"] else self.text).append(data)


def hostile(tmp_path: Path) -> Comparison:
    """Runs, speakers, tests, tasks, texts and bases with names that try to leave their place."""
    trained = training(base=HOSTILE, device=HOSTILE)
    drift = {"kl": 0.1, "top1_agreement": 1, "identical": False, "perplexity_base": 2.0, "perplexity": 3.0, "tokens": 9}
    measured = {"asr": {HOSTILE: asr(**{HOSTILE: 0.1, "anna": 0.2})}, "tasks": {HOSTILE: task(0.5)}}
    first = save(tmp_path / HOSTILE.replace("/", "_"), trained, drift={HOSTILE: drift}, **measured)
    return compare([first, save(tmp_path / "tame", asr={HOSTILE: asr(clips=7)})])


def test_no_name_can_leave_its_place_in_the_page(tmp_path):
    page = write(hostile(tmp_path), tmp_path / "out")[2].read_text()
    parsed = Parsed(page)
    tame = Parsed(write(compare([save(tmp_path / "a", asr={"t": asr()})]), tmp_path / "tame-out")[2].read_text())
    assert not any(tag == "b" for tag, _ in parsed.tags)
    assert page.count("<script") == 2 == page.count("</script>")
    assert parsed.scripts[-1] == tame.scripts[-1]
    assert HOSTILE.replace("/", "_") in parsed.text  # the run, in a table
    assert any(f"{HOSTILE}: different test clips" in part for part in parsed.text)


def test_the_page_holds_the_same_data_as_the_json_and_fetches_nothing(tmp_path):
    comparison = hostile(tmp_path)
    _, plain, page = write(comparison, tmp_path / "out")
    parsed = Parsed(page.read_text())
    data, script = parsed.scripts
    assert json.loads(data) == json.loads(plain.read_text()) == comparison.to_dict()
    assert json.loads(data)["runs"][0]["asr"][HOSTILE]["groups"]["speaker"]["values"][HOSTILE]["wer"] == 0.1
    assert not [attrs for tag, attrs in parsed.tags if {"src", "href", "srcset"} & set(attrs) or tag == "link"]
    assert not re.search(r"url\((?!#)|@import|\bfetch\(|XMLHttpRequest|import\(|innerHTML", page.read_text())
    assert "<!--" not in page.read_text().replace(data, "")


def test_every_line_of_a_markdown_table_has_the_same_cells_whatever_the_names(tmp_path):
    text = markdown(hostile(tmp_path))
    assert "</script>" not in text and "<b>" not in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 3
    for lines in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_only_the_three_files_are_written(tmp_path):
    found, out = compare([save(tmp_path / "run")]), tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (out / "mine.md").write_text("mine")
    (out / "compare.md").write_text("an earlier comparison")
    written = write(found, out)
    assert sorted(path.name for path in out.iterdir()) == ["compare.html", "compare.json", "compare.md", "mine.md"]
    assert (out / "mine.md").read_text() == "mine" and written[0].read_text() == markdown(found)
    with pytest.raises(UserError, match="mine.md"):
        write(found, out / "mine.md")


def test_the_terminal_shows_the_telling_columns_and_the_notes(tmp_path):
    speech_only = {"model_type": "depthup", "method": "lora", "lora": {"speech_only": True}}
    lora = save(tmp_path / "lora", training("lora", None), asr={"t": asr(0.25)}, tasks={"arc": task(0.6)})
    (lora / "config.json").write_text(json.dumps(speech_only))
    other = save(tmp_path / "[red]other", asr={"t": asr(0.5, clips=3)})
    out = io.StringIO()
    print_comparison(compare([lora, other]), Console(file=out, width=200))
    for part in (
        "lora, speech only",
        "25.0",
        "5.0-15.0",
        "2.00",
        "3.0",
        "yes",
        "[red]other",
        NOT_MEASURED,
        "test clips",
    ):
        assert part in out.getvalue()
