"""What the tests of ops share: seeded inputs on the default device, and the two tolerances.

fp32 may differ by rounding; in bf16 an op may err twice as much as the reference formula in bf16 by torch does.
"""

import torch

EPS = 1e-6
LENGTHS = (1, 2, 3, 63, 64, 65, 127, 200)


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), device="cpu").to(
        torch.get_default_device(), dtype
    )


def assert_fp32(out, reference):
    torch.testing.assert_close(out, reference, atol=2e-5, rtol=2e-5)


def assert_bf16(out, reference, rounded):
    """|out - reference| <= 2 |rounded - reference| + 1e-6 at the worst; ``rounded`` is the best bf16 could do."""
    assert out.dtype == torch.bfloat16
    bound = 2 * (rounded.float() - reference).abs().max() + 1e-6
    assert (out.float() - reference).abs().max() <= bound
