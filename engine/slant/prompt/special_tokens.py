"""Added tokens such as <|im_end|> and <think>: they mean something in the template; in a text they are only text.

A tokenizer cuts its added tokens out of a string before anything else, whoever wrote them: a text that spells
``<|im_end|>`` could end itself and add an answer. Here none is cut out any more, and those of the template are spelled
by aliases that no text can contain: an alias is cut out as its token would be, by the same flags, and its id stands for
the token's. So the tokenizer still reads a whole prompt at once, and what lies beside an added token is read as ever.

Left out: a model whose own vocabulary joins a token's characters into it. Byte-level ones, as Qwen's, do not.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer

from slant.errors import PromptError

# Letters that no normalizer changes, and of an alias only those that no added token contains: so none overlaps it.
RUNES = [chr(code) for code in range(0x16A0, 0x16EB)]
MARK = "ᛊᛚᚨᚾᛏ"  # how an alias begins


@dataclass(frozen=True, slots=True)
class Found:
    """An added token in a string: its id, and where it starts and ends."""

    id: int
    start: int
    end: int


class SpecialTokens:
    """The added tokens of a tokenizer, whether it calls them special or not; at first the tokenizer parses them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        every: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        self._tokenizer = tokenizer
        self._added = {id: token for id, token in every.items() if not token.content.startswith(MARK)}
        self.vocabulary_size = tokenizer.get_vocab_size() - (len(every) - len(self._added))
        longest_first = sorted((token.content for token in self._added.values()), key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._aliased: dict[int, int] = {}
        tokenizer.encode_special_tokens = False

    def count(self, text: str) -> int:
        """How many added tokens a text spells."""
        return sum(1 for _ in self._spelled.finditer(text))

    def ids(self, ids: list[int]) -> list[int]:
        """The ids that the tokenizer gave, with added tokens for their aliases."""
        return [self._aliased.get(id, id) for id in ids] if self._aliased else ids

    def read_as_text(self, before: str, after: str, articles: Sequence[str]) -> tuple[str, str]:
        """From now on nothing is cut out but the template's added tokens; how to spell ``before`` and ``after`` for it.

        Raises PromptError if any of the ``articles`` that spells no added token would be read otherwise than so far.
        """
        plain = {}
        for article in articles:
            found, inside = self._found(before + article + after), range(len(before), len(before) + len(article))
            if all(one.end <= inside.start or one.start >= inside.stop for one in found):
                plain[article] = self._tokenizer.encode(before + article + after).ids, found, inside.stop
        aliases: dict[int, str] = {}
        if plain:
            _, found, end = next(iter(plain.values()))
            for id in sorted({one.id for one in found}):
                aliases[id], alias_id = self._alias(id)
                self._aliased[alias_id] = id
            after = _replaced(after, [one for one in found if one.start >= end], aliases, end)
            before = _replaced(before, [one for one in found if one.start < end], aliases)
        # The switch leaves out what is not called special, as Qwen's <think>; the name else matters in decoding only.
        self._tokenizer.add_special_tokens(list(self._added.values()))
        self._tokenizer.encode_special_tokens = True
        for article, (ids, _, _) in plain.items():
            if self.ids(self._tokenizer.encode(before + article + after).ids) != ids:
                raise PromptError(
                    "The tokenizer does not tell the template's special tokens from those of a text: "
                    'write the template without them, or set special_tokens to "parse".'
                )
        return before, after

    def _found(self, text: str) -> list[Found]:
        """What the tokenizer cuts out of a text while it parses, in order; spaces that it takes with a token stay."""
        normalizer, encoding, found = self._tokenizer.normalizer, self._tokenizer.encode(text), []
        for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if (token := self._added.get(id)) is None:
                continue
            piece = text[start:end]
            spelling = token.content if token.content in piece else piece.strip()
            normal = normalizer.normalize_str if token.normalized and normalizer is not None else str
            if normal(spelling) == normal(token.content):  # not so where an unknown token stands for other characters
                start += piece.index(spelling)
                found.append(Found(id, start, start + len(spelling)))
        return found

    def _alias(self, id: int) -> tuple[str, int]:
        """A new spelling of an added token, and the id that it has."""
        token = self._added[id]
        free = [rune for rune in RUNES if not any(rune in other.content for other in self._added.values())]
        alias = MARK + "".join(secrets.choice(free) for _ in range(24))
        flags = {name: getattr(token, name) for name in ("lstrip", "rstrip", "normalized")}
        self._tokenizer.add_tokens([AddedToken(alias, single_word=False, special=False, **flags)])
        made = self._tokenizer.token_to_id(alias)
        assert made is not None
        return alias, made


def _replaced(text: str, found: Iterable[Found], words: dict[int, str], origin: int = 0) -> str:
    """The text with a word for each added token; their positions count from ``origin``."""
    for one in reversed(list(found)):
        text = text[: one.start - origin] + words[one.id] + text[one.end - origin :]
    return text
