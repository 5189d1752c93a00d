"""What a quantization does to a model's answers for calibration texts, and what it takes in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slant.artifact.recipe import Grid, Recipe, role_of
from slant.errors import CheckpointError, SlantError
from slant.model.checkpoint import Checkpoint
from slant.model.config import ModelConfig
from slant.model.network import Model
from slant.model.weights import Weights
from slant.options import LoadOptions
from slant.prompt.prompt import Prompt
from slant.quantize.knapsack import Option
from slant.quantize.replay import Exchange, Replay
from slant.runtime.classifier import Classifier
from slant.runtime.load import planner_of
from slant.runtime.resolved import DTYPES
from slant.runtime.runner import Runner
from slant.tensor_files import HEAD
from slant_kernels.quantized import nbytes


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The matrices ``names``, which get one grid together, and size and cost of each of the ``grids``."""

    names: tuple[str, ...]
    grids: tuple[Grid | None, ...]
    options: tuple[Option, ...]


def groups(config: ModelConfig, by: str = "tensor") -> list[tuple[str, ...]]:
    """The names of all matrices that a recipe can quantize, one by one or by the parts of a layer, mixer and MLP."""
    if by not in ("tensor", "part"):
        raise SlantError(f"there are no groups by {by!r}; use tensor or part.")
    found: dict[str, list[str]] = {}
    for name in config.shapes():
        if name.startswith("layers.") and role_of(name) in config.quantizable:
            found.setdefault(name if by == "tensor" else name.rsplit(".", 2)[0], []).append(name)
    return [tuple(names) for names in found.values()]


class Gauge:
    """Measures what a quantization does to a resident model's answers for calibration texts."""

    def __init__(self, checkpoint: Checkpoint, prompt: Prompt, runner: Runner, texts: Iterable[object]) -> None:
        """runner: of the unquantized checkpoint's model, whose matrices are exchanged in place from now on."""
        encoded = prompt.encode(list(texts))
        good = [text.ids for text in encoded if text.error is None]
        if not good:
            reason = next((text.error for text in encoded), "there are none.")
            raise SlantError(f"no calibration text can be scored: {reason}")
        self.checkpoint, self.prompt, self.runner = checkpoint, prompt, runner
        self.texts, self.skipped = len(good), len(encoded) - len(good)
        self.exchange, self.replay = Exchange(runner.model, checkpoint), Replay(runner, good)
        if not self.replay.reference.isfinite().all():
            raise CheckpointError("the model answers with NaN or infinity; check the checkpoint.")
        quantizable = {name for names in groups(checkpoint.config) for name in names}
        others = checkpoint.config.shapes().keys() - quantizable
        self.fixed_bytes = sum(checkpoint.tensors[name].nbytes for name in others)
        if checkpoint.head == HEAD:
            head = checkpoint.tensors[HEAD]
            self.fixed_bytes += head.nbytes // head.shape[0] * len(prompt.answer_ids)

    @classmethod
    def load(
        cls,
        model: str | Path,
        texts: Iterable[object],
        options: LoadOptions,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Gauge:
        """Load the model for it; arguments and errors are those of ``plan``."""
        if options.weights not in DTYPES:
            raise SlantError(f"the weights {options.weights!r} are no reference; use {' or '.join(DTYPES)}.")
        opened = Classifier.open(model, options)
        if not isinstance(opened.source, Checkpoint):
            raise CheckpointError(f"{model} is quantized already; give the checkpoint that it was made from.")
        resolved = opened.options
        network = Model(Weights(opened.source, resolved.dtype, resolved.device), resolved.max_tokens, progress)
        # Batches as an engine plans them: its figures are these to the last bit.
        runner = Runner(network, opened.head, opened.prompt.prefix_ids, planner_of(opened, resolved.token_budget))
        return cls(opened.source, opened.prompt, runner, texts)

    def least_bytes(self, groups: Sequence[tuple[str, ...]], grids: Sequence[Grid | None]) -> int:
        """What an artifact's tensors take at least, with the smallest grid for each group."""
        return self.fixed_bytes + sum(min(self._bytes(names, grid) for grid in grids) for names in groups)

    def measure(
        self,
        groups: Sequence[tuple[str, ...]],
        grids: Sequence[Grid | None],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Sensitivity]:
        """Size and cost of each grid for each group, all other matrices as they are in the checkpoint."""
        found = []
        for index, names in enumerate(groups):
            options = []
            self.exchange.reset()
            for step, grid in enumerate(grids):
                self.exchange.set(dict.fromkeys(names, grid))
                options.append(Option(self._bytes(names, grid), self._kl()))
                progress(index * len(grids) + step + 1, len(groups) * len(grids))
            found.append(Sensitivity(names, tuple(grids), tuple(options)))
        self.exchange.reset()
        return found

    def kl(self, recipe: Recipe) -> float:
        """The mean KL of the model quantized by the recipe."""
        names = [name for group in groups(self.checkpoint.config) for name in group]
        self.exchange.set({name: recipe.grid(name) for name in names})
        return self._kl()

    def _kl(self) -> float:
        return self.replay.kl(self.exchange.first)

    def _bytes(self, names: Iterable[str], grid: Grid | None) -> int:
        infos = [self.checkpoint.tensors[name] for name in names]
        if grid is None:
            return sum(info.nbytes for info in infos)
        return sum(nbytes((info.shape[0], info.shape[1]), grid.bits, grid.group_size) for info in infos)
