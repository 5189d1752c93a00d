"""Each test of an op runs twice: on the torch path, and on the Triton path with outputs poisoned."""

import pytest
import torch


@pytest.fixture(autouse=True, params=["torch", "triton"])
def path(request, monkeypatch):
    if request.param == "torch":
        return request.param
    request.getfixturevalue("triton_path")
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    return request.param


def poisoned(allocate):
    """Memory that nobody wrote is NaN, or the greatest integer, so that a result shows where it was not written."""

    def filled(*args, **kwargs):
        out = allocate(*args, **kwargs)
        return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).max)

    return filled
