"""Evaluation: error rates, intervals, groups, bad clips; drift of text; printing and JSON."""

from __future__ import annotations

import copy
import io
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from depthup import api
from depthup.config import DataConfig
from depthup.data import BadAudio
from depthup.errors import UserError
from depthup.evaluate import Evaluation, asr, evaluate_asr, score, scores, text_report
from depthup.evaluate.language import PLAIN, rules
from depthup.evaluate.results import load_results
from depthup.evaluate.scores import LanguageScore
from depthup.evaluate.text_tasks import TaskScore
from depthup.model.packaged import DEFAULT_BASE_DIR
from depthup.report.clips import write_clips
from depthup.report.terminal import print_asr, print_text
from depthup.transcribe.transcript import Transcript

MODEL = SimpleNamespace(device=torch.device("cpu"), config=SimpleNamespace(encoder=None))
"""Where transcription itself is made up."""

# ---------------------------------------------------------------------------------------------------- error rates


def test_counts_and_rates_of_a_case_done_by_hand():
    report = score(["the cat sat on the mat", "a dog"], ["the bat sat on mat", "a big dog ran"])
    assert (report.substitutions, report.deletions, report.insertions) == (1, 1, 2)
    assert (report.reference_words, report.clips) == (8, 2)
    assert report.wer == 4 / 8
    assert report.cer == jiwer.cer(["the cat sat on the mat", "a dog"], ["the bat sat on mat", "a big dog ran"])


def test_rates_are_those_of_jiwer_and_of_the_corpus_not_means_over_clips():
    rng = np.random.default_rng(0)
    words = ["tree", "house", "river", "stone", "cloud", "bird"]
    texts = [[" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(50)] for _ in range(2)]
    report = score(*texts)
    assert report.wer == pytest.approx(jiwer.wer(*texts)) and report.cer == pytest.approx(jiwer.cer(*texts))
    assert report.wer * report.reference_words == report.substitutions + report.deletions + report.insertions


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("Twenty-one dollars.", "$21"),
        ("I won't; you can't!", "i will not you can not"),
        ("Mr. Brown's colour", "mister brown is color"),
        ("um, it is [noise] here", "It's here"),
        ("one thousand and five", "1,005"),
        # whisper_normalizer's own English rules would also change these two words, OpenAI's do not.
        ("the cause", "The cause"),
    ],
)
def test_spellings_of_the_same_english_words_are_no_errors(reference: str, hypothesis: str):
    assert score([reference], [hypothesis]).wer == 0


def test_english_is_normalised_by_openais_rules_alone():
    assert rules("en").normalize("kinda the cause") == "kinda the cause"


def test_other_languages_keep_their_words_and_are_not_read_as_english():
    assert score(["Mr. Élan, c'est ça!"], ["mr élan c est ça"], language="fr").wer == 0
    assert score(["élan"], ["elan"], language="fr").wer == 1
    assert score(["won't"], ["will not"], language="de").wer > 0
    assert (
        score(["won't"], ["will not"], language="en-GB").wer == score(["won't"], ["will not"], language="English").wer
    )


def test_each_clip_may_have_its_own_language():
    report = score(["it's ten", "it's ten"], ["it is 10", "it is 10"], {"language": ["en", "nl"]}, ["en", "nl"])
    assert report.groups["language"].values["en"].wer == 0 < report.groups["language"].values["nl"].wer


def test_languages_without_spaces_are_scored_by_character():
    report = score(["今天天气"], ["今天大气"], language="zh")
    assert (report.wer, report.reference_words) == (0.25, 4)


def test_what_is_written_where_nothing_was_said_counts_as_inserted():
    report = score(
        ["um", "hello there", "...", ""], ["hello", "hello", "...", "x y"], {"speaker": ["a", "b", "a", "b"]}
    )
    assert (report.clips, report.empty_references, report.empty_insertions) == (4, 3, 3)
    assert (report.insertions, report.deletions, report.wer) == (3, 1, 4 / 2)
    assert report.cer == (5 + 6 + 0 + 3) / len("hello there")
    # Whoever said nothing at all has no rate.
    assert list(report.groups["speaker"].values) == ["b"]


