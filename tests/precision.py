"""The precision of tests that any will do for: bf16, or fp32 on a CPU that would emulate bf16, six times slower."""

import pytest
import torch

from slant_kernels.cpu import multiplies_bf16

DTYPE, WEIGHTS = (torch.bfloat16, "bf16") if multiplies_bf16() else (torch.float32, "fp32")
OTHER = torch.float32 if multiplies_bf16() else torch.bfloat16
DTYPES = [DTYPE, pytest.param(OTHER, marks=pytest.mark.slow)]
BF16 = pytest.param("bf16", marks=[] if multiplies_bf16() else [pytest.mark.slow])
NATIVE_BF16 = pytest.mark.skipif(not multiplies_bf16(), reason="an engine computes in fp32 on this processor")
