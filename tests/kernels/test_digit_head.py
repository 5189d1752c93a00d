"""The digit head at awkward shapes, against the fp32 reference."""

import pytest
import torch
from ops import EPS, randn

from slant_kernels import digit_head


def assert_digits(out, reference):
    for name in ("logits", "probabilities", "expected"):
        torch.testing.assert_close(getattr(out, name), getattr(reference, name), atol=3e-5, rtol=3e-5)
    assert torch.equal(out.label, reference.label)
    assert out.label.dtype == torch.int64
    torch.testing.assert_close(out.probabilities.sum(-1), torch.ones(len(out.label)))


def assert_digit_head(B, D, labels, scale=4):
    weight, rows = randn(D, seed=1), randn(labels, D, seed=2) / (D / 33) ** 0.5
    for dtype in (torch.float32, torch.bfloat16):
        hidden = randn(B, D, dtype=dtype) * scale
        out, reference = (
            f(hidden, weight, rows, EPS) for f in (digit_head.digit_head, digit_head.digit_head_reference)
        )
        assert_digits(out, reference)


@pytest.mark.parametrize("labels", [2, 3, 5, 10, 16])
def test_digit_head(labels):
    assert_digit_head(7, 33, labels)


@pytest.mark.parametrize("D", [1, 255, 256, 257, 2560])
def test_digit_head_of_the_real_and_odd_widths(D):
    assert_digit_head(2, D, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_digit_head_adds_the_residual_as_a_separate_addition_would(dtype):
    """Bit for bit: the sum is rounded to the model's dtype before the norm."""
    hidden, residual = randn(5, 300, dtype=dtype), randn(5, 300, dtype=dtype, seed=3) * 30
    weight, rows = randn(300, seed=1), randn(6, 300, seed=2)
    out = digit_head.digit_head(hidden, weight, rows, EPS, residual)
    assert all(map(torch.equal, out, digit_head.digit_head(residual + hidden, weight, rows, EPS)))


def test_the_first_of_equal_maxima_is_the_label():
    hidden, weight, rows = randn(3, 33).abs(), randn(33, seed=1).abs(), torch.zeros(6, 33)
    rows[:, 7] = torch.tensor([-1.0, 1.0, 2.0, 1.0, 2.0, 2.0])  # one product a row, so that ties are exact
    assert digit_head.digit_head(hidden, weight, rows, EPS).label.eq(2).all()
    out = digit_head.digit_head(hidden, weight, torch.zeros(5, 33), EPS)
    assert out.label.eq(0).all()
    torch.testing.assert_close(out.expected, torch.full((3,), 2.0))


def test_digit_head_of_strided_hidden_states():
    hidden, weight, rows = randn(3, 2, 40)[:, 0], randn(40, seed=1), randn(4, 40, seed=2)
    assert_digits(
        digit_head.digit_head(hidden, weight, rows, EPS), digit_head.digit_head_reference(hidden, weight, rows, EPS)
    )


def test_steep_logits_leave_certainty():
    hidden, weight, rows = randn(3, 33), randn(33, seed=1), randn(5, 33, seed=2) * 300
    out = digit_head.digit_head(hidden, weight, rows, EPS)
    assert torch.equal(out.probabilities.amax(-1), torch.ones(3))
    assert torch.equal(out.expected, out.label.float())