def test_silence_alone_has_counts_and_no_rate():
    report = score(["", "um"], ["thank you", ""])
    assert (report.insertions, report.empty_references) == (2, 2) and math.isnan(report.wer)
    told = report.to_dict()
    assert (told["wer"], told["cer"], told["interval"]) == (None, None, [None, None])
    assert "not defined" in printed(print_asr, report) and "for which 2 words were written" in printed(
        print_asr, report
    )
    with pytest.raises(UserError, match="^no clip to score"):
        score([], [])


@pytest.mark.parametrize(
    ("names", "code", "by_character"),
    [
        (("zh", "zho", "chi", "Chinese", "mandarin"), "zh", True),
        (("cmn",), "cmn", True),
        (("cmn_hans_cn",), "cmn-Hans-CN", True),  # FLEURS
        (("zh-HK", "zh_hk"), "zh-HK", True),  # Common Voice
        (("ja", "jpn", "ja_jp", "Japanese"), None, True),
        (("th", "tha", "th_th"), None, True),
        (("en", "eng", "English", "en_us", "en-GB"), None, False),
        (("de", "deu", "ger", "German", "de_de"), None, False),
        (("ko", "kor", "ko_kr"), None, False),
        (("rm-sursilv",), "rm-sursilv", False),
    ],
)
def test_languages_go_by_any_of_their_names(names: tuple[str, ...], code: str | None, by_character: bool):
    for name in names:
        found = rules(name)
        assert found.code == (code or found.code) and found.code.startswith((code or names[0])[:2])
        assert found.by_character == by_character


@pytest.mark.parametrize("name", ["xx", "und", "Klingonish", "", "unknown"])
def test_a_language_that_is_not_known_is_named(name: str):
    with pytest.raises(UserError, match=f"^language '{name}' is not known; give a code such as en"):
        rules(name)


@pytest.mark.parametrize(
    ("language", "text", "compared"),
    [
        ("de", "Um die Äpfel! (lacht) [Musik]", "um die äpfel"),
        ("hi", "हिन्दी, अच्छा है।", "हिन्दी अच्छा है"),
        ("ta", "தமிழ்!", "தமிழ்"),
        ("yo", "Ọ̀rọ̀ ẹ́.", "ọ̀rọ̀ ẹ́"),
        ("th", "สวัสดี", "ส วั ส ดี"),
        ("ar", "السَّلامُ، عليكم", "السلام عليكم"),
        ("he", "שָׁלוֹם", "שלום"),
        ("fa", "می\u200cخواهم", "میخواهم"),
        ("tr", "İSTANBUL IĞDIR", "istanbul ığdır"),
        ("zh", "今天 天气好。", "今 天 天 气 好"),
        ("zh", "１２ＡＢ", "1 2 a b"),
    ],
)
def test_no_script_is_cut_to_pieces(language: str, text: str, compared: str):
    assert rules(language).normalize(text) == compared


def test_without_marks_the_rules_are_whispers_own():
    whisper = BasicTextNormalizer()
    for text in (
        "C'est l'été, n'est-ce pas?",
        "Größe: 5 % (etwa) <unk>",
        "Привет, Мир!",
        "Xin chào các bạn",
        "안녕하세요, 여러분",
    ):
        assert rules("fr").normalize(text) == " ".join(whisper(text).split())


def test_characters_are_counted_without_the_spaces_between_them():
    report = score(["今天好"], ["今大好"], language="cmn")
    assert report.cer == report.wer == 1 / 3
    assert report.languages["cmn"] == LanguageScore(1, PLAIN, "character", 0)
    assert score(["a b"], ["ab"], language="de").cer == 1 / 3  # where words are written apart, a space is a character


