"""Whisper's own decoder: what it writes of a recording is a draft for the LLM, and it can be taught by transcripts."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_causal_mask
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from depthup.config import EncoderConfig
from depthup.errors import UserError
from depthup.model.encoders.silence import attention_bias
from depthup.model.encoders.style import MARKS, capital, written

TOKENS_AT_LEAST = 8
"""What may be written of the shortest recording; an endless loop ends at so many, and what a second of it may hold."""
MULTILINGUAL = 51865
"""Smallest vocabulary of a multilingual Whisper; all have a tokenizer with languages."""
TIMES, LONGEST = 4, 10
"""How often in a row the same is said, at most so many tokens of it; what is written once more is an endless loop."""
CERTAIN, IN_QUESTION = 0.99, 5
"""A token that is likelier than the first is never sampled, others among so many of the likeliest."""
NO_SPEECH_TOKENS = ("<|nospeech|>", "<|nocaptions|>")
NO_SPEECH = 0.6
"""Chance of no speech above which nothing is written, as in OpenAI's `transcribe`; docs/real-speech.md has what speech
and noises have."""
IGNORE = -100
AS_TRAINED = -1
"""In the place of a language: the one that the recipe names, or the likeliest."""
CODES = tuple(LANGUAGES)
"""Of the languages, whose numbers go into a batch."""
TOKENIZER = "encoder_tokenizer.json"
"""What a checkpoint that holds its encoder calls the decoder's tokenizer."""
END = "<|endoftext|>"
FIRST = "\u0120t"
"""A space and a "t", as byte-level tokenizers write them."""


