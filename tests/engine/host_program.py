"""Scores under settings of the program around the engine: run as a process, because a fault may be heap corruption.

Each argument names a setting; for each a line of JSON: {setting: {stage and weights: digest of the scores, or error}}.
"""

import json
import sys
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial
from hashlib import sha256

import torch
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from slant import Engine
from slant.demo import FOLDER

TEXTS = ["Rain.", "x " * 150, "The bridge will be repaired. " * 9, "Ñandú 🙂"]


class Functions(TorchFunctionMode):
    """Sees every function of torch and changes none."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    """Sees every operation of torch and changes none."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def setting(switch, value, usual):
    @contextmanager
    def within():
        switch(value)
        try:
            yield
        finally:
            switch(usual)

    return within


@contextmanager
def threads():
    """Another number, but not where the engine is loaded."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


SETTINGS = {
    "none": nullcontext,
    "default dtype bfloat16": setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default dtype float16": setting(torch.set_default_dtype, torch.float16, torch.float32),
    "default dtype float64": setting(torch.set_default_dtype, torch.float64, torch.float32),
    "default device meta": setting(torch.set_default_device, "meta", None),
    "default device cuda": setting(torch.set_default_device, "cuda", None),
    "within device meta": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "autocast bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "function mode": Functions,
    "dispatch mode": Dispatches,
    "deterministic algorithms": setting(torch.use_deterministic_algorithms, True, False),
}
# Of the whole process; they choose how fp32 matrices are multiplied, and how one query attends.
ARITHMETIC = {
    "matrices in bfloat16": setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "matrices in tf32": setting(torch.set_float32_matmul_precision, "high", "highest"),
    "oneDNN in bfloat16": setting(partial(setattr, torch.backends.mkldnn.matmul, "fp32_precision"), "bf16", "none"),
    "all in tf32": setting(partial(setattr, torch.backends, "fp32_precision"), "tf32", "none"),
    "oneDNN off": lambda: torch.backends.mkldnn.flags(enabled=False),
    "no flash attention": lambda: sdpa_kernel(SDPBackend.MATH),
    "denormals flushed": setting(torch.set_flush_denormal, True, False),
    "default tensor type": setting(torch.set_default_tensor_type, torch.DoubleTensor, torch.FloatTensor),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "fake tensors": FakeTensorMode,
    "CPU threads": threads,
}
SETTINGS |= ARITHMETIC
WAYS = {
    "fp32": {"weights": "fp32"},
    "bf16": {"weights": "bf16"},
    "int8": {"weights": "int8"},
    "w4a8": {"weights": "w4a8", "max_tokens": 512},
    "hqq4, merged": {"weights": "hqq4", "memory": "12MB", "max_tokens": 512},
    "offloaded": {"weights": "bf16"},
}


def load(way):
    open_engine = Engine.offloaded if way == "offloaded" else Engine.load
    return open_engine(FOLDER, device="cpu", **WAYS[way])


def digest(engine):
    scores = engine.score(TEXTS)
    engine.warmup()
    return sha256(scores.logits.tobytes() + scores.probabilities.tobytes()).hexdigest()


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(names):
    warnings.simplefilter("ignore")
    usual = {way: load(way) for way in WAYS}
    for name in names:
        found = {}
        for way in ("fp32", "offloaded") if name in ARITHMETIC else WAYS:
            with SETTINGS[name]():
                found[f"score: {way}"] = attempt(digest, usual[way])
                torch.set_num_threads(1)
                engine = attempt(load, way)
                found[f"load and score: {way}"] = engine if isinstance(engine, str) else attempt(digest, engine)
        print(json.dumps({name: found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