def test_an_assumed_language_is_told(heard, caplog: pytest.LogCaptureFixture):
    heard.cuts = [make_cut(n, f"um {n}") for n in range(4)]
    heard.cuts[0].supervisions[0].language, heard.cuts[1].supervisions[0].language = "de", "unknown"
    report = evaluate()
    assert {code: (how.clips, how.assumed) for code, how in report.languages.items()} == {"de": (1, 0), "en": (3, 3)}
    assert "test.jsonl: 3 of 4 clips name no language that is known" in caplog.text and "--language" in caplog.text
    assert "3 named none" in printed(print_asr, report)
    caplog.clear()
    report = evaluate(data={"language": "nl"})
    assert report.languages["nl"].assumed == 0 and not caplog.records


def test_the_language_that_a_checkpoint_writes_is_the_default_and_said(heard, caplog: pytest.LogCaptureFixture):
    heard.cuts = [make_cut(n, f"um {n}") for n in range(4)]
    heard.cuts[0].supervisions[0].language = "en"
    french = SimpleNamespace(**vars(MODEL) | {"config": SimpleNamespace(encoder={"language": "fr"})})
    report = evaluate(model=french)
    told = {code: (how.clips, how.assumed, how.of_model) for code, how in report.languages.items()}
    assert told == {"en": (1, 0, 0), "fr": (3, 0, 3)} and not caplog.records
    assert "encoder.language" in printed(print_asr, report)  # where the line is broken depends on the terminal
    assert evaluate(model=french, data={"language": "nl"}).languages["nl"].of_model == 0


# ------------------------------------------------------------------------------------------ intervals and groups


def noisy(clips: int, error_rate: float = 0.2, seed: int = 0) -> tuple[list[str], list[str]]:
    """Clips of ten words, of which a share is heard wrongly."""
    rng = np.random.default_rng(seed)
    wrong = rng.random((clips, 10)) < error_rate
    return ["cat " * 10] * clips, [" ".join(np.where(row, "dog", "cat")) for row in wrong]


def test_the_interval_holds_the_estimate_and_shrinks_with_the_square_root_of_the_data():
    widths = []
    for clips in (50, 800):
        report = score(*noisy(clips))
        low, high = report.interval
        assert low < report.wer < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.35)


def test_the_interval_is_that_of_theory_and_repeats_with_its_seed():
    report = score(*noisy(400), seed=1)
    # Words err alone here, so that the WER of n words has the spread of a binomial.
    spread = 1.96 * math.sqrt(report.wer * (1 - report.wer) / 4000)
    assert report.interval == pytest.approx([report.wer - spread, report.wer + spread], abs=0.004)
    assert score(*noisy(400), seed=1).interval == report.interval != score(*noisy(400), seed=2).interval


def test_the_interval_does_not_depend_on_how_draws_are_blocked(monkeypatch: pytest.MonkeyPatch):
    whole = score(*noisy(30)).interval
    monkeypatch.setattr(scores, "BLOCK", 70)
    assert score(*noisy(30)).interval == whole


def test_intervals_are_drawn_over_speakers_who_err_alike():
    speakers, words = [f"s{n // 50}" for n in range(400)], ["cat " * 10] * 400
    heard_by = [("dog " if int(name[1]) % 2 else "cat ") * 10 for name in speakers]  # every other speaker is not heard
    alone, together = score(words, heard_by), score(words, heard_by, {"speaker": speakers})
    assert alone.wer == together.wer == 0.5
    assert (alone.interval_over, together.interval_over) == ("clips", "speakers")
    # Eight coins thrown, not four hundred.
    assert alone.interval == pytest.approx([0.45, 0.55], abs=0.01)
    assert together.interval == pytest.approx([0.125, 0.875], abs=0.13)
    assert score(words, heard_by, {"speaker": ["one"] * 400}).interval_over == "clips"
    assert score(words, heard_by, {"speaker": [str(n) for n in range(400)]}).interval_over == "clips"


