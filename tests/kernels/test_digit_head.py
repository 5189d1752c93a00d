"""The digit head at awkward shapes, against the fp32 reference."""

import pytest
import torch
from ops import EPS, randn

from slant_kernels.digit_head import digit_head, digit_head_reference


def assert_near_reference(*arguments):
    out, reference = digit_head(*arguments, EPS), digit_head_reference(*arguments, EPS)
    for found, expected in zip(out, reference, strict=True):
        torch.testing.assert_close(found, expected, atol=3e-5, rtol=3e-5)
    torch.testing.assert_close(out[1].sum(-1), torch.ones(len(out[1])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("B", "D", "labels"),
    [(7, 33, 2), (7, 33, 3), (7, 33, 5), (7, 33, 10), (7, 33, 16)] + [(2, D, 10) for D in (1, 255, 256, 257, 2560)],
)
def test_digit_head(B, D, labels, dtype):
    weight, rows = randn(D, seed=1), randn(labels, D, seed=2) / (D / 33) ** 0.5
    assert_near_reference(randn(B, D, dtype=dtype) * 4, weight, rows)


def test_digit_head_of_strided_hidden_states():
    assert_near_reference(randn(3, 2, 40)[:, 0], randn(40, seed=1), randn(4, 40, seed=2))


def test_equal_rows_are_equally_likely():
    _, p = digit_head(randn(3, 33), randn(33, seed=1), randn(1, 33, seed=2).repeat(5, 1), EPS)
    torch.testing.assert_close(p, torch.full((3, 5), 0.2))


def test_steep_logits_leave_certainty():
    _, p = digit_head(randn(3, 33), randn(33, seed=1), randn(5, 33, seed=2) * 300, EPS)
    assert torch.equal(p.amax(-1), torch.ones(3))