def frame_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """[N] -> [N, size] bool, true where a frame is real."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


@dataclass
class Written:
    """What was written of one recording."""

    text: str
    units: list[int]
    """For each character the number of the token that it stands in."""
    states: torch.Tensor
    """[tokens, width], what the decoder knew when it chose each token."""


class Writer:
    """Runs the decoder of a Hugging Face Whisper model on encoder frames; holds no weights.

    `counts(lengths, size)` tells how many frames each of `size` frames stands for, [N, size], of clips of `lengths`.
    """

    def __init__(
        self, config: EncoderConfig, hf_config: PreTrainedConfig, counts: Callable[[torch.Tensor, int], torch.Tensor]
    ) -> None:
        self.config, self.hf_config, self.counts = config, hf_config, counts
        self.kept: Optional[Path] = None
        """Directory of a checkpoint that holds the tokenizer."""

    @cached_property
    def tokenizer(self) -> Any:
        if self.kept is not None:
            return PreTrainedTokenizerFast(tokenizer_file=str(self.kept / TOKENIZER), eos_token=END)
        return mended(AutoTokenizer.from_pretrained(self.config.name))

    @cached_property
    def languages(self) -> list[int]:
        """Tokens that name a language; none where the model knows English alone, as OpenAI tells by the vocabulary."""
        if self.hf_config.vocab_size < MULTILINGUAL:
            return []
        known = [self.token(f"<|{code}|>") for code in LANGUAGES]
        return [token for token in known if token is not None]

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Kept, since the tokenizer makes it anew each time, which takes as long as a token to write."""
        return self.tokenizer.get_vocab()

    def token(self, name: str) -> Optional[int]:
        return self.vocabulary.get(name)

    def language(self, name: str) -> int:
        """The number of a language in `LANGUAGES`, by its code (`fr`, `pt-BR`) or English name.

        AS_TRAINED where it knows English alone. Raises UserError, which does not name the option.
        """
        code = TO_LANGUAGE_CODE.get(name.lower(), name.lower().replace("_", "-").split("-")[0])
        if self.hf_config.vocab_size < MULTILINGUAL:
            if code != "en":
                raise UserError(f"{self.config.name} writes English alone")
            return AS_TRAINED
        if code not in CODES:
            raise UserError(f"{self.config.name} knows no such language; it takes codes and English names")
        return CODES.index(code)

    def token_of(self, language: int) -> int:
        """The token of the language with this number. Raises UserError where an older model has none."""
        if (token := self.token(f"<|{CODES[language]}|>")) is None:
            raise UserError(f"{self.config.name} does not know the language {CODES[language]}")
        return token

    def beginning(
        self, model: Any, frames: torch.Tensor, bias: torch.Tensor, languages: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """What every transcript begins with, [N, tokens].

        In the language whose number in `CODES` stands in `languages` [N], where that is not negative; else in the
        recipe's, or without one in the likeliest of each clip.
        """
        start = torch.full((len(frames), 1), self.token("<|startoftranscript|>"), device=frames.device)
        ids = [start]
        if self.languages:
            named = [AS_TRAINED] * len(frames) if languages is None else languages.tolist()
            told = [AS_TRAINED if number < 0 else self.token_of(number) for number in named]
            given = torch.tensor(told, device=frames.device)[:, None]
            usual = start if min(told) >= 0 else self._usual_languages(model, start, frames, bias)
            ids += [torch.where(given >= 0, given, usual), torch.full_like(start, self.token("<|transcribe|>"))]
        return torch.cat([*ids, torch.full_like(start, self.token("<|notimestamps|>"))], 1)

    def _usual_languages(
        self, model: Any, start: torch.Tensor, frames: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        if self.config.language:
            try:
                return torch.full_like(start, self.token_of(self.language(self.config.language)))
            except UserError as error:
                raise UserError(f"encoder.language {self.config.language}: {error}") from error
        with torch.no_grad():
            logits = self.logits(model, self.states(model, start, frames, bias)[:, -1])
        return torch.tensor(self.languages, device=frames.device)[logits[:, self.languages].argmax(-1)][:, None]

    def states(
        self, model: Any, ids: torch.Tensor, frames: torch.Tensor, bias: torch.Tensor, cache: Optional[Cache] = None
    ) -> torch.Tensor:
        """The decoder's last states [N, T, width] for ids [N, T], after those in the cache.

        Whisper's own forward pass neither hides frames nor lets them count for many, as `bias` [N, 1, 1, frames] does.
        """
        decoder = model.decoder
        past = cache.get_seq_length() if cache is not None else 0
        positions = torch.arange(past, past + ids.shape[1], device=ids.device)
        x = decoder.embed_tokens(ids) + decoder.embed_positions.weight[positions]
        causal = create_causal_mask(config=decoder.config, inputs_embeds=x, attention_mask=None, past_key_values=cache)
        for layer in decoder.layers:
            x = layer(
                x, causal, frames, encoder_attention_mask=bias, past_key_values=cache, use_cache=cache is not None
            )
        return decoder.layer_norm(x)

    def logits(self, model: Any, states: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., vocabulary], float32; Whisper's output layer is its table of embeddings."""
        return F.linear(states, model.decoder.embed_tokens.weight).float()

    def _bias(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return attention_bias(self.counts(lengths, frames.shape[1])).to(frames)

    @torch.no_grad()
    def write(
        self,
        model: Any,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        per_second: float,
        temperature: float = 0.0,
        languages: Optional[torch.Tensor] = None,
        guess: str = "",
    ) -> list[Written]:
        """What is said in frames [N, T, width], of which lengths [N] are the clip's own.

        Nothing where the decoder finds no speech likelier than NO_SPEECH, else at most `per_second` tokens a second and
        TOKENS_AT_LEAST. A transcript that falls into a loop, in which the
        same comes more than TIMES times in a row, is written anew without saying anything twice in a row.

        Drawn at a temperature where it is not 0 and a token in doubt; `languages` as for `beginning`. A single
        recording's text may be guessed: what is right at the beginning of the guess then takes one pass.
        """
        bias = self._bias(frames, lengths)
        begun = self.beginning(model, frames, bias, languages)
        limits = [TOKENS_AT_LEAST + math.ceil(per_second * s) for s in (lengths / 50).tolist()]
        given = model, frames, bias, begun, limits, temperature
        rows = self._tokens_of(*given, guess if len(frames) == 1 and not temperature else "")
        looped = [i for i, (tokens, _) in enumerate(rows) if loops(tokens)]
        if looped:
            few = frames[looped], bias[looped], begun[looped], [limits[i] for i in looped]
            for i, row in zip(looped, self._tokens_of(model, *few, temperature, twice=False), strict=True):
                rows[i] = row
        return [self._written(tokens, states) for tokens, states in rows]

    def _tokens_of(
        self,
        model: Any,
        frames: torch.Tensor,
        bias: torch.Tensor,
        begun: torch.Tensor,
        limits: list[int],
        temperature: float,
        guess: str = "",
        twice: bool = True,
    ) -> list[tuple[list[int], torch.Tensor]]:
        """Each recording's tokens, up to its end, its limit or a loop, and their states [tokens, width].

        Without `twice` nothing comes twice in a row.
        """
        end = self.tokenizer.eos_token_id
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        tokens: list[list[int]] = [[] for _ in limits]
        told: list[torch.Tensor] = []
        guessed = self.tokens(guess)[:-1][: limits[0] - 1] if guess else []
        ids = torch.cat([begun, begun.new_tensor([guessed])], 1) if guessed else begun
        states = self.states(model, ids, frames, bias, cache)
        going = self._with_speech(model, states[:, 0])
        states = states[:, -1 - len(guessed) :]
        while going:
            logits = self.logits(model, states)
            logits[..., end + 1 :] = -torch.inf  # languages, tasks, times
            if guessed:
                own = logits[0].argmax(-1).tolist()
                right = next((i for i, token in enumerate(guessed) if own[i] != token), len(guessed))
                if looped := next((i for i in range(1, right + 1) if loops(guessed[:i])), 0):
                    return [(guessed[:looped], states[0, :looped])]
                if wrong := len(guessed) - right:
                    cache.crop(-wrong)
                tokens[0], guessed = guessed[:right], []
                told += states[:, :right].unbind(1)
                states, logits = states[:, right:], logits[:, right:]
            if not twice:
                for row, so_far in enumerate(tokens):
                    logits[row, 0, repeating(so_far)] = -torch.inf
            told.append(states[:, 0])
            ids = _choose(logits[:, 0], temperature)[:, None]
            for row, token in enumerate(ids[:, 0].tolist()):
                if row in going and token != end:
                    tokens[row].append(token)
                if row in going and (token == end or len(tokens[row]) >= limits[row] or loops(tokens[row])):
                    going.remove(row)
            if going:
                states = self.states(model, ids, frames, bias, cache)
        states = torch.stack(told, 1) if told else states
        return [(row, states[i, : len(row)]) for i, row in enumerate(tokens)]

    def _with_speech(self, model: Any, states: torch.Tensor) -> set[int]:
        """The rows in which somebody speaks, of states [N, width] behind the first token, where Whisper tells."""
        rows = set(range(len(states)))
        token = next((t for t in map(self.token, NO_SPEECH_TOKENS) if t is not None), None)
        if token is None:
            return rows
        chances = self.logits(model, states).softmax(-1)[:, token].tolist()
        return {row for row in rows if chances[row] <= NO_SPEECH}

    def _written(self, tokens: list[int], states: torch.Tensor) -> Written:
        text, units = "", []
        for unit in range(len(tokens)):
            # The bytes of a character may be spread over tokens; it stands in the one that ends it.
            so_far = self.tokenizer.decode(tokens[: unit + 1]).rstrip("\ufffd")
            units += [unit] * (len(so_far) - len(text))
            text = so_far
        return Written(text, units[: len(text)], states)

    def tokens(self, text: str) -> list[int]:
        """A transcript as the decoder writes it, with its end."""
        return [*self.tokenizer(" " + text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]

    @torch.no_grad()
    def styled(
        self,
        model: Any,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        texts: Sequence[Optional[str]],
        languages: Optional[torch.Tensor] = None,
    ) -> list[Optional[str]]:
        """N transcripts in lower case without punctuation, in the decoder's own style (style.py); None stays.

        One pass over each: a word gets a capital where that is likelier, and a mark before it where no token is
        likelier than the mark. `frames` [N, T, width], `lengths` [N] and `languages` as for `write`.
        """
        rows = [(text or "").split() for text in texts]
        forms = sorted({form for row in rows for word in row for form in (word, capital(word))})
        tokens: dict[str, list[int]] = dict(zip(forms, self._ids([f" {form}" for form in forms]), strict=True))
        marks, end = [ids[0] for ids in self._ids(MARKS)], self.tokenizer.eos_token_id
        # The first word has its capital, so that what follows is judged as the rest of a sentence.
        begun = [[*map(capital, row[:1]), *row[1:]] for row in rows]
        states, _ = self.teacher_forced(model, frames, lengths, [" ".join(row) for row in begun], languages)
        found = []
        for text, row, told, given in zip(texts, rows, begun, states, strict=True):
            places = [0, *itertools.accumulate(len(tokens[word]) for word in told)]
            asked = [[tokens[word][0], tokens[capital(word)][0], *marks] for word in row] + [[end, end, *marks]]
            logits = self.logits(model, given[places])
            scores = logits.gather(-1, torch.tensor(asked, device=logits.device))
            found.append(text and written(row, scores.tolist(), logits.amax(-1).tolist()))
        return found

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def loss(
        self, model: Any, frames: torch.Tensor, lengths: torch.Tensor, texts: Sequence[Optional[str]]
    ) -> torch.Tensor:
        """Mean cross-entropy of the tokens of N transcripts, each token after those before it; None counts nothing."""
        states, labels = self.teacher_forced(model, frames, lengths, [text or "" for text in texts])
        counts = (labels != IGNORE) & torch.tensor([[text is not None] for text in texts], device=labels.device)
        loss = F.cross_entropy(self.logits(model, states)[counts], labels[counts], reduction="sum")
        return loss / counts.sum().clamp(min=1)

    def likelihoods(
        self,
        model: Any,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        texts: Sequence[str],
        languages: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        """Log probability [N] of each of N transcripts, its end included; `languages` as for `beginning`."""
        states, labels = self.teacher_forced(model, frames, lengths, texts, languages)
        scores = self.logits(model, states).log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        return (scores * (labels != IGNORE)).sum(1)

    def teacher_forced(
        self,
        model: Any,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        texts: Sequence[str],
        languages: Optional[torch.Tensor] = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The decoder's states [N, T, width] before each token of N transcripts, and the tokens [N, T], or IGNORE."""
        bias = self._bias(frames, lengths)
        begun = self.beginning(model, frames, bias, languages)
        rows = [torch.tensor(self.tokens(text)) for text in texts]
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORE).to(frames.device)
        ids = torch.cat([begun, labels[:, :-1].clamp(min=0)], 1)
        return self.states(model, ids, frames, bias)[:, begun.shape[1] - 1 :], labels


def mended(tokenizer: Any) -> Any:
    """With its first merge, which some copies of a multilingual Whisper's `tokenizer.json` lost; others stay.

    Whisper writes " the" as one token. Without the merge of a space and "t" it becomes two that Whisper never wrote,
    and a decoder that is taught so unlearns every word that begins with a "t".
    """
    if FIRST not in tokenizer.get_vocab() or len(tokenizer(" t", add_special_tokens=False)["input_ids"]) == 1:
        return tokenizer
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = [list(merge) for merge in told["model"]["merges"]]
    told["model"]["merges"] = [list(FIRST), *merges]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(told)), eos_token=END)


def loops(tokens: list[int]) -> bool:
    """Whether tokens end by saying the same, of at most LONGEST tokens, more than TIMES times in a row.

    >>> loops([7, 1, 2, 1, 2, 1, 2, 1, 2]), loops([7, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2])
    (False, True)
    """
    sizes = range(1, min(LONGEST, len(tokens) // (TIMES + 1)) + 1)
    return any(tokens[-size * TIMES :] == tokens[-size * (TIMES + 1) : -size] for size in sizes)


def repeating(tokens: list[int]) -> list[int]:
    """What must not come next, lest the same, of at most LONGEST tokens, stand there twice in a row.

    >>> repeating([1, 2, 1])
    [1, 2]
    """
    sizes = range(1, min(LONGEST, (len(tokens) + 1) // 2) + 1)
    return [tokens[-size] for size in sizes if tokens[len(tokens) - size + 1 :] == tokens[-2 * size + 1 : -size]]


def _choose(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The likeliest of each row, or one drawn at the temperature where the likeliest is not certain."""
    likeliest = logits.argmax(-1)
    if not temperature:
        return likeliest
    doubted = logits.softmax(-1).gather(-1, likeliest[:, None])[:, 0] <= CERTAIN
    # The rest of the vocabulary would be drawn too often, and once drawn leads astray.
    among = logits[doubted].topk(min(IN_QUESTION, logits.shape[-1]))
    drawn = torch.multinomial((among.values / temperature).softmax(-1), 1)
    return likeliest.masked_scatter(doubted, among.indices.gather(-1, drawn)[:, 0])
