"""What slant may not change in the program around it, whether that had it as usual or otherwise."""

import pytest

import child

LEFT_ALONE = """
import csv, decimal, gc, json, locale, logging, os, random, signal, socket, sys, threading, warnings
import numpy as np
import torch

def state():
    return {
        "torch's dtype": str(torch.get_default_dtype()),
        "torch's device": str(torch.get_default_device()),
        "torch's threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch's modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "torch's precision": (torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision),
        "torch's switches": (
            torch.are_deterministic_algorithms_enabled(), torch.backends.mkldnn.enabled, torch.is_anomaly_enabled(),
            torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled(),
        ),
        "torch's random numbers": torch.get_rng_state().tolist()[:100],
        "numpy's random numbers": np.random.get_state()[1].tolist()[:100],
        "numpy's errors": np.geterr(),
        "random numbers": random.getstate()[1][:100],
        "warnings": list(map(str, warnings.filters)),
        "logging": (logging.root.level, len(logging.root.handlers), logging.root.manager.disable),
        "signals": {str(s): str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)},
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": dict(os.environ),
        "csv": csv.field_size_limit(),
        "interpreter": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()),
        "hooks": (str(sys.excepthook), str(sys.unraisablehook), str(threading.excepthook), str(sys.displayhook)),
        "files": (os.getcwd(), os.umask(os.umask(0)), socket.getdefaulttimeout(), list(sys.path)),
        "decimal": str(decimal.getcontext()),
        "streams": (sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering, sys.stderr.errors),
    }

if sys.argv[1] == "changed":
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_flash_sdp(False)
    torch.manual_seed(5)
    warnings.simplefilter("error")
    csv.field_size_limit(1000)
    sys.setrecursionlimit(5000)
before = state()
from slant import Engine
from slant.demo import FOLDER
from slant.tables.bulk import score_table
engine = Engine.load(FOLDER, device="cpu")
engine.warmup()
engine.score(["Rain.", None, "x " * 9000])
list(engine.stream(["Rain."] * 5, overlap=True))
open("in.csv", "w").write("text\\n" + "x" * 200000 + "\\n")
assert score_table(engine, "in.csv", "out.jsonl").errors == 0
after = state()
print(json.dumps({name: [before[name], after[name]] for name in before if before[name] != after[name]}))
"""


@pytest.mark.parametrize("settings", ["usual", "changed"])
def test_the_program_finds_everything_as_it_left_it(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert child.python("-c", LEFT_ALONE, settings).stdout == "{}\n"
