"""The model that is measured: its timed loading, and the first call of each workload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from slant.bench import machine
from slant.bench.report import Load, Memory
from slant.bench.roofline import Executed, text_flops
from slant.bench.texts import Workload
from slant.bench.turns import Watch
from slant.engine import Engine
from slant.errors import SlantError
from slant.model.config import ModelConfig
from slant.model.registry import activation_bytes
from slant.options import LoadOptions
from slant.prompt.prompt import EncodedText
from slant.runtime.execution import Answers
from slant.runtime.memory import Tier, layer_bytes
from slant.runtime.resolved import choose_device


@dataclass(frozen=True)
class First:
    """A workload's first call: tokens of its prompts, its batches, and the seconds of its two steps."""

    tokens: int
    batches: tuple[Executed, ...]
    encode: float
    run: float

    @property
    def seconds(self) -> float:
        return self.encode + self.run

    @property
    def mean_tokens(self) -> int:
        """Computed tokens of the mean batch."""
        return round(sum(batch.computed for batch in self.batches) / len(self.batches))


@dataclass(frozen=True)
class Subject:
    """A loaded engine, and what the limits and the predicted memory follow from.

    ``weight_bytes`` are read by every batch. ``before``, ``after``, ``loading``: bytes as in ``Memory``, the last one
    in all.
    """

    engine: Engine
    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    tier: Tier
    weight_bytes: int
    load: Load
    before: int | None
    after: int | None
    loading: int | None

    @classmethod
    def loaded(
        cls,
        folder: Path,
        options: LoadOptions,
        *,
        imports: float,
        progress: Callable[[int, int], None],
        now: Callable[[], float],
    ) -> Subject:
        """Load and warm up; ``now`` gives seconds."""
        where, before = choose_device(options.device), machine.resident()
        start = done_with_blocks = now()

        def loading(done: int, total: int) -> None:
            nonlocal done_with_blocks
            done_with_blocks = now()
            progress(done, total)

        engine = Engine.load(folder, options, progress=loading)
        loaded = now()
        after, most = machine.resident(), machine.peak(where)
        warmup = Watch(where, now)(engine.warmup)
        load = Load(imports, done_with_blocks - start, loaded - done_with_blocks, warmup)

        request, tier = engine.request, engine.tier
        assert request is not None
        assert tier is not None
        layers = range(request.config.num_hidden_layers)
        size = sum(layer_bytes(request, index, quantized=tier.quantized) for index in layers)
        return cls(engine, request.config, request.dtype, where, tier, size, load, before, after, most)

    def first(self, workload: Workload, watch: Watch) -> First:
        """Call a workload for the first time; raises SlantError for a text that cannot be scored."""
        encoded: list[EncodedText] = []
        results: list[Answers] = []
        encode = watch(lambda: encoded.extend(self.engine.prompt.encode(workload.texts)))
        error = next((text.error for text in encoded if text.error is not None), None)
        if error is not None:
            raise SlantError(f"{workload.name}: {error}")
        run = watch(lambda: results.extend(self.engine.runner.run([text.ids for text in encoded])))
        prefix = self.engine.prompt.prefix_ids
        # As in the engine, a text that does not start with the prefix is computed whole.
        starts = [len(prefix) if tuple(text.ids[: len(prefix)]) == prefix else 0 for text in encoded]
        batches = []
        for result in results:
            own = [(len(encoded[row].ids) - starts[row], starts[row]) for row in result.rows]
            flops = sum(text_flops(self.config, length, start) for length, start in own)
            batches.append(Executed(len(own), result.computed_tokens, sum(length for length, _ in own), flops))
        return First(sum(len(text.ids) for text in encoded), tuple(batches), encode, run)

    def memory(self, batches: Sequence[Executed]) -> Memory:
        """Memory used so far, beside the prediction for the batches that were run."""
        shapes = {(batch.rows, batch.computed // batch.rows) for batch in batches}
        most = max(activation_bytes(self.config, self.dtype.itemsize, *shape, self.device.type) for shape in shapes)
        predicted = self.tier.weights + self.tier.prefix + most
        working = machine.peak(self.device)
        return Memory(self.before, self.after, self._own(self.loading), self._own(working), predicted)

    def _own(self, held: int | None) -> int | None:
        """The model's bytes: on a CPU those beyond what was held before loading."""
        return held if held is None or self.device.type == "cuda" else held - (self.before or 0)
