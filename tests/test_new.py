"""`depthup new`: a recipe for one's own hours, machine and language, which loads and plans.

tests/test_docs_run.py trains what it writes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import save_base, save_recordings, save_whisper

from depthup import doctor
from depthup import machine as machines
from depthup.cli import main
from depthup.config import DataConfig, Recipe
from depthup.errors import UserError
from depthup.machine import Machine
from depthup.new import Corpus, measured, new_recipe
from depthup.new.corpus import style
from depthup.recipe import load_recipe

CPU, OLD_CPU, GPU = Machine(2, True), Machine(2, False), Machine(16, True, "NVIDIA GeForce RTX 4090", 1, 22.4)
SHIPPED = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "hub_answers", lambda: True)
    monkeypatch.setattr(machines, "this_machine", lambda: CPU)
    return tmp_path


def written(path: Path, hours: float, machine: Machine = CPU, **options):
    new_recipe(path, Corpus(hours), machine, **options)
    return load_recipe(path)


def test_at_the_measured_hours_and_machine_it_is_the_measured_recipe(here):
    new = written(here / "a.yaml", 6.5, language="English")
    english = load_recipe(SHIPPED / "english.yaml")
    assert (new.base, new.encoder, new.connector) == (english.base, english.encoder, english.connector)
    assert (new.upscale, new.augment, new.prompt) == (english.upscale, english.augment, english.prompt)
    assert new.train.front_end_steps == pytest.approx(english.train.front_end_steps, rel=0.05)
    assert new.train.max_steps == pytest.approx(english.train.max_steps, rel=0.05)
    for name in ("encoder_learning_rate", "encoder_frozen_steps", "ctc_rate", "learning_rate", "warmup_steps"):
        assert getattr(new.train, name) == getattr(english.train, name)
    assert new.data.batch_seconds == english.data.batch_seconds and new.dtype == "bfloat16"


def test_hours_machine_and_language_change_what_they_should(here):
    little = written(here / "little.yaml", 0.3, OLD_CPU, language="fr")
    assert little.encoder.language == little.data.language == "fr" and little.dtype == "auto"
    more = written(here / "more.yaml", 3)
    assert little.train.ctc_rate == 0 and more.train.ctc_rate > 0
    assert little.simulated_drafts.own_texts > 0 and not more.simulated_drafts.on
    much = written(here / "much.yaml", 500, GPU, language="no", validation="v.jsonl")
    assert much.train.front_end_steps > 10 * little.train.front_end_steps
    assert (much.encoder.language, much.data.validation) == ("no", "v.jsonl")
    assert much.encoder.name == "openai/whisper-small" and much.dtype == "auto" and much.data.num_workers > 0
    unwritten = written(here / "qu.yaml", 3, language="qu")
    assert "whisper" not in unwritten.encoder.name and not unwritten.encoder.decoder
    assert unwritten.prompt == Recipe.prompt
    assert unwritten.connector.name == "draft" and unwritten.encoder.language is None


def test_what_clips_say_is_taken(here):
    manifest = save_recordings(here / "audio")
    rows = [json.loads(line) | {"language": "fr"} for line in manifest.read_text().splitlines()]
    rows[0] |= {"text": "EN MAJUSCULES"}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = here / "audio" / "other: odd.jsonl"
    other.write_text("".join(json.dumps(row | {"text": "Bien dit."}) + "\n" for row in rows))
    corpus = measured([str(manifest), str(other)], DataConfig())
    assert corpus.hours == pytest.approx(2 * sum(row["duration"] for row in rows) / 3600)
    assert (corpus.clips, corpus.speakers, corpus.language) == (24, 2, "fr")
    assert corpus.styles == ["lower case", "sentences"]
    new_recipe(here / "a.yaml", corpus, CPU)
    recipe = load_recipe(here / "a.yaml")
    assert recipe.data.train == [str(manifest), str(other)]
    assert recipe.encoder.language == "fr" and recipe.data.transcripts == "spoken" and recipe.data.max_duration == 1
    for source, transcripts in ((manifest, "spoken"), (other, "as_is")):  # a decoder keeps its own style
        path = here / f"{transcripts}.yaml"
        new_recipe(path, measured([str(source)], DataConfig()), CPU)
        assert load_recipe(path).data.transcripts == transcripts
    with pytest.raises(UserError, match="no clip of 30 s or less"):
        other.write_text(json.dumps({"audio": "0.flac", "text": "a", "start": 0, "duration": 31}) + "\n")
        measured([str(other)], DataConfig())


def test_of_a_machine_only_what_is_known_is_told():
    assert CPU.told().endswith(", bfloat16") and OLD_CPU.told().endswith("no bfloat16")
    assert "bfloat16" not in Machine(2, None).told()


@pytest.mark.parametrize(
    ("text", "kind"), [("ABC", "capitals"), ("abc", "lower case"), ("Abc", "sentences"), ("a, b", "sentences")]
)
def test_how_a_transcript_is_written(text, kind):
    assert style(text) == kind


def test_refusals_lose_nothing(here, capsys):
    for words, told in [
        (["mine.yml.txt", "--hours", "3"], "ends in .yaml"),
        (["mine.yaml"], "--from DATA, or --hours"),
        (["mine.yaml", "--hours", "3", "--language", "klingonish"], "not known"),
        (["mine.yaml", "--hours", "3", "--language", "fr", "--encoder", "openai/whisper-tiny.en"], "English alone"),
        (["mine.yaml", "--from", "gone.jsonl"], "gone.jsonl"),
    ]:
        assert main(["new", *words]) == 2 and told in capsys.readouterr().err
    assert not list(here.iterdir())
    assert main(["new", "mine.yaml", "--hours", "3"]) == 0
    before = (here / "mine.yaml").read_text()
    assert main(["new", "mine.yaml", "--hours", "4"]) == 2 and "exists already" in capsys.readouterr().err
    assert (here / "mine.yaml").read_text() == before


def test_the_command_measures_writes_and_the_recipe_plans(here, capsys):
    manifest, whisper, base = (
        save_recordings(here / "audio"),
        save_whisper(here / "whisper"),
        save_base(here / "base", layers=8),
    )
    given = ["--from", str(manifest), "--base", str(base), "--encoder", str(whisper)]
    assert main(["new", "mine.yaml", *given]) == 0
    told = capsys.readouterr().out
    assert "12 clips of 2 speakers" in told and "assumed" in told and "depthup train mine.yaml" in told
    recipe = load_recipe("mine.yaml")
    assert recipe.encoder.decoder  # known by its configuration, not by the name of its folder
    (plan,) = [line for line in Path("mine.yaml").read_text().splitlines() if " depthup plan " in line]
    assert main(plan.split("depthup ")[1].split()) == 0  # as its own first lines say
    planned = " ".join(capsys.readouterr().out.split())
    assert f"optimizer steps │ {recipe.train.max_steps:,}" in planned


def test_without_a_hub_it_says_what_to_give(here, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "hub_answers", lambda: False)
    assert main(["new", "mine.yaml", "--hours", "3"]) == 0
    assert "pypi:SmolLM2-135M-Instruct" in capsys.readouterr().out