def test_a_perfect_transcript_has_no_interval_width():
    report = score(["a b c"] * 5, ["a b c"] * 5)
    assert (report.wer, report.cer, report.interval) == (0, 0, [0, 0])


def test_groups_are_scored_apart_and_the_gap_lies_between_best_and_worst():
    references = ["a b c d"] * 6
    hypotheses = ["a b c d", "a b c d", "a b x d", "a b x y", "x y z w", "x b c d"]
    groups = {
        "speaker": ["ann", "ann", "bob", "bob", "cy", "cy"],
        "room": ["1", None, "1", None, "2", None],
        "no": [None] * 6,
    }
    found = score(references, hypotheses, groups).groups
    speaker = found["speaker"]
    assert {name: (g.wer, g.words, g.clips) for name, g in speaker.values.items()} == {
        "ann": (0, 8, 2),
        "bob": (3 / 8, 8, 2),
        "cy": (5 / 8, 8, 2),
    }
    assert (speaker.gap, speaker.best, speaker.worst) == (5 / 8, "ann", "cy")
    assert speaker.values["cy"].interval == [0.25, 1.0]  # of one speaker: over clips
    assert {name: g.clips for name, g in found["room"].values.items()} == {"1": 2, "2": 1}
    assert "no" not in found


# ------------------------------------------------------------------------------------------------- whole data sets


def make_cut(number: int, text: str, duration: float = 1.0, speaker: str | None = None, **custom: object):
    told = SimpleNamespace(text=text, speaker=speaker, language=None, gender=None, custom=custom or None)
    return SimpleNamespace(id=f"clip-{number}", duration=duration, supervisions=[told], custom=None)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch):
    """A data set in memory whose clips are heard as their texts without the last letter; says what was done."""
    seen = SimpleNamespace(cuts=[], groups=[])

    def read_speech(cut, processor) -> np.ndarray:
        if "bad" in (cut.supervisions[0].custom or {}):
            raise BadAudio(f"{cut.id}: no such audio file")
        return np.array([int(cut.id[5:])], dtype=np.float32)

    def transcribe(model, processor, recordings, max_seconds: float, batch_seconds: float | None, vad: str):
        seen.groups.append(len(recordings))
        texts = [next(c for c in seen.cuts if c.id == f"clip-{int(r[0])}").supervisions[0].text for r in recordings]
        return [Transcript("", f"{text[:-2]} end") for text in texts]

    monkeypatch.setattr(asr, "load_cuts", lambda source, data, texts: iter(seen.cuts))
    monkeypatch.setattr(asr, "read_speech", read_speech)
    monkeypatch.setattr(asr, "transcribe_recordings", transcribe)
    return seen


def evaluate(model: object = MODEL, **options: object) -> asr.AsrReport:
    data = DataConfig(**options.pop("data", {}))
    return evaluate_asr(model, SimpleNamespace(sampling_rate=16000), "test.jsonl", data, **options)


def test_a_data_set_is_scored_in_groups_of_little_memory_and_keeps_examples(heard):
    heard.cuts = [make_cut(n, f"word number {n % 10}x", speaker="ab"[n % 2]) for n in range(20)]
    report = evaluate(batch_seconds=1.0)
    assert heard.groups == [8, 8, 4]
    assert (report.clips, report.skipped, report.reference_words) == (20, 0, 80)
    example = report.examples[11]
    assert (example.id, example.reference, example.hypothesis) == ("clip-11", "word number 1x", "word number  end")
    assert (example.edits.errors, example.edits.words, example.fields) == (2, 4, {"speaker": "b"})
    assert {value: g.clips for value, g in report.groups["speaker"].values.items()} == {"a": 10, "b": 10}
    assert "language" not in report.groups


