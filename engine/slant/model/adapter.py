"""A LoRA adapter in peft's format: what it is of, and what it adds to the tensors of its base.

Whatever changes numbers and is not merged here is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from slant import tensor_files
from slant.errors import CheckpointError
from slant.files import read_object
from slant.model.folder import ADAPTER, ADAPTER_WEIGHTS, is_adapter, resolve
from slant.model.names import canonical
from slant.stand_ins import refuse_stand_in
from slant.tensor_files import EMBEDDING, HEAD, ITEMSIZE, TensorInfo, headers
from slant.validation import STRICT, only, shown, table

_ADVICE = "give it: slant merge {} OUT --base BASE."
_PEFT = "merge it with peft (merge_and_unload) and save the whole model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(embedding_)?(?P<part>[AB])(\.default)?(?P<weight>\.weight)?", re.DOTALL)
_BASE = re.compile(r"(?P<module>.+)\.base_layer\.weight")
_SAVED = re.compile(r"\.modules_to_save(\.default)?(?=\.)")
# Fields of adapter_config.json, beside those of AdapterConfig, that do not change what a trained adapter computes.
_HARMLESS = {
    "auto_mapping",
    "corda_config",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
    "task_type",
}
# Those that set the adapter alone; with pissa, olora, loftq and the like the base is another one too.
_INITIAL = (True, False, None, "gaussian", "orthogonal", "eva")

Rank = Annotated[int, Field(gt=0)]


class AdapterConfig(BaseModel):
    """The fields of ``adapter_config.json`` that say how an adapter is merged."""

    model_config = ConfigDict(**STRICT, extra="allow")

    peft_type: Annotated[str, only("LORA")]
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: Rank = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, float] | None = None
    bias: Annotated[str, only("none")] = "none"
    init_lora_weights: Annotated[bool | str | None, only(*_INITIAL)] = True
    modules_to_save: list[str] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Raises CheckpointError naming the first field that is wrong, or that asks for what is not merged here."""
        path = folder / ADAPTER
        config = table(cls, read_object(path, CheckpointError), str(path), CheckpointError, _PEFT.removesuffix("."))
        for pattern in config._patterns():
            try:
                re.compile(pattern)
            except re.error as error:
                raise CheckpointError(f"{path} has the pattern {pattern!r}, no regular expression ({error}).") from None
        for field, value in (config.model_extra or {}).items():
            if value and field not in _HARMLESS:
                raise CheckpointError(f"{path}: {field} is {shown(value)}, which slant does not merge; {_PEFT}")
        return config

    def _patterns(self) -> Iterator[str]:
        yield from (*(self.rank_pattern or ()), *(self.alpha_pattern or ()), *(self.modules_to_save or ()))
        yield from _list(self.layers_pattern)
        yield from (names for names in (self.target_modules, self.exclude_modules) if isinstance(names, str))

    def targets(self, module: str) -> bool:
        """Whether peft puts an adapter on a module of this name. Of any other it ignores the factors in the file."""
        saved = any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.modules_to_save or ())
        if saved or _named(self.exclude_modules, module):
            return False
        if isinstance(self.target_modules, str) and self.target_modules.lower() == "all-linear":
            return not module.endswith(("embed_tokens", "lm_head"))
        whole = isinstance(self.target_modules, str) or module in (self.target_modules or ())
        return _named(self.target_modules, module) and (whole or self._is_layer(module))

    def _is_layer(self, module: str) -> bool:
        if self.layers_to_transform in (None, []):
            return True
        listed = [rf"(?:^|.*?\.){pattern}" for pattern in _list(self.layers_pattern)]
        for pattern in listed or [r".*?\.[^.]*"]:
            if found := re.match(rf"{pattern}\.(\d+)\.", module):
                return int(found[1]) in _list(self.layers_to_transform)
        return False

    def factors(self, module: str) -> tuple[int, float]:
        """Rank and scaling of the adapter of a module, by its full name in the base."""
        ranks, alphas = self.rank_pattern or {}, self.alpha_pattern or {}
        rank = ranks.get(_ending(ranks, module), self.r)
        alpha = alphas.get(_ending(alphas, module), self.lora_alpha)
        return rank, alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _named(names: list[str] | str | None, module: str) -> bool:
    """Whether the end of a module's name is listed, or the whole of it matches."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in names or ())


def _ending(patterns: Iterable[str], module: str) -> str:
    """The first pattern that matches the end of a module's name, as peft looks for it; empty if none does."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), "")


@dataclass(frozen=True)
class LowRank:
    """What is added to a matrix: scaling * B A, of factors A ``[rank, in]`` and B ``[out, rank]``.

    Of an ``embedding`` it is the transposed product, of A ``[rank, rows]`` and B ``[columns, rank]``.
    """

    a: TensorInfo
    b: TensorInfo
    scaling: float
    embedding: bool

    @property
    def shape(self) -> tuple[int, int]:
        """That of the matrix."""
        shape = self.b.shape[0], self.a.shape[1]
        return shape[::-1] if self.embedding else shape

    def added_to(self, weight: Tensor, rows: list[int] | None = None) -> Tensor:
        """The matrix, or of the given rows of it, with this added: fp32 on the CPU."""
        a, b = tensor_files.read(self.a).float(), tensor_files.read(self.b).float()
        if rows is not None:
            a, b = (a[:, rows], b) if self.embedding else (a, b[rows])
        product = (b @ a).T if self.embedding else b @ a
        return weight.float() + product * self.scaling


