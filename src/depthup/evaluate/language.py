"""By which rules texts of a language are compared: its code, what counts as the same, and words or characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import langcodes
import regex
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE
from whisper_normalizer.english import EnglishSpellingNormalizer

from depthup.errors import UserError

DEFAULT = "en"
"""Of clips that name no language, where none is asked for; a report says that it was assumed."""
SCRIPTS_WITHOUT_SPACES = (
    "Hans",
    "Hant",
    "Hani",
    "Jpan",
    "Hira",
    "Kana",
    "Bopo",
    "Thai",
    "Laoo",
    "Mymr",
    "Khmr",
    "Tibt",
)
NO_LANGUAGE = ("und", "mul", "mis", "zxx")
"""Codes that say that no language, or not one, is meant."""
ENGLISH, PLAIN = "Whisper's English", "Whisper's basic, with combining marks kept"
ASIDE = regex.compile(r"[<\[][^>\]]*[>\]]|\([^)]+?\)")
"""What Whisper's normalisers leave out: remarks in brackets."""
OPTIONAL_MARKS = regex.compile(r"[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u0640]")
"""Points of Hebrew and vowel signs of Arabic, which are written or not, and the line that stretches a word."""


@dataclass(frozen=True)
class Rules:
    """How texts of one language are compared."""

    code: str
    """BCP 47, e.g. `en` or `zh-Hans-CN`."""
    normalizer: str
    by_character: bool
    """Its script has no spaces between words: what is counted as a word is a character."""

    def normalize(self, text: str) -> str:
        """What counts, in words (or characters) with one space between; empty where nothing does."""
        return " ".join(_units(_normalizer(self.normalizer, self.code)(text), self.by_character))

    def characters(self, normalized: str) -> str:
        """What the CER is counted in: spaces count unless `normalize` put them there."""
        return "".join(normalized.split()) if self.by_character else normalized


@lru_cache(maxsize=1000)
def rules(language: str) -> Rules:
    """Of a language by its code (`de`, `cmn`, `jpn`, `cmn_hans_cn`, `zh-HK`) or English name. Raises UserError."""
    wanted = language.strip()
    tag = TO_LANGUAGE_CODE.get(wanted.lower(), wanted)
    try:
        found = langcodes.Language.get(tag)
    except langcodes.LanguageTagError:
        found = langcodes.Language.get("und")
    if not found.is_valid() or found.language in (None, *NO_LANGUAGE):
        raise UserError(f"language {language!r} is not known; give a code such as en, de or zh-CN, or an English name")
    by_character = found.maximize().script in SCRIPTS_WITHOUT_SPACES
    return Rules(found.to_tag(), ENGLISH if found.language == "en" else PLAIN, by_character)


def rules_or_default(language: str | None, default: str | None) -> tuple[Rules, bool]:
    """The rules of a clip, and whether they were assumed: it names no known language and `default` is None."""
    try:
        if language:
            return rules(language), False
    except UserError:
        pass
    return rules(default or DEFAULT), default is None


def written_language(model: Any) -> str | None:
    """The language that a checkpoint's encoder writes (`encoder.language`), where it says one."""
    return (getattr(model.config, "encoder", None) or {}).get("language")


def _units(plain: str, by_character: bool) -> list[str]:
    if not by_character:
        return plain.split()
    return [character for character in regex.findall(r"\X", plain) if not character.isspace()]


@lru_cache
def _normalizer(name: str, code: str) -> Callable[[str], str]:
    if name == ENGLISH:
        # OpenAI's list of spellings, and transformers' rules: whisper_normalizer added some of its own.
        english = EnglishTextNormalizer(EnglishSpellingNormalizer().mapping)
        # Of dots alone it leaves one, which is no word.
        return lambda text: " ".join(word for word in english(text).split() if any(map(str.isalnum, word)))
    dotless = code.split("-")[0] in ("tr", "az")
    return lambda text: _plain(text.replace("I", "ı").replace("İ", "i") if dotless else text)


def _plain(text: str) -> str:
    """Lower case without punctuation, symbols and remarks.

    Whisper's basic normaliser also takes combining marks for punctuation, which cuts the words of Indic scripts, Thai
    or Yoruba to pieces; without such marks the two give the same.
    """
    text = unicodedata.normalize("NFKC", ASIDE.sub("", text).lower().replace("i\u0307", "i"))
    text = OPTIONAL_MARKS.sub("", text)
    kinds = ((character, unicodedata.category(character)) for character in text)
    # Invisible joiners are written or not.
    return "".join(" " if kind[0] in "SP" else "" if kind == "Cf" else character for character, kind in kinds)