def test_what_was_wrong_in_each_clip_is_kept_to_compare_by(heard, tmp_path):
    heard.cuts = [make_cut(n, f"word number {n % 10}x", speaker="ab"[n % 2]) for n in range(4)]
    report = evaluate()
    Evaluation(asr={"x/test.jsonl": report}).keep(tmp_path)
    (kept,) = load_results(tmp_path)["asr"].values()
    each = kept["each"]
    assert each == {f"clip-{n}": [2, 4, "ab"[n % 2]] for n in range(4)}
    assert sum(errors for errors, *_ in each.values()) / 16 == report.wer
    assert "each" not in str(Evaluation(asr={"x/test.jsonl": report}).to_dict())


def test_limit_counts_clips(heard):
    heard.cuts = [make_cut(n, "word") for n in range(20)]
    assert evaluate(limit=5).clips == 5


def test_fields_of_the_manifest_become_groups_and_an_unknown_one_is_named_before_any_work(heard):
    heard.cuts = [make_cut(n, "word", speaker="a", room=n % 3, far=n % 2 == 0, path=["x"]) for n in range(6)]
    report = evaluate(by=["room", "far"])
    assert set(report.groups) == {"speaker", "room", "far"}
    assert set(report.groups["room"].values) == {"0", "1", "2"} and set(report.groups["far"].values) == {
        "True",
        "False",
    }
    heard.groups.clear()
    with pytest.raises(UserError, match=r"^test.jsonl: no field `rom` in its first 6 clips; .*: far, room, speaker$"):
        evaluate(by=["rom"])
    assert heard.groups == []


def test_a_bad_clip_is_named_counted_and_left_out_with_its_groups(heard, caplog: pytest.LogCaptureFixture):
    heard.cuts = [make_cut(n, f"word {n}", speaker=f"s{n}", **({"bad": True} if n in (0, 2) else {})) for n in range(4)]
    report = evaluate()
    assert (report.clips, report.skipped) == (2, 2)
    assert [example.id for example in report.examples] == ["clip-1", "clip-3"]
    assert list(report.groups["speaker"].values) == ["s1", "s3"]
    assert caplog.messages[:2] == [f"skipped: clip-{n}: no such audio file" for n in (0, 2)]


def test_strict_stops_at_a_bad_clip(heard):
    heard.cuts = [make_cut(0, "word"), make_cut(1, "word", bad=True)]
    with pytest.raises(BadAudio, match="clip-1"):
        evaluate(data={"strict": True})


def test_nothing_to_evaluate_is_an_error_in_one_line(heard):
    heard.cuts = [make_cut(n, "word", bad=True) for n in range(3)]
    with pytest.raises(UserError, match=r"^test.jsonl: all 3 clips are unusable, as the lines above say; .*$"):
        evaluate()


def test_a_manifest_goes_through_the_data_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hear = lambda model, processor, recordings, *_, **__: [Transcript("", f"{len(r)}") for r in recordings]  # noqa: E731
    monkeypatch.setattr(asr, "transcribe_recordings", hear)
    soundfile.write(tmp_path / "a.wav", np.zeros(400), 8000)
    soundfile.write(tmp_path / "b.flac", np.zeros(500), 16000)
    clips = [
        {"audio": "a.wav", "text": "800", "duration": 0.05, "speaker": "x", "room": "hall"},
        {"audio": "gone.wav", "text": "zero", "duration": 0.05, "speaker": "y"},
        {"audio": "b.flac", "text": "five hundred", "language": "de"},
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(clip) for clip in clips))
    source = str(tmp_path / "test.jsonl")
    report = evaluate_asr(MODEL, SimpleNamespace(sampling_rate=16000), source, DataConfig(), by=["room"])
    assert [(e.reference, e.hypothesis) for e in report.examples] == [("800", "800"), ("five hundred", "500")]
    # Read as English, "five hundred" would be "500".
    assert (report.skipped, report.reference_words, report.substitutions, report.deletions) == (1, 3, 1, 1)
    assert {name: list(score.values) for name, score in report.groups.items()} == {
        "speaker": ["x"],
        "language": ["de"],
        "room": ["hall"],
    }


