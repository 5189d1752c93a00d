"""The options that a model is loaded with, as a user gives them; everything that loads takes ``LoadOptions`` whole.

What they come to on a device and a checkpoint is ``slant.runtime.resolved``. Nothing here imports torch: the command
line reads its options before it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from difflib import get_close_matches
from numbers import Integral, Real
from os import PathLike
from typing import Any

from slant.errors import OptionError, SlantError, shortened

# What leaves the choice to slant, and what each may take beside what "auto" does.
AUTO = {
    "auto": (),
    "auto-8bit": ("int8", "fp8", "hqq8"),
    "auto-4bit": ("w4a8", "int8", "fp8", "hqq8", "hqq4"),
}
WEIGHTS = (*AUTO, "bf16", "fp32", "int8", "fp8", "w4a8", "hqq8", "hqq4", "hqq3", "hqq2")
TRUNCATIONS = ("head", "middle", "error")
SPECIAL_TOKENS = ("text", "parse")
CHOICES = {"weights": WEIGHTS, "truncation": TRUNCATIONS, "special_tokens": SPECIAL_TOKENS}
MAX_TOKENS = 8192
MOST = {"threads": 1024}  # a process may not be able to start more, and OpenMP then ends it
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class LoadOptions:
    """What a user asks for; everything has a default.

    weights: "bf16", "fp32", or "auto": bf16 where the device multiplies it natively, fp32 elsewhere; an artifact is
    computed in it too. "auto-8bit" and "auto-4bit" allow weights of as many bits or more: the fastest that fit the
    memory are taken, and the scores drift as with these.
    "hqq8", "hqq4", "hqq3" or "hqq2" quantizes a checkpoint while it loads. "int8" multiplies 8-bit weights by 8-bit
    activations, on CPUs, "w4a8" an artifact's codes, or those of "hqq4", by 8-bit activations there, and "fp8" e4m3 by
    e4m3, on GPUs from sm_89 on: the fastest, and the ones that drift. On a CPU "fp8" computes the same in fp32, slower
    than bf16, for checks.
    device: "cpu", "cuda", "cuda:1" ..., or "auto": cuda if there is one.
    template, labels: the prompt around "{article}" and {answer: name}; by default the folder's ``slant.json``, else the
    built-in ones.
    max_tokens: the longest prompt in tokens; by default 8192, or what the model was built for if that is less.
    truncation: what happens to a longer prompt: "head" keeps the article's beginning, "middle" its beginning and end,
    "error" makes it that row's error.
    special_tokens: what becomes of "<|im_end|>", "<think>" and their like in a text. "text" reads their characters, so
    that no text can end itself and answer in the model's place; "parse" makes the special tokens of them, as the model
    card's code does. Those of the template are special tokens in any case.
    token_budget: computed tokens a batch, padding included; the default suits the device.
    memory: what weights and batches may take on the device: bytes, a size like "4GB", or "auto": most of what is
    free, on a GPU, or on a CPU in the machine and in the control groups of a container. The fastest tier of
    ``slant.runtime.memory`` that fits is taken; the libraries' own memory, some 0.5 GB on a GPU, comes on top.
    deterministic: a text's scores are the same bits whatever else is in the call. Batches get a fixed number of rows,
    so that a call of few texts computes as much as one of many: give a small token_budget with it.
    threads: CPU threads of the whole process (torch's setting). If None that stays, and the engine takes as many, at
    most the cores of the affinity mask and of the CPU quota unless OMP_NUM_THREADS is set.
    max_flip_rate: refuse a model without a certificate for what is loaded, or with one that measured a larger share of
    label flips.

    Raises OptionError, a SlantError, for a value that no model and no device allows.
    """

    weights: str = "auto"
    device: str = "auto"
    template: str | None = None
    labels: Mapping[str, str] | None = None
    max_tokens: int | None = None
    truncation: str = "head"
    special_tokens: str = "text"
    token_budget: int | None = None
    memory: str | int | None = "auto"
    deterministic: bool = False
    threads: int | None = None
    max_flip_rate: float | None = None

    def __post_init__(self) -> None:
        if type(self.device).__module__ == "torch":
            object.__setattr__(self, "device", str(self.device))
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str):
                raise OptionError(f"{name} is {shown(value)}; give a str, one of {', '.join(known)}.")
            if value not in known:
                verb = "is" if name == "truncation" else "are"
                raise OptionError(f"the {name} {shown(value)} {verb} unknown; use one of {', '.join(known)}.")
        if not isinstance(self.device, str):
            raise OptionError(f'device is {shown(self.device)}; give a str such as "auto", "cpu" or "cuda:0".')
        if not isinstance(self.template, str | None):
            raise OptionError(f"template is {shown(self.template)}; give the prompt itself, a str.")
        if self.labels is not None and not (
            isinstance(self.labels, Mapping)
            and all(isinstance(text, str) for pair in self.labels.items() for text in pair)
        ):
            raise OptionError(f'labels is {shown(self.labels)}; map answers to names, as in {{"0": "no", "1": "yes"}}.')
        for name in ("max_tokens", "token_budget", "threads"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(name, value))
        if type(self.deterministic).__name__ not in ("bool", "bool_"):  # the second is numpy's
            raise OptionError(f"deterministic is {shown(self.deterministic)}; give True or False.")
        rate = self.max_flip_rate
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= rate <= 1):
            raise OptionError(f"max_flip_rate is {shown(rate)}; give a share of the labels, from 0 to 1.")
        memory_bytes(self.memory)

    @classmethod
    def of(cls, options: LoadOptions | None, fields: Mapping[str, Any]) -> LoadOptions:
        """The options with some fields replaced; raises TypeError for what are no options, and for an unknown field."""
        if not isinstance(options, cls | None):
            raise TypeError(f"options is {shown(options)}; give a LoadOptions, or its fields by name.")
        known = [field.name for field in dataclass_fields(cls)]
        for name in fields:
            if name not in known:
                near = get_close_matches(name, known, 1)
                advice = f"did you mean {near[0]}?" if near else f"the options are {', '.join(known)}."
                raise TypeError(f"there is no option {name!r}; {advice}")
        return replace(options or cls(), **fields)


def whole_number(name: str, value: object) -> int:
    """The value of an option as an int, numpy's integers too; raises OptionError unless it is 1 or more, and sane."""
    most = MOST.get(name, 2**31)
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else 0
    if not 1 <= number <= most:
        limit = f" and at most {most}" if number > most else ""
        raise OptionError(f"{name} is {shown(value)}; give a whole number of at least 1{limit}.")
    return number


def check_model(model: object) -> None:
    """Raise TypeError unless it can name a model: a str or a path."""
    if not isinstance(model, str | PathLike) or not str(model).strip():
        raise TypeError(f"model is {shown(model)}; give the path of a folder, or a hub id.")


def check_function(name: str, value: object, of: str) -> None:
    """Raise TypeError unless the argument can be called; ``of`` says with what."""
    if not callable(value):
        raise TypeError(f"{name} is {shown(value)}; give a function of ({of}), or leave it out.")


def shown(value: object) -> str:
    """A value of Python as an error message shows it; ``slant.validation`` has that for what stands in a file."""
    return shortened(" ".join(repr(value).split()), 80)


def token_limit(max_tokens: int | None, positions: int) -> int:
    """The longest prompt of a model that was built for so many positions; raises SlantError for one that is longer."""
    if max_tokens is not None and max_tokens > positions:
        raise SlantError(f"max_tokens is {max_tokens}, but the model was built for {positions}; use that or less.")
    return min(MAX_TOKENS, positions) if max_tokens is None else max_tokens


def memory_bytes(memory: str | int | None) -> int | None:
    """Bytes for a number of bytes or a size like "4GB" or "900 MiB"; None for None and "auto".

    Raises SlantError for anything else.
    """
    if memory is None or memory == "auto":
        return None
    number = isinstance(memory, Real) and not isinstance(memory, bool)
    found = re.fullmatch(r"(\d{1,30}(?:\.\d{1,30})?) *([KMG]?I?B|)", str(memory).strip().upper())
    unit = UNITS.get(found[2]) if found and (number or isinstance(memory, str)) else None
    if found is None or unit is None or not (size := int(float(found[1]) * unit)):
        raise OptionError(f"memory is {shown(memory)}, which is no size; give auto, bytes, or one like 4GB or 900MB.")
    return size
