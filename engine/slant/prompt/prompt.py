"""Texts to tokens: the fixed prompt around an article, its one-token answers, and truncation that spares the prompt.

The tokens of a text are those of its whole prompt string, encoded at once: a byte-pair encoder may merge across the
article's end (".\n\n" is one token in Qwen2.5's vocabulary, two in Qwen3.5's), so pieces are never encoded apart and
joined. Truncation keeps to this: it looks for a cut of the article whose prompt, rendered and encoded again, just
fits. So a truncated row is, token for token, the row of a shorter text.

Up to ``max_tokens``, which the model card does not have, the tokens are those of the card's own code,
`tokenizer([template.format(article=text.strip())])`, but for a text that spells a special token, such as
"<|endoftext|>": it gets that token there, and here the tokens of its characters (``slant.prompt.special_tokens``). A
text that cannot be encoded is an error of its row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from tokenizers import Encoding, Tokenizer

from slant.errors import PromptError
from slant.files import first_with, read_json
from slant.prompt.special_tokens import SpecialTokens
from slant.prompt.tokenizer_class import read_tokenizer
from slant.prompt.truncation import Cuts
from slant.validation import RECORD, table

MARKER = "{article}"
# bytes, not read_text: the prompt's line ends are part of what the model was trained on
DEFAULT_TEMPLATE: str = Path(__file__).with_name("prompt.txt").read_bytes().decode()
DEFAULT_LABELS = {"0": "far left", "1": "lean left", "2": "center", "3": "lean right", "4": "far right"}
# How articles begin: letters of several scripts, digits, quotes, brackets. No two share their first token.
PROBES = ("The", "a", "Breaking news.", "1", '"Yes."', "“", "(", "[", "-", "#", "É", "Привет", "中", "ا", "🙂")
BATCH_ROWS, BATCH_CHARS = 1024, 1 << 20  # encodings take ~100 bytes a character: hold few of them at once


@dataclass(frozen=True, slots=True)
class EncodedText:
    """The prompt of one text: ``ids`` int32 ``[tokens]``, and how many tokens truncation dropped (0 for none).

    With an ``error``, a sentence for the reader of that row, ``ids`` is empty. ``special_tokens`` counts the added
    tokens that the whole text spells, alone or together with the template around it.
    """

    ids: NDArray[np.int32]
    tokens_dropped: int
    error: str | None
    special_tokens: int = 0


class Prompt:
    """A template around an article, and the answers a model completes it with.

    ``template`` holds "{article}" once; ``labels`` maps 2 to 16 answers to their names, in class order. ``max_tokens``
    bounds the whole prompt, and ``truncation`` says which tokens of a longer article go: "head" keeps its beginning,
    "middle" its beginning and end in equal parts, joined directly, and "error" makes it an error of its row.
    ``special_tokens`` says what a text's spelling of an added token becomes: "text", the tokens of its characters, or
    "parse", the added token, as in transformers. Those of the template are parsed in any case.

    ``answer_ids`` are the answers' token ids and ``label_names`` their names, both in class order. ``prefix_ids`` are
    the leading tokens shared by the prompts of nearly all articles, possibly none: check each text against them.

    The tokenizer becomes the prompt's own: its truncation and padding are switched off here and must stay off, and
    it reads special tokens as this prompt wants, so that another may share it only if it reads them alike.
    Raises PromptError if the template, the labels, the tokenizer and ``max_tokens`` do not fit together, for example
    if an answer does not add exactly one token to a prompt.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        template: str = DEFAULT_TEMPLATE,
        labels: Mapping[str, str] = DEFAULT_LABELS,
        max_tokens: int = 8192,
        truncation: str = "head",
        special_tokens: str = "text",
    ) -> None:
        if (found := template.count(MARKER)) != 1:
            raise PromptError(f"The template must contain {MARKER} exactly once; it does {found} times.")
        if not 2 <= len(labels) <= 16:
            raise PromptError(f"There must be 2 to 16 labels, not {len(labels)}.")
        if "" in labels or any(_surrogate(text) for text in (template, *labels, *labels.values())):
            raise PromptError("The template and the labels must be Unicode text, and no answer may be empty.")
        if truncation not in ("head", "middle", "error"):
            raise PromptError(f'Truncation must be "head", "middle" or "error", not {truncation!r}.')
        if special_tokens not in ("text", "parse"):
            raise PromptError(f'special_tokens must be "text" or "parse", not {special_tokens!r}.')
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens
        self._special = SpecialTokens(tokenizer)
        self._before, _, self._after = template.partition(MARKER)
        self.template = template
        self.labels: Mapping[str, str] = dict(labels)
        self.label_names = tuple(labels.values())
        self.max_tokens = max_tokens
        self.truncation = truncation
        self._template_special_tokens = self._special.count(self._before) + self._special.count(self._after)
        probes = [encoding.ids for encoding in self._encode(PROBES)]
        self.answer_ids = tuple(self._answer_id(answer, probes) for answer in labels)
        if len(set(self.answer_ids)) < len(labels):
            raise PromptError(f"The answers {list(labels)} must be different tokens; theirs are {self.answer_ids}.")
        if special_tokens == "text":
            self._before, self._after = self._special.read_as_text(self._before, self._after, PROBES)
            probes = [self._special.ids(encoding.ids) for encoding in self._encode(PROBES)]
        self.prefix_ids = _shared(probes)
        self._overhead = min(map(len, probes)) - 1
        if max_tokens <= self._overhead:
            raise PromptError(
                f"max_tokens is {max_tokens}: the template takes {self._overhead}, an article at least 1."
            )

    @classmethod
    def load(
        cls,
        folders: Path | Sequence[Path],
        *,
        tokenizer: Tokenizer | None = None,
        template: str | None = None,
        labels: Mapping[str, str] | None = None,
        max_tokens: int = 8192,
        truncation: str = "head",
        special_tokens: str = "text",
    ) -> Prompt:
        """The prompt of a checkpoint folder: its tokenizer.json and, if it is there, its slant.json.

        folders: several are looked through in their order for each file: an adapter's comes before its base's.
        tokenizer: the one of the folder, where it is loaded already.
        slant.json may set {"template": str, "labels": {answer: name}}; arguments win over it, and what neither sets
        takes its default. Raises PromptError if a file is missing, damaged or has an unknown key.
        """
        given = (Path(folders),) if isinstance(folders, str | Path) else tuple(folders)
        if tokenizer is None:
            tokenizer = read_tokenizer(first_with(given, "tokenizer.json"))
        found = _settings(first_with(given, "slant.json"))
        template = found[0] if template is None else template
        labels = found[1] if labels is None else labels
        return cls(
            tokenizer,
            template=template,
            labels=labels,
            max_tokens=max_tokens,
            truncation=truncation,
            special_tokens=special_tokens,
        )

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the tokenizer knows."""
        return self._special.vocabulary_size

    @property
    def template_sha256(self) -> str:
        """By which certificates and self-tests know the template."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def encode(self, texts: Sequence[object]) -> list[EncodedText]:
        """One row per text, in order. A text that cannot be scored is an error of its row, never an exception."""
        if isinstance(texts, str):
            raise TypeError("encode takes a sequence of texts, not one str")
        rows: list[EncodedText] = []
        for batch in _batches(texts):
            articles = [_article(text) for text in batch]
            encodings = iter(self._encode([article for article, error in articles if error is None]))
            rows += [_failed(error) if error else self._fit(article, next(encodings))[1] for article, error in articles]
        return rows

    def render(self, text: str) -> str:
        """The prompt string of one text after truncation: its tokens are the text's ``ids``, special ones apart.

        What the text spells of these is in the string as it is in the text, however it is read. Raises PromptError,
        with the row's error, if the text cannot be scored.
        """
        article, error = _article(text)
        kept, row = ("", _failed(error)) if error else self._fit(article, self._encode([article])[0])
        if row.error is not None:
            raise PromptError(row.error)
        return self.template.replace(MARKER, kept)

    def _fill(self, article: str) -> str:
        """The prompt as the tokenizer takes it."""
        # not str.format: articles and templates contain braces
        return self._before + article + self._after

    def _encode(self, articles: Iterable[str], answer: str = "") -> list[Encoding]:
        return self.tokenizer.encode_batch_fast([self._fill(article) + answer for article in articles])

    def _answer_id(self, answer: str, probes: list[list[int]]) -> int:
        answered = [encoding.ids for encoding in self._encode(PROBES, answer)]
        for prompt, ids in zip(probes, answered, strict=True):
            if ids != [*prompt, answered[0][-1]]:
                same = max(len(_shared([prompt, ids])) - 1, 0)
                old, new = (list(map(self.tokenizer.id_to_token, some[same:])) for some in (prompt, ids))
                raise PromptError(f"The answer {answer!r} must add one token to a prompt; it makes {old} into {new}.")
        return answered[0][-1]

    def _fit(self, article: str, encoding: Encoding) -> tuple[str, EncodedText]:
        """The article as far as its prompt fits, and its row; ``encoding`` is of the whole article's prompt."""
        tokens, limit = len(encoding), self.max_tokens
        found = max(self._special.count(self.template.replace(MARKER, article)) - self._template_special_tokens, 0)
        if tokens <= limit:
            return article, EncodedText(np.array(self._special.ids(encoding.ids), dtype=np.int32), 0, None, found)
        if self.truncation == "error":
            return "", _failed(f"The prompt of this text has {tokens} tokens, over the limit of {limit}; shorten it.")
        kept, ids = self._truncate(article)
        if not kept:
            return "", _failed(f"Not one character of this text fits into {limit} tokens.")
        return kept, EncodedText(np.array(ids, dtype=np.int32), tokens - len(ids), None, found)

    def _truncate(self, article: str) -> tuple[str, list[int]]:
        """The article cut to as many tokens as fit, and the ids of its prompt; both empty if none fit."""
        cuts = Cuts(self._spans, article, self.max_tokens - self._overhead, self.truncation)
        return cuts.longest(lambda kept: self._special.ids(self._encode([kept])[0].ids), self.max_tokens)

    def _spans(self, piece: str) -> list[tuple[int, int]]:
        """Where the tokens of the prompt of an article begin and end, in characters of the article."""
        shift = len(self._before)
        return [(start - shift, end - shift) for start, end in self.tokenizer.encode(self._fill(piece)).offsets]


