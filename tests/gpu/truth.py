"""What transformers answers for the demo passages on a CPU, where kernels for GPUs must not be in its way.

With one of these packages installed it runs this model on a GPU only, so a process of its own goes without them.
"""

import importlib.util
import json
import subprocess
import sys
from functools import cache

import numpy as np

from slant.demo import FOLDER, passages

FOR_GPUS = ("fla", "causal_conv1d")
TEXTS = [passage["text"] for passage in passages()]


@cache
def logits(weights):
    """fp32 ``[passages, 5]``; weights "fp32" or "bf16"."""
    if not any(map(importlib.util.find_spec, FOR_GPUS)):
        return _logits(weights)
    run = subprocess.run([sys.executable, __file__, weights], capture_output=True, text=True, check=True)
    return np.array(json.loads(run.stdout.splitlines()[-1]), dtype=np.float32)


def _logits(weights):
    from slant.evaluation.reference import Reference

    return Reference.load(FOLDER, weights=weights).score(TEXTS, batch_size=4).logits


if __name__ == "__main__":
    sys.modules |= dict.fromkeys(FOR_GPUS)  # None: not to be found, nor imported
    print(json.dumps(_logits(sys.argv[1]).tolist()))