class Adapter:
    """An opened adapter, its tensors by canonical names.

    ``low_rank`` is what it adds to matrices, ``saved`` what takes the place of the base's tensors: modules that were
    trained whole. ``bases`` are embeddings and heads that peft stored again without having trained them.
    """

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError naming the field or tensor that is wrong, or is not merged here."""
        self.folder = folder
        self.config = AdapterConfig.read(folder)
        self.file = _weights(folder)
        self.low_rank: dict[str, LowRank] = {}
        self.saved: dict[str, TensorInfo] = {}
        self.bases: dict[str, TensorInfo] = {}
        factors: dict[str, dict[str, TensorInfo]] = {}
        for info in headers({self.file: None}).values():
            if info.dtype not in ITEMSIZE:
                raise CheckpointError(f"{info.key} in {info.file} is stored as {info.dtype}; {_PEFT}")
            if found := _FACTOR.fullmatch(info.key):
                factors.setdefault(found["module"], {})[found["part"]] = info
            elif found := _BASE.fullmatch(info.key):
                self._put(self.bases, canonical(found["module"]) + ".weight", info)
            elif re.search(r"\.(lora_|token_adapter|original_module)|\.bias$", info.key):
                raise CheckpointError(f"{info.file} has a tensor {info.key}, which slant does not merge; {_PEFT}")
            else:
                name = canonical(_SAVED.sub("", info.key))
                listed = any(name.removesuffix(".weight").endswith(part) for part in self.config.modules_to_save or ())
                self._put(self.bases if name in (EMBEDDING, HEAD) and not listed else self.saved, name, info)
        for module, parts in factors.items():
            self._pair(module, parts)
        if not (self.low_rank or self.saved or self.bases):
            raise CheckpointError(f"{self.file} has no tensors; save the adapter again.")

    def _pair(self, module: str, parts: dict[str, TensorInfo]) -> None:
        """Put the two factors of a module together, with the scaling that the configuration gives it."""
        one = next(iter(parts.values()))
        if len(parts) < 2:
            raise CheckpointError(f"{one.file} has {one.key} and not the other factor; save the adapter again.")
        full = module.split("base_model.model.", 1)[-1]  # its name in the model that was trained
        if not self.config.targets(full):
            raise CheckpointError(
                f"{one.file} has {one.key}, but {self.folder / ADAPTER} does not target that module, so peft would "
                "ignore it; save the adapter again."
            )
        rank, scaling = self.config.factors(full)
        a, b = parts["A"], parts["B"]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise CheckpointError(
                f"{a.key} and {b.key} in {one.file} have the shapes {list(a.shape)} and {list(b.shape)}; "
                f"{ADAPTER} asks for the rank {rank}."
            )
        self._put(self.low_rank, canonical(module) + ".weight", LowRank(a, b, scaling, ".lora_embedding_" in a.key))

    def _put(self, where: dict[str, Any], name: str, item: Any) -> None:
        if name in where or (where is self.low_rank and name in self.saved):
            raise CheckpointError(f"{self.file} has two tensors for {name}; save the adapter again.")
        where[name] = item


def model_folders(model: str | Path, base: str | Path | None = None) -> tuple[Path, ...]:
    """The folders that a model's files are looked for in, in that order: its own, and the base's of an adapter.

    base: in place of the one that the adapter names. Raises CheckpointError if one cannot be had.
    """
    folder = resolve(model)
    if not is_adapter(folder):
        if base is not None:
            raise CheckpointError(f"{model} is no adapter ({ADAPTER}), so it has no base.")
        return (folder,)
    if base is not None:
        return folder, resolve(base)
    config = AdapterConfig.read(folder)
    name = config.base_model_name_or_path
    if not name:
        raise CheckpointError(f"{folder / ADAPTER} does not name the base; {_ADVICE.format(folder)}")
    beside = folder / name
    try:
        return folder, resolve(beside if beside.is_dir() and not Path(name).is_dir() else name, config.revision)
    except CheckpointError as error:
        raise no_base(folder, name, error) from None


def no_base(folder: Path, base: object, error: CheckpointError) -> CheckpointError:
    """The error of an adapter whose base cannot be had or read."""
    reason = str(error).removesuffix(".")
    return CheckpointError(
        f"{folder} is an adapter of {base}, which cannot be read ({reason}); {_ADVICE.format(folder)}"
    )


def _weights(folder: Path) -> Path:
    path = folder / ADAPTER_WEIGHTS
    refuse_stand_in(path)
    if path.is_file():
        return path
    pickled = path.with_suffix(".bin")
    if pickled.exists():
        raise CheckpointError(f"{pickled} is a pickle, which is not read: save the adapter as {ADAPTER_WEIGHTS}.")
    raise CheckpointError(f"{path} does not exist; save or download the adapter again.")