def test_every_input_is_looked_at_before_anything_is_measured(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    rows = [{"audio": "a.wav", "text": "one", "room": "x"}] * 30
    good, bad, text = tmp_path / "good.jsonl", tmp_path / "bad.jsonl", tmp_path / "page.txt"
    good.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad.write_text(good.read_text() + '{"audio": "a.wav"}\n')
    text.write_text("some text")
    nothing = SimpleNamespace()  # a model that could not do anything
    for sources, options, says in [
        ([good, bad], {}, "bad.jsonl:31: no field `text`"),
        ([good, tmp_path / "gone.jsonl"], {}, "gone.jsonl: no such file"),
        ([good], {"text": tmp_path / "gone.txt"}, "gone.txt: cannot be read"),
        ([good], {"by": ["rom"]}, "good.jsonl: no field `rom`"),
        ([good], {"data": DataConfig(language="xx")}, "language 'xx' is not known"),
        ([good], {"tasks": ["piqua"], "text_data": tmp_path}, "text task piqua: not known"),
    ]:
        with pytest.raises(UserError, match=says):
            api.evaluate(nothing, nothing, [str(source) for source in sources], **options)


def test_every_clip_can_be_looked_at_and_heard_the_worst_first(heard, tmp_path: Path):
    texts = {1: "y", 2: "alpha <b>&amp; gamma", 3: "x"}
    heard.cuts = [make_cut(n, text, speaker="a&b", **({"bad": True} if n == 3 else {})) for n, text in texts.items()]
    report = evaluate(keep_audio=tmp_path / "audio")
    first, second = write_clips(report, "sets/test.jsonl", tmp_path / "out")
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["clip-2", "clip-1", "clip-3"]
    assert rows[0]["reference"] == texts[2] and rows[0]["normalized_reference"] == "alpha amp gamma"
    assert (rows[0]["substitutions"], rows[0]["deletions"], rows[0]["insertions"]) == (1, 0, 1)
    assert soundfile.info(rows[0]["audio"]).samplerate == 16000
    assert rows[2] == {"id": "clip-3", "unusable": "clip-3: no such audio file"}
    page = second.read_text()
    clips = page.split("<article>")[1:]
    assert len(clips) == 2 and "alpha &lt;b&gt;&amp;amp; gamma" in clips[0] and "a&amp;b" in clips[0]
    assert 'src="../audio/000001.flac#t=0.000,1.000"' in clips[0]
    assert "<del>y</del> <ins>end</ins>" in clips[1] and "clip-3: no such audio file" in page


# ------------------------------------------------------------------------------------------------------------ text


def tokenizer(text: str, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
    assert not add_special_tokens
    return {"input_ids": list(text.encode())}


@pytest.fixture(scope="module")
def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. Ça va? " * 20, encoding="utf-8")
    return path


def changed(base: LlamaForCausalLM, by: float) -> LlamaForCausalLM:
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] += by
    return model


def test_the_same_model_has_no_drift(base: LlamaForCausalLM, text_file: Path):
    report = text_report(copy.deepcopy(base), base, tokenizer, text_file, row_tokens=64, max_tokens=200)
    assert (report.kl, report.top1_agreement, report.identical, report.tokens) == (0, 1, True, 200)
    assert report.perplexity == report.perplexity_base > 1


def test_drift_grows_with_the_change_and_the_least_change_is_not_identical(base: LlamaForCausalLM, text_file: Path):
    small, large = (
        text_report(changed(base, by), base, tokenizer, text_file, row_tokens=64, max_tokens=200) for by in (1e-3, 3.0)
    )
    assert not small.identical and not large.identical
    assert 0 <= small.kl < 1e-4 < large.kl
    assert large.top1_agreement < small.top1_agreement <= 1
    assert large.perplexity != large.perplexity_base == small.perplexity_base


def test_a_change_in_a_late_row_alone_is_seen(base: LlamaForCausalLM, text_file: Path):
    text_file.write_text("a" * 128 + "b" * 64)
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.model.embed_tokens.weight[ord("b")] += 0.1
    assert not text_report(model, base, tokenizer, text_file, row_tokens=64).identical
    assert text_report(model, base, tokenizer, text_file, row_tokens=64, max_tokens=128).identical


def test_perplexity_and_divergence_are_those_of_the_formulas(base: LlamaForCausalLM, text_file: Path):
    model = changed(base, 3.0)
    report = text_report(model, base, tokenizer, text_file, row_tokens=100, max_tokens=250)
    ids = torch.tensor(list(text_file.read_bytes())[:250])
    nll, predicted, kl, agreed = 0.0, 0, 0.0, 0
    with torch.no_grad():
        for row in ids.split(100):
            p, q = (m.eval()(row[None]).logits[0].double().softmax(-1) for m in (base, model))
            nll -= sum(float(q[t, row[t + 1]].log()) for t in range(len(row) - 1))
            predicted += len(row) - 1
            kl += float((p * (p / q).log()).sum())
            agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
    assert report.perplexity == pytest.approx(math.exp(nll / predicted), rel=1e-5)
    assert report.kl == pytest.approx(kl / 250, rel=1e-4)
    assert report.top1_agreement == agreed / 250


def test_rows_have_the_asked_length_and_a_single_last_token_is_left_out(base: LlamaForCausalLM, text_file: Path):
    seen: list[tuple[int, ...]] = []
    model = copy.deepcopy(base)
    model.register_forward_pre_hook(lambda m, args, kw: seen.append(tuple(kw["input_ids"].shape)), with_kwargs=True)
    report = text_report(model, base, tokenizer, text_file, row_tokens=50, max_tokens=101)
    assert (seen, report.tokens) == ([(1, 50), (1, 50)], 100)
    whole = text_report(base, base, tokenizer, text_file, row_tokens=50, max_tokens=None)
    assert whole.tokens == len(text_file.read_bytes())


def test_the_mode_of_both_models_comes_back(base: LlamaForCausalLM, text_file: Path):
    model = copy.deepcopy(base).train()
    base.eval()
    text_report(model, base, tokenizer, text_file, max_tokens=10)
    assert model.training and model.model.layers[0].training and not base.training


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"", "holds 0 tokens"),
        (b"a", "holds 1 tokens"),
        (b"abc\xff\xfe", r"not UTF-8 text \(byte 3\)"),
    ],
)
def test_a_bad_text_file_gives_one_line(base: LlamaForCausalLM, tmp_path: Path, content: bytes | None, says: str):
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path}/t.txt: .*{says}.*$"):
        text_report(base, base, tokenizer, tmp_path / "t.txt")


