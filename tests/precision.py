"""The precision in which tests compute where any will do: bf16, or fp32 on a CPU that emulates bf16, six times slower."""

import torch

from slant_kernels.cpu import multiplies_bf16

DTYPE, WEIGHTS = (torch.bfloat16, "bf16") if multiplies_bf16() else (torch.float32, "fp32")
