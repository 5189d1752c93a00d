"""What the engine asks of any architecture's configuration: its sizes, its tensors, and what they cost.

A family of models is a subclass in a folder of its own, chosen by ``slant.model.registry``. Nothing outside that folder
knows which family it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from slant.artifact.recipe import Grid, Recipe

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelConfig(ABC):
    """Shape of a text model; names are those of ``config.json``, sizes in elements.

    ``layer_types`` names the mixer of each block. The class attributes describe the family's checkpoints: a pattern of
    the names that are ``skipped``, as ``slant.model.names`` has them; the matrices of a block that are ``quantizable``,
    those of them that are ``sensitive`` and get 8 bits whatever the others get, and the small ones that
    the weights int8 and fp8 leave in the model's dtype. ``network_prefix`` gives, by name in ``architectures``, the
    module of transformers' class that holds the blocks; ``model_types`` are the names that ``model_type`` may have.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    layer_types: tuple[str, ...]

    skipped: ClassVar[str]
    quantizable: ClassVar[tuple[str, ...]]
    sensitive: ClassVar[tuple[str, ...]]
    not_in_8_bits: ClassVar[tuple[str, ...]]
    network_prefix: ClassVar[Mapping[str, str]]
    model_types: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def parse(cls, raw: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
        """The configuration from the decoded JSON; ``source`` names the file in errors.

        Raises CheckpointError if it describes a model that is not computed here.
        """

    @abstractmethod
    def shapes(self) -> Shapes:
        """Canonical names and shapes of the tensors without the head, in the order of the forward."""

    @abstractmethod
    def description(self) -> dict[str, str]:
        """The family's own sizes in words, for ``slant inspect``."""

    @abstractmethod
    def rotary(self, max_tokens: int) -> tuple[Tensor, Tensor]:
        """fp32 cos and sin of the positions 0 to ``max_tokens`` - 1, on the CPU."""

    @abstractmethod
    def flops(self) -> tuple[float, float]:
        """a and b of a row of T tokens, which takes ``a T + b T T`` FLOPs."""

    @abstractmethod
    def prefix_bytes(self, itemsize: int, tokens: int) -> int:
        """Bytes of the state that the prompt's prefix of ``tokens`` leaves."""

    @abstractmethod
    def merged_shapes(self) -> set[tuple[int, int]]:
        """(N, K) of the matrices that a model multiplies by, each of them projections of one input stacked by rows."""

    @abstractmethod
    def text_network(self, config: Any) -> Any:
        """transformers' model of the blocks, with its own ``config`` object, for training."""

    def recipe(self, bits: int, group_size: int = 64) -> Recipe:
        """``bits`` for every quantizable matrix but the sensitive ones, which get 8."""
        return Recipe({role: Grid(8 if role in self.sensitive else bits, group_size) for role in self.quantizable})

    def layer_shapes(self, index: int) -> Shapes:
        """The part of ``shapes`` that is block ``index``."""
        return {name: shape for name, shape in self.shapes().items() if name.startswith(f"layers.{index}.")}

    def is_8_bit(self, name: str) -> bool:
        """Whether the weights int8 and fp8 have the matrix of this canonical name in 8 bits."""
        return not name.endswith(self.not_in_8_bits)
