"""Each test of an op runs twice: on the torch path, and on the Triton path with outputs poisoned.

What is compiled from C++ has widths of its own, and its own tests in ``test_native``.
"""

import pytest
import torch

from slant_kernels import native


@pytest.fixture(autouse=True, params=["torch", "triton"])
def path(request, monkeypatch, two_threads):
    monkeypatch.setattr(native, "levels", lambda: ())
    if request.param == "triton":
        request.getfixturevalue("triton_path")
        request.getfixturevalue("poison")
    return request.param


@pytest.fixture
def poison(monkeypatch):
    """Memory that nobody wrote is NaN."""
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))


def poisoned(allocate):
    """Memory that nobody wrote is NaN, or the greatest integer, so that a result shows where it was not written."""

    def filled(*args, **kwargs):
        out = allocate(*args, **kwargs)
        return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).max)

    return filled
