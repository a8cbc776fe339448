"""A corpus of synthetic speech in many voices, reading sentences of any text: hours of it in minutes.

    python benchmarks/voices.py OUT --text novel.txt quotes.txt --hours 20 --workers 16

Sentences and voices of train, validation and test are disjoint. Speech is espeak-ng's: fit to compare methods, not to
train a model for people.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
from pathlib import Path

from depthup.quickstart.corpus import Clip, speak_clips, write_manifest

ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
VARIANTS = (
    *(f"m{i}" for i in range(1, 9)),
    *(f"f{i}" for i in range(1, 6)),
    *("Andy", "Annie", "klatt2", "klatt4", "edward", "steph", "Andrea", "anika", "david", "linda", "aunty"),
    *("grandma", "adam", "belinda", "robert"),
)
WORDS_PER_SECOND = 2.7
"""Of espeak-ng at the rates drawn below, pauses included; decides how many sentences make the hours."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="UTF-8 files to read from")
    parser.add_argument("--hours", type=float, default=1.0, help="of training speech")
    parser.add_argument("--test-clips", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for split, clips in plan(options.text, options.hours, options.test_clips, options.seed).items():
        manifest = options.output / f"{split}.jsonl"
        if manifest.is_file():
            continue
        durations = speak_clips(clips, options.output, options.workers)
        write_manifest(manifest, clips, durations)
        print(f"{manifest}: {len(clips)} clips, {sum(durations) / 3600:.2f} hours")


def plan(texts: list[Path], hours: float, test_clips: int, seed: int) -> dict[str, list[Clip]]:
    """Sentences, voices and manners of speaking for every split."""
    rng = random.Random(seed)
    sentences = sorted({s for path in texts for s in sentences_of(path.read_text(encoding="utf-8", errors="replace"))})
    voices = [f"{accent}+{variant}" for accent, variant in itertools.product(ACCENTS, VARIANTS)]
    rng.shuffle(sentences)
    rng.shuffle(voices)
    told = {"validation": test_clips // 2, "test": test_clips}
    held_out = sum(told.values())
    train = sentences[held_out:]
    words = sum(len(s.split()) for s in train) / max(1, len(train))
    told["train"] = round(hours * 3600 * WORDS_PER_SECOND / max(1.0, words))
    if not train:
        raise SystemExit(f"{len(sentences)} sentences are too few for {held_out} held out; give more text")
    texts_of = {"validation": sentences[: told["validation"]], "test": sentences[told["validation"] : held_out]}
    texts_of["train"] = train
    voices_of = {"validation": voices[:10], "test": voices[10:30], "train": voices[30:]}
    return {
        split: [
            clip(rng, f"{split}/{i // 1000:04d}/{i:07d}.flac", rotated(texts_of[split], i), voices_of[split])
            for i in range(count)
        ]
        for split, count in told.items()
    }


def rotated(texts: list[str], i: int) -> str:
    """The i-th text, from the first again after the last."""
    return texts[i % len(texts)]


def sentences_of(text: str) -> list[str]:
    """Sentences of 3 to 18 plain words, without digits, in lower case."""
    found = []
    for sentence in re.split(r"[.!?;:\n]{1,}\s+|\n\s*\n", text.replace("\r", "")):
        words = re.sub(r"\s+", " ", sentence).strip().lower()
        words = re.sub(r"[\"“”,()_*\-]+", " ", words).replace("’", "'")
        words = " ".join(words.split())
        if re.fullmatch(r"[a-z']+( [a-z']+){2,17}", words):
            found.append(words)
    return found


def clip(rng: random.Random, audio: str, text: str, voices: list[str]) -> Clip:
    """A clip in one of the voices, at a speed and pitch of its own."""
    return Clip(
        audio=audio,
        text=text,
        speaker=rng.choice(voices),
        rate=rng.randint(130, 230),
        pitch=rng.randint(25, 75),
        pitch_range=rng.randint(30, 70),
        volume=rng.randint(40, 100),
    )


if __name__ == "__main__":
    main()
