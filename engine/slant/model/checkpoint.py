"""A Hugging Face folder or hub id -> configuration and a strict, lazy reader of its tensors.

Names are canonical here: ``layers.0.mlp.up_proj.weight``, ``embed_tokens.weight``, ``norm.weight``, ``lm_head.weight``,
whatever prefix the file uses. Opening reads only the headers; a tensor is read when it is asked for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slant.errors import CheckpointError
from slant.model.config import ModelConfig

# Multimodal, older multimodal and text-only files; the most specific first.
_PREFIXES = ("model.language_model.", "language_model.model.", "model.")
_NOT_OURS = re.compile(r"(model\.)?(visual|mtp)\.")
ITEMSIZE = {"F32": 4, "BF16": 2, "F16": 2}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is: its file, its key there, its shape and its dtype as safetensors spells it."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE.get(self.dtype, 0)


class Checkpoint:
    """An opened, checked checkpoint.

    ``tensors`` maps canonical names to what the files hold, ``skipped`` lists the vision and multi-token-prediction
    keys, and ``notes`` says in sentences what is unusual but understood.
    """

    def __init__(self, folder: Path) -> None:
        """Open a local folder. Raises CheckpointError naming the first thing that is wrong with it."""
        self.folder = folder
        self.config = ModelConfig.read(folder / "config.json")
        self.skipped: list[str] = []
        self.tensors = self._canonical(headers(_weight_files(folder)))
        self.head = HEAD if HEAD in self.tensors else EMBEDDING
        self._check()
        self.notes = tuple(self._notes())
        self.recipe = self.certificate = self.probe = None  # an artifact has them

    @classmethod
    def open(cls, model: str | Path) -> Checkpoint:
        """Open a folder, or download a hub id such as ``owner/name`` into the Hugging Face cache first."""
        return cls(resolve(model))

    def read(self, name: str) -> Tensor:
        """One tensor as it is in the file (CPU, the file's dtype).

        The file is opened for this one tensor: an open mapping would keep every page read so far in memory.
        """
        info = self.tensors[name]
        with opened(info.file) as file:
            return file.get_tensor(info.key)

    def quantized(self, name: str) -> None:
        """None: a checkpoint holds every tensor dense."""

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        """Rows ``ids`` of a matrix, ``[len(ids), columns]`` in the file's dtype; no other row is read."""
        return rows(self.tensors[name], ids)

    def head_rows(self, ids: Sequence[int]) -> Tensor:
        """Rows ``ids`` of the language-model head, or of the embedding it is tied to."""
        return self.rows(self.head, ids)

    def _canonical(self, found: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
        ours = {key: info for key, info in found.items() if not _NOT_OURS.match(key)}
        self.skipped = sorted(found.keys() - ours.keys())
        prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in ours)), "")
        return {key.removeprefix(prefix): info for key, info in ours.items()}

    def _check(self) -> None:
        expected = expected_shapes(self.config)
        if not self.config.tie_word_embeddings or HEAD in self.tensors:
            expected[HEAD] = expected[EMBEDDING]
        for name, shape in expected.items():
            info = self.tensors.get(name)
            if info is None:
                raise CheckpointError(
                    f"{self.folder} has no tensor {name}; the checkpoint is incomplete: save it again."
                )
            if info.shape != shape:
                raise CheckpointError(
                    f"{info.key} in {info.file} has the shape {list(info.shape)}; config.json asks for {list(shape)}."
                )
            if info.dtype not in ITEMSIZE:
                raise CheckpointError(
                    f"{info.key} in {info.file} is stored as {info.dtype}; give the {', '.join(ITEMSIZE)} checkpoint."
                )
        for name, info in self.tensors.items():
            if name not in expected:
                raise CheckpointError(
                    f"{info.file} has an unexpected tensor {info.key}; "
                    "if it is an adapter's, merge the adapter before saving the model."
                )

    def _notes(self) -> Iterator[str]:
        if self.head == HEAD and self.config.tie_word_embeddings:
            yield "config.json says the head is tied to the embedding, but lm_head.weight is in the file and is used."
        if self.skipped:
            yield f"{len(self.skipped)} vision and multi-token-prediction tensors are skipped."


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes of the text model's tensors, without the head, in the order of the forward."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    v_heads = config.linear_num_value_heads
    linear_attention: dict[str, tuple[int, ...]] = {
        "linear_attn.in_proj_qkv.weight": (config.conv_dim, hidden),
        "linear_attn.in_proj_z.weight": (config.value_dim, hidden),
        "linear_attn.in_proj_b.weight": (v_heads, hidden),
        "linear_attn.in_proj_a.weight": (v_heads, hidden),
        "linear_attn.conv1d.weight": (config.conv_dim, 1, config.linear_conv_kernel_dim),
        "linear_attn.A_log": (v_heads,),
        "linear_attn.dt_bias": (v_heads,),
        "linear_attn.norm.weight": (config.linear_value_head_dim,),
        "linear_attn.out_proj.weight": (hidden, config.value_dim),
    }
    full_attention: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (2 * config.num_attention_heads * head, hidden),  # query and output gate
        "self_attn.k_proj.weight": (config.num_key_value_heads * head, hidden),
        "self_attn.v_proj.weight": (config.num_key_value_heads * head, hidden),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "self_attn.o_proj.weight": (hidden, config.num_attention_heads * head),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for index, kind in enumerate(config.layer_types):
        layer = {
            "input_layernorm.weight": (hidden,),
            **(linear_attention if kind == "linear_attention" else full_attention),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        shapes.update({f"layers.{index}.{name}": shape for name, shape in layer.items()})
    shapes["norm.weight"] = (hidden,)
    return shapes


def resolve(model: str | Path) -> Path:
    """The local folder of a model: itself, or the downloaded snapshot of a hub id."""
    path = Path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; give the folder that holds config.json and the safetensors files.")
    if not _HUB_ID.fullmatch(str(model)):
        raise CheckpointError(f"{model} is neither a folder nor a hub id such as owner/name.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model), allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:  # the hub client raises a family of its own, network errors and OSError
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{model} is no local folder and could not be fetched from the hub: {reason}") from None


def _weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The safetensors files of a folder, each with the keys that the index promises, or None without an index."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files: dict[Path, set[str] | None] = {folder / name: set() for name in sorted(set(weight_map.values()))}
            for key, name in weight_map.items():
                files[folder / name].add(key)  # type: ignore[union-attr]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is damaged ({error}); download it again.") from None
        return files
    if (folder / "model.safetensors").exists():
        return {folder / "model.safetensors": None}
    other = next((p.name for p in sorted(folder.glob("*")) if p.suffix in (".bin", ".pt", ".pth", ".gguf")), None)
    hint = f"; {other} is not read: save the model as safetensors." if other else "; save or download the model again."
    raise CheckpointError(f"{folder} has no model.safetensors{hint}")


def rows(info: TensorInfo, ids: Sequence[int]) -> Tensor:
    """Rows ``ids`` of a stored matrix; no other row is read."""
    with opened(info.file) as file:
        part = file.get_slice(info.key)
        return torch.cat([part[row : row + 1] for row in ids])


def headers(files: Mapping[Path, set[str] | None]) -> dict[str, TensorInfo]:
    """What safetensors files hold, by key; ``files`` maps each to the keys promised to be in it, if any are."""
    found: dict[str, TensorInfo] = {}
    for path, promised in files.items():
        with opened(path) as file:
            keys = set(file.keys())
            missing = sorted((promised or set()) - keys)
            if missing:
                raise CheckpointError(f"{path} lacks {missing[0]}, which the index promises; download the shard again.")
            for key in sorted(keys):
                part = file.get_slice(key)
                if key in found:
                    raise CheckpointError(
                        f"{key} is in {found[key].file} and in {path}; remove the shard that is not in use."
                    )
                found[key] = TensorInfo(path, key, tuple(part.get_shape()), part.get_dtype())
    return found


@contextmanager
def opened(path: Path) -> Iterator[safe_open]:
    """A safetensors file, closed afterwards; what is wrong with it becomes a CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist, though the index names it; download the shard again.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); download it again.") from None
