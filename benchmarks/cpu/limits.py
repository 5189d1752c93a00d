"""What the processor can do at best, by ``slant.bench.roofline``: what the suite's figures are held against."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from cpu.workload import weight_bytes
from slant.bench import roofline
from slant.bench.turns import Watch, calls, take_turns
from slant.runtime.runner import Runner

TOKENS = 1024  # of a full batch


@dataclass(frozen=True)
class Limits:
    """The best rates found; ``flops_by`` and ``bytes_by`` say of what."""

    flops_per_s: float
    bytes_per_s: float
    flops_by: str
    bytes_by: str

    def seconds(self, flops: float, size: float) -> float:
        """The least time for so many FLOPs and bytes, which a processor does at once."""
        return max(flops / self.flops_per_s, size / self.bytes_per_s)


def measure(runner: Runner, seconds: float = 0.5) -> Limits:
    """Both limits, in turn, with about so many seconds for each way to multiply and to read."""
    config, dtype, device = runner.model.config, runner.model.dtype, runner.device
    ways, watch = roofline.ways(dtype, device, eight_bit=None), Watch(device)
    products = roofline.Products(config, dtype, device, ways)
    runs = {("flops", way): (products.run(way, TOKENS), products.flops(TOKENS)) for way in ways}
    runs |= {("bytes", way): run for way, run in roofline.reads(math.ceil(weight_bytes(runner)), device).items()}
    repeated = {key: roofline.repeated(run, watch) for key, (run, _) in runs.items()}
    planned = {key: calls(first, seconds) for key, (_, _, first) in repeated.items()}
    contenders = {key: run for key, (run, _, _) in repeated.items()}
    samples = take_turns(contenders, planned, dict.fromkeys(planned, seconds), watch)
    rates = {key: times * runs[key][1] / median(samples[key]) for key, (_, times, _) in repeated.items()}
    (flops_by, flops), (bytes_by, size) = (roofline.best(rates, kind) for kind in ("flops", "bytes"))
    return Limits(flops, size, flops_by, bytes_by)
