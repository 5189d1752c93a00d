"""Reads tokenizer.json, and refuses one of which transformers would make other tokens than the file says.

transformers reads a byte-pair tokenizer.json as it is only where the class is generic. A class of a model, which
tokenizer_config.json or the model's type names, takes vocabulary and merges from the file and splits texts its own way.
Here the file is read as it is, so a folder in which the two differ is refused: nobody knows which of them the model was
trained with. Other tokenizers than byte-pair ones have no such class here and are not checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from slant.errors import PromptError, reason
from slant.files import read_object

GENERIC = ("TokenizersBackend", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "PythonBackend", "LlamaTokenizer")
OWN = "Qwen3_5Tokenizer"
# transformers 5: models/qwen3_5/tokenization_qwen3_5.py and models/qwen2/tokenization_qwen2.py
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?%s+|\p{N}| ?[^\s%s\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {OWN: _WORDS % (r"[\p{L}\p{M}]", r"\p{L}\p{M}"), "Qwen2Tokenizer": _WORDS % (r"\p{L}", r"\p{L}")}
WAY_OUT = "let transformers save it again: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json. Raises PromptError if the file is missing, damaged or not what is used."""
    if not path.is_file():
        others = [name for name in ("vocab.json", "merges.txt", "tokenizer.model") if path.with_name(name).exists()]
        beside = f" ({', '.join(others)} cannot be read in its place)" if others else ""
        raise PromptError(
            f"{path} is missing{beside}: download it, or write it with transformers' "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except BaseException as error:  # tokenizers raises Exception itself, and a panic in it is not even that
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise PromptError(f"{path} is damaged ({reason(error)}); download it, or save it again.") from error
    _check_class(path, tokenizer)
    return tokenizer


def _check_class(path: Path, tokenizer: Tokenizer) -> None:
    """Raise PromptError if transformers' tokenizer of the folder is not the ``tokenizer`` of its tokenizer.json."""
    model, folder = tokenizer.model, path.parent
    if not isinstance(model, models.BPE):
        return
    if model.dropout:
        raise PromptError(f"{path} drops merges at random (dropout {model.dropout}); set its dropout to null.")
    paths = folder / "tokenizer_config.json", folder / "config.json"
    settings, config = (read_object(path, PromptError) if path.exists() else {} for path in paths)
    name = _class(settings, config)
    if name in GENERIC:
        return
    if name not in PATTERNS:
        raise PromptError(
            f"{folder} names the tokenizer class {name!r}, which may read tokenizer.json in its own way; "
            'if the file is right as it is, set "tokenizer_class" to "TokenizersBackend".'
        )
    if settings.get("add_prefix_space"):
        raise PromptError(f"{folder / 'tokenizer_config.json'} sets add_prefix_space, tokenizer.json not; {WAY_OUT}.")
    # Unknown bytes and unreachable tokens are left out: a vocabulary of byte pairs has neither.
    affixed = model.continuing_subword_prefix or model.end_of_word_suffix
    if affixed or _state(tokenizer.normalizer) != {"type": "NFC"} or _pattern(tokenizer) != PATTERNS[name]:
        raise PromptError(
            f"{path} splits texts otherwise than {name}, which transformers uses for this folder; "
            f"{WAY_OUT} if the model was trained so."
        )


def _class(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The class that transformers' AutoTokenizer chooses: whatever a multimodal Qwen3.5 folder names, its own."""
    named, kind = settings.get("tokenizer_class") or config.get("tokenizer_class"), config.get("model_type")
    if kind == "qwen3_5" or (kind and not isinstance(named, str)):
        return OWN
    if not isinstance(named, str):
        return GENERIC[0]  # a tokenizer without a model
    return named.removesuffix("Fast") if named not in GENERIC else named


def _pattern(tokenizer: Tokenizer) -> str | None:
    """The pattern of a pre-tokenizer that splits by it, into bytes without a prefix space; None of any other."""
    steps = (_state(tokenizer.pre_tokenizer) or {}).get("pretokenizers") or []
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, to_bytes = steps
    if split["behavior"] != "Isolated" or split["invert"] or to_bytes["add_prefix_space"] or to_bytes["use_regex"]:
        return None
    pattern: str | None = split["pattern"].get("Regex")
    return pattern


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())