def _batches(texts: Iterable[object]) -> Iterator[list[object]]:
    batch: list[object] = []
    chars = 0
    for text in texts:
        batch.append(text)
        chars += str.__len__(text) if isinstance(text, str) else 0
        if len(batch) == BATCH_ROWS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    yield batch


def _article(text: object) -> tuple[str, str | None]:
    """The text as the template takes it, and why it cannot be scored."""
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return "", "The text is missing."
    if not isinstance(text, str):
        return "", f"The text is not a string but of type {type(text).__name__}."
    if error := _surrogate(text):
        return "", error
    article = str.strip(text)
    return article, None if article else "The text is empty."


def _surrogate(text: str) -> str | None:
    try:
        str.encode(text)  # not the method of a subclass
    except UnicodeEncodeError as error:
        return f"The text is not Unicode: character {error.start}, counted from 0, is a lone surrogate."
    return None


def _failed(error: str) -> EncodedText:
    return EncodedText(np.empty(0, dtype=np.int32), 0, error)


def _shared(prompts: Sequence[list[int]]) -> tuple[int, ...]:
    """The leading tokens that all prompts share."""
    same = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return tuple(tokens[0] for tokens in same)


class _Settings(BaseModel):
    model_config = RECORD

    template: str = DEFAULT_TEMPLATE
    labels: dict[str, str] = dict(DEFAULT_LABELS)


def _settings(path: Path) -> tuple[str, Mapping[str, str]]:
    """Template and labels of a slant.json, strictly; the defaults of what it, or the whole file, does not set."""
    if not path.exists():
        return DEFAULT_TEMPLATE, DEFAULT_LABELS
    found = table(_Settings, read_json(path, PromptError), str(path), PromptError, "correct the file")
    return found.template, found.labels