@pytest.mark.slow
def test_the_perplexity_of_smollm2_on_wikitext2_is_the_known_one():
    wikitext = Path(__file__).parents[2] / "shared/text/wikitext2_test.txt"
    if not (wikitext.is_file() and (DEFAULT_BASE_DIR / "model.safetensors").is_file()):
        pytest.skip(f"needs {wikitext} and SmolLM2-135M-Instruct in {DEFAULT_BASE_DIR}")
    model = AutoModelForCausalLM.from_pretrained(DEFAULT_BASE_DIR, dtype=torch.float32)
    smollm2 = AutoTokenizer.from_pretrained(DEFAULT_BASE_DIR)
    report = text_report(model, model, smollm2, wikitext, row_tokens=512, max_tokens=2048)
    assert report.perplexity_base == pytest.approx(25.494, abs=5e-4)
    assert report.tokens == 2048 and report.identical


# --------------------------------------------------------------------------------------------------------- reports


def test_json_has_the_same_keys_always_and_survives_a_round_trip(base: LlamaForCausalLM, text_file: Path):
    heard = score(*noisy(10), {"speaker": ["a", "b"] * 5})
    text = text_report(base, base, tokenizer, text_file, max_tokens=10)
    keys = ["wer", "cer", "counts", "interval", "interval_over", "languages", "groups"]
    keys += ["drift", "asr", "tasks", "instructions"]
    sets, tasks = {"a/test": heard}, {"copa": TaskScore("acc", 0.5, 0.05, 0.6, 0.5, 100, False)}
    texts = {"page": text}
    for measured in (Evaluation(sets, texts, tasks), Evaluation({}, texts), Evaluation(sets)):
        found = measured.to_dict()
        assert list(found) == keys
        assert json.loads(json.dumps(found)) == found
    found = Evaluation({**sets, "b/test": score(["x"], ["y"])}, texts, tasks).to_dict()
    assert found["asr"]["b/test"]["wer"] == 1.0 and found["asr"]["a/test"]["wer"] == found["wer"] == heard.wer
    assert found["tasks"]["copa"]["base"] == 0.6
    edits = ["substitutions", "deletions", "insertions"]
    clips = ["reference_words", "clips", "skipped", "empty_references", "empty_insertions"]
    assert list(found["counts"]) == edits + clips
    assert set(found["drift"]) == {"kl", "top1_agreement", "identical", "perplexity_base", "perplexity", "tokens"}
    assert found["interval"] == heard.interval
    assert found["groups"]["speaker"]["values"]["a"]["clips"] == 5
    assert Evaluation({}, texts).to_dict()["wer"] is None and Evaluation(sets).to_dict()["drift"] is None


