"""In a real control group with half a core and 2 GB: one thread, a refusal, and no process that is killed."""

import json
import os
import subprocess
import sys

import pytest

from slant.control_groups import ROOT

TOP = ROOT / "sys/fs/cgroup"
MEMORY, CPU = 2_000_000_000, 50_000  # bytes; microseconds of 100,000

pytestmark = pytest.mark.slow

CHILD = """
import json, shutil, sys
from pathlib import Path
import torch
import published
from slant import Engine
from slant.demo import FOLDER
from slant.errors import SlantError
from slant.model.registry import parse_config

def model(folder, config):
    # All weights are zero: a file of holes, which takes no disk.
    folder.mkdir()
    for name in ("tokenizer.json", "slant.json"):
        if (FOLDER / name).exists():
            shutil.copy(FOLDER / name, folder)
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in parse_config(config).shapes().items():
        size = 2 * torch.Size(shape).numel()
        header["model." + name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder

def load(folder):
    try:
        return Engine.load(folder, device="cpu", max_tokens=1024), None
    except SlantError as error:
        return None, str(error)

home = Path(sys.argv[1])
_, refused = load(model(home / "4b", published.LARGE))
layers, engine = 25, None
while engine is None:  # the largest that is not refused
    layers -= 1
    engine, _ = load(model(home / str(layers), published.SMALL | {"num_hidden_layers": layers}))
score = engine.score("word " * 2000)
several = engine.score(["word " * 100] * 30)
print(json.dumps({
    "refused": refused, "threads": engine._thread._threads, "layers": layers, "tokens": score.tokens,
    "tier": engine.tier.name, "budget": engine.tier.token_budget, "good": sum(each.error is None for each in several),
}))
"""


@pytest.fixture
def group():
    """The files that a process writes its number to, to be in the group."""
    name = f"slant-test-{os.getpid()}"
    if (TOP / "cgroup.controllers").exists():
        limits = {TOP / name: {"memory.max": MEMORY, "cpu.max": f"{CPU} 100000"}}
    else:
        limits = {
            TOP / "memory" / name: {"memory.limit_in_bytes": MEMORY},
            TOP / "cpu" / name: {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": CPU},
        }
    made = []
    try:
        for folder, files in limits.items():
            folder.mkdir()
            made.append(folder)
            for file, value in files.items():
                (folder / file).write_text(str(value))
        yield [folder / "cgroup.procs" for folder in limits]
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    finally:
        for folder in made:
            folder.rmdir()


def test_half_a_core_and_2_gb(group, tmp_path):
    """As in huggingface/text-embeddings-inference#405, ollama/ollama#17916 and vllm-project/vllm#47372."""
    enter = "".join(f"echo $$ > {path}; " for path in group) + 'exec "$@"'
    command = ["sh", "-ec", enter, "sh", sys.executable, "-c", CHILD, str(tmp_path)]
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"code {done.returncode}; -9 is a kill: {done.stderr[-1000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["threads"] == 1
    assert f"the control group ({group[0].parent}/memory." in found["refused"]
    assert found["layers"] >= 4, "a model that takes a third of the memory is not refused"
    assert (found["tokens"], found["good"]) == (1024, 30)
