"""weights="int8": what is in 8 bits, what memory it takes, how near it stays, where it is refused."""

import numpy as np
import pytest
import torch

from peak import PeakBytes
from slant import Engine
from slant.demo import FOLDER, passages
from slant.errors import SlantError
from slant.model.qwen3_5.blocks import Attention
from slant.options import LoadOptions
from slant.runtime.classifier import Classifier
from slant.runtime.load import load_runner
from slant.runtime.memory import tiers
from slant.runtime.resolved import choose_dtype
from slant_kernels import cpu
from slant_kernels.int8 import Int8Matrix, can_multiply_int8

CPU = torch.device("cpu")
needs_vnni = pytest.mark.skipif(not can_multiply_int8(CPU), reason="this CPU has no VNNI")
TEXTS = [passage["text"] for passage in passages()]


@needs_vnni
def test_all_matrices_but_those_of_the_gates_are_in_8_bits():
    for block in Engine.load(FOLDER, weights="int8").runner.model.blocks:
        inputs = block.mixer.in_kvq if isinstance(block.mixer, Attention) else (block.mixer.in_qkvz,)
        assert all(isinstance(matrix, Int8Matrix) for matrix in (*inputs, block.mixer.out, block.gate_up, block.down))
        assert isinstance(block.mixer, Attention) or not isinstance(block.mixer.in_ab, Int8Matrix)


@needs_vnni
def test_the_weights_are_as_large_as_predicted():
    made = Classifier.open(FOLDER, LoadOptions(weights="int8", max_tokens=512))
    (tier,) = tiers(made.memory_request())
    with PeakBytes() as peak:
        runner = load_runner(made, tier, positions=512)
        held = peak.live
    assert 0.95 * held <= tier.weights + tier.prefix <= 1.05 * held
    assert runner.model.dtype == made.options.dtype


@needs_vnni
def test_probabilities_stay_near_and_are_not_the_same():
    eight, full = (Engine.load(FOLDER, weights=weights).score(TEXTS) for weights in ("int8", "fp32"))
    change = np.abs(eight.probabilities - full.probabilities).max(axis=1)
    assert 1e-4 < change.max() < 0.05
    assert (eight.label != full.label).sum() <= 2


@needs_vnni
def test_offloaded_gives_the_same_bits():
    resident, offloaded = Engine.load(FOLDER, weights="int8"), Engine.offloaded(FOLDER, weights="int8")
    assert np.array_equal(resident.score(TEXTS[:9]).logits, offloaded.score(TEXTS[:9]).logits)


def test_a_gpu_and_a_cpu_without_vnni_are_refused(monkeypatch):
    with pytest.raises(SlantError, match="need a CPU with VNNI, and this is cuda; use hqq8"):
        choose_dtype("int8", torch.device("cuda"))
    monkeypatch.setattr(cpu, "instruction_set", lambda: "avx512")
    with pytest.raises(SlantError, match="VNNI"):
        choose_dtype("int8", CPU)
