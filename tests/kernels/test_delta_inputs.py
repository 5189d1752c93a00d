"""Convolution, split, norms and gates at awkward shapes, against the fp32 reference."""

import pytest
from ops import LENGTHS, assert_fp32, randn

from slant_kernels import delta_inputs


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("T", LENGTHS)
def test_delta_inputs(T, initial):
    H, Hv, K, V = 2, 4, 8, 12
    C = 2 * H * K + Hv * V
    args = randn(2, T, C), randn(2, T, Hv, seed=1), randn(2, T, Hv, seed=2), randn(4, C, seed=3)
    rest = randn(Hv, seed=4), randn(Hv, seed=5), H, K, randn(1, 3, C, seed=6) if initial else None
    for out, reference in zip(
        delta_inputs.delta_inputs(*args, *rest), delta_inputs.delta_inputs_reference(*args, *rest), strict=True
    ):
        assert_fp32(out, reference)