def test_results_add_up_beside_a_checkpoint(tmp_path: Path, caplog):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "test.jsonl").write_text("")
    good, bad = score(["x y"], ["x y"]), score(["x y"], ["x"])
    Evaluation({str(tmp_path / "a" / "test.jsonl"): bad, "hub:test": bad}).keep(tmp_path)
    Evaluation({"hub:test": good}, tasks={"copa": TaskScore("acc", 0.5, 0.05, 0.6, 0.5, 100, False)}).keep(tmp_path)
    kept = load_results(tmp_path)
    assert {name: told["wer"] for name, told in kept["asr"].items()} == {"a/test": 0.5, "hub:test": 0.0}
    assert kept["tasks"]["copa"]["base"] == 0.6 and "examples" not in kept["asr"]["a/test"]
    Evaluation({"hub:test": good}).keep(tmp_path / "missing")
    assert "not kept" in caplog.text


def printed(call, report) -> str:
    console = Console(file=io.StringIO(), width=100)
    call(report, console=console)
    return console.file.getvalue()


def test_printing_shows_rates_left_out_clips_and_the_worst_groups_first(base: LlamaForCausalLM, text_file: Path):
    speakers = [f"[s{n:02}]" for n in range(25)]
    hypotheses = ["cat " * 9 + "dog"] + ["cat " * 10] * 24
    report = score(["cat " * 10] * 25 + ["um"], [*hypotheses, ""], {"speaker": [*speakers, "x"]})
    report.skipped = 3
    text = printed(print_asr, report)
    assert "WER" in text and "0.4 %" in text and "1 substituted" in text
    assert "3 with unusable audio" in text and "1 clips, for which 0 words were written" in text
    assert "en: 26 clips, Whisper's English rules" in text
    assert "10.0 points between [s01] and [s00]" in text and "and 5 better ones" in text
    assert text.index("[s00]") and "[s19]" in text and "[s20]" not in text
    text = printed(print_text, text_report(base, base, tokenizer, text_file, max_tokens=10))
    assert "identical, bit for bit" in text and "10 tokens" in text
    text = printed(print_text, text_report(changed(base, 3.0), base, tokenizer, text_file, max_tokens=10))
    assert "differ" in text


def test_the_log_is_that_of_the_package():
    assert asr.log is logging.getLogger("depthup")
