"""The digit head at awkward shapes, against the fp32 reference."""

import pytest
import torch
from ops import EPS, randn

from slant_kernels import digit_head


@pytest.mark.parametrize("labels", [2, 5, 16])
def test_digit_head(labels):
    hidden, weight, rows = randn(7, 33) * 4, randn(33, seed=1), randn(labels, 33, seed=2)
    out, reference = (f(hidden, weight, rows, EPS) for f in (digit_head.digit_head, digit_head.digit_head_reference))
    for name in ("logits", "probabilities", "expected"):
        torch.testing.assert_close(getattr(out, name), getattr(reference, name), atol=3e-5, rtol=3e-5)
    assert torch.equal(out.label, reference.label)
    torch.testing.assert_close(out.probabilities.sum(-1), torch.ones(7))
