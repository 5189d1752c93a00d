"""Kernels compiled ahead: all that batches can meet, found again by another process, and none besides."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext

import pytest
import torch

import child
import tiny
from slant.artifact.recipe import Grid, Recipe
from slant.cli import app as cli
from slant.demo import FOLDER
from slant.errors import SlantError
from slant.model.checkpoint import Checkpoint
from slant.model.hqq import QuantizedCheckpoint
from slant.model.network import Model
from slant.model.outline import META, Outline, reduced
from slant.model.qwen3_5.config import QUANTIZABLE
from slant.model.registry import parse_config
from slant.model.weights import Weights
from slant.runtime import kernel_cache
from slant.runtime.offloaded_blocks import tensors
from slant_kernels import launch
from slant_kernels.merged import Scratch

CPU = torch.device("cpu")
MIXED = {
    **{role: Grid(4, 32) for role in QUANTIZABLE},
    "linear_attn.out_proj.weight": None,
    "self_attn.k_proj.weight": Grid(8, 64),
    "layers.1.mlp.down_proj.weight": Grid(3, 32),
    "layers.2.mlp.down_proj.weight": Grid(3, 32),
}


def answer(script: str, *arguments: object, **environment: str):  # type: ignore[no-untyped-def]
    """What the script printed last, as JSON."""
    result = child.python("-c", script, *arguments, **environment)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("recipe", [None, Recipe(MIXED)], ids=["dense", "mixed"])
def test_an_outline_makes_the_model_of_a_checkpoint_without_its_values(tiny_checkpoint, recipe):
    checkpoint = Checkpoint.open(tiny_checkpoint("grouped"))
    source = QuantizedCheckpoint(checkpoint, recipe, CPU) if recipe else checkpoint
    scratches = [Scratch(torch.bfloat16, device) if recipe else None for device in (CPU, META)]
    model = Model(Weights(source, torch.bfloat16, CPU, scratches[0]), 64)
    outline = Model(Weights(Outline(source.config, recipe), torch.bfloat16, META, scratches[1]), 64)
    for block, other in zip(model.blocks, outline.blocks, strict=True):
        for tensor, shape in zip(tensors(block), tensors(other), strict=True):
            assert (tensor.shape, tensor.stride(), tensor.dtype) == (shape.shape, shape.stride(), shape.dtype)
            assert shape.is_meta
    assert outline.embedding.is_meta
    assert outline.embedding.shape == model.embedding.shape


def test_a_reduced_model_has_a_block_of_each_kind_and_the_last():
    config = parse_config(tiny.text_config("grouped").to_dict())
    assert reduced(config)[0].layer_types == ("linear_attention", "full_attention")
    # Of the three DeltaNets the first differs from the other two by its grids.
    small, recipe = reduced(config, Recipe(MIXED))
    assert small.layer_types == ("linear_attention", "linear_attention", "full_attention")
    downs = [recipe.grid(f"layers.{index}.mlp.down_proj.weight") for index in range(3)]
    assert downs == [Grid(4, 32), Grid(3, 32), Grid(4, 32)]
    assert recipe.grid("layers.2.self_attn.k_proj.weight") == Grid(8, 64)
    assert recipe.grid("layers.0.linear_attn.out_proj.weight") is None
    config = parse_config(tiny.text_config("one linear layer").to_dict())
    assert reduced(config)[0] == config


EVERY_SHAPE = """
import json, sys
import published, tiny, torch
from slant.artifact.recipe import Grid, Recipe
from slant.batching.buckets import bucket_lengths
from slant.batching.plan import MOST_ROWS
from slant.model.qwen3_5.config import QUANTIZABLE
from slant.model.registry import parse_config
from slant.runtime import warmup
from slant.runtime.memory import MemoryRequest
from slant_kernels.cross import compiling, rehearsing

target, real, max_tokens, token_budget, every = json.loads(sys.argv[1])
if real:
    config, recipe = published.large(), tiny.recipe("hqq4")
else:
    many_heads = {"linear_num_value_heads": 40, "num_hidden_layers": 4}
    config = parse_config(tiny.text_config("grouped").to_dict() | many_heads)
    recipe = Recipe({role: Grid(4, 32) for role in QUANTIZABLE if role != "self_attn.v_proj.weight"})
request = MemoryRequest(config, recipe, torch.bfloat16, "cuda", 5, 30, max_tokens, token_budget)
found, missed, shapes = {}, {}, 0
with compiling(target):
    outline = warmup._outline(request, True)
    for shape, names in warmup.rehearsed(outline, request):
        found |= dict.fromkeys(names, shape)
    for start in (0, 30):
        for length in bucket_lengths(max_tokens - start):
            most = max(1, min(token_budget // length, MOST_ROWS))
            for rows in range(most, 0, -every):
                with rehearsing() as names:
                    warmup.run(outline, warmup.Shape(rows, length, start))
                missed |= {name: (rows, length, start) for name in names if name not in found}
                shapes += 1
assert not missed, missed
print(json.dumps([shapes, [name.split()[0] for name in found]]))
"""


@pytest.mark.parametrize(
    ("target", "real", "max_tokens", "token_budget", "every"),
    [
        ("sm_86", False, 330, 1024, 5),
        pytest.param("sm_86", False, 330, 1024, 1, marks=pytest.mark.slow),
        # next to no lengths, many numbers of rows
        pytest.param("sm_86", False, 62, 1024, 1, marks=pytest.mark.slow),
        # on AMD's GPUs tensors of more than 2 GB are addressed otherwise
        pytest.param("gfx942", True, 2048, 65536, 500, marks=pytest.mark.slow),
        pytest.param("sm_86", True, 8192, 16384, 1, marks=pytest.mark.slow),
    ],
)
def test_no_shape_of_a_batch_launches_what_was_not_found(target, real, max_tokens, token_budget, every):
    """The thresholds that were looked for, against every shape there is, or many."""
    pytest.importorskip("triton")
    shapes, kernels = answer(EVERY_SHAPE, json.dumps([target, real, max_tokens, token_budget, every]))
    assert shapes >= 100
    assert {"_quantized_linear_kernel", "_dequantize_kernel"} <= set(kernels)
    if max_tokens > 256:
        assert "_merge_kernel" in kernels
    # Few and many rows, before and behind the prefix, and the prefix; there one setting serves few and many.
    assert kernels.count("_serial_kernel") == (5 if target == "sm_86" else 3)


COMPILE = "import sys; from slant.cli import app; sys.exit(app.run(['compile', *sys.argv[1:]]))"
LAUNCH = """
import json, sys
import torch
from triton.backends.nvidia.compiler import CUDABackend
from slant.demo import FOLDER
from slant.model.checkpoint import Checkpoint
from slant.model.network import Model
from slant.model.outline import META, Outline
from slant.model.weights import Weights
from slant.runtime import warmup
from slant.runtime.memory import MemoryRequest
from slant_kernels import swiglu
from slant_kernels.cross import KernelMissing, compiling, no_compilation

def refuse(*arguments):
    raise RuntimeError("compiled")

CUDABackend.add_stages = refuse
config = Checkpoint.open(FOLDER).config
model = Model(Weights(Outline(config), torch.bfloat16, META), 512)  # all its blocks
answers = torch.empty(config.hidden_size, device=META), torch.empty(5, config.hidden_size, device=META)
said = {"missing": []}
with compiling(sys.argv[1]) as kernels, torch.inference_mode():
    def score(rows, length, start):
        prefix = model.prefix(torch.empty(30, dtype=torch.int64, device=META)) if start else None
        eager = warmup.Eager(model, warmup.Head(*answers, 1e-6), prefix)
        warmup.run(eager, warmup.Shape(rows, length, start))
    for shape in ((1, 48, 0), (1, 48, 30), (100, 16, 0), (100, 16, 30), (2, 400, 30)):
        score(*shape)
    said["launched"] = len(kernels)
    request, steps = MemoryRequest(config, None, torch.bfloat16, "cuda", 5, 30, 512, 16384), []
    for _ in range(2):  # some, then all of them are in the process already
        found = warmup.compile_kernels(request, progress=lambda *step: steps.append(step))
    said["kernels"], said["steps"], said["in all"] = len(found), steps, len(kernels)
    with no_compilation():
        for shape in ((2, 48, 0), (9, 33, 30), (3, 500, 0)):
            score(*shape)
        for dtype, width in ((torch.bfloat16, 64), (torch.float32, 2 * config.intermediate_size)):
            try:
                swiglu.swiglu(torch.empty(4, width, dtype=dtype, device=META))
            except KernelMissing as error:
                said["missing"].append(str(error))
    try:
        swiglu.swiglu(torch.empty(4, 64, device=META))
    except RuntimeError as error:
        said["outside"] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The demo's kernels, compiled by the command for where the folder will be, and there."""
    pytest.importorskip("triton")
    built = tmp_path_factory.mktemp("kernels") / "built"
    home = built.with_name("home")
    result = child.python("-c", COMPILE, "demo", "--target", "sm_90", "--output", built, "--at", home)
    assert f"TRITON_CACHE_DIR={home}" in result.stdout
    shutil.copytree(built, home)
    shutil.rmtree(built)
    return home


def test_a_folder_of_kernels_serves_another_process(home):
    """Nothing compiles there."""
    said = answer(LAUNCH, "sm_90", TRITON_CACHE_DIR=str(home))
    assert said["kernels"] == said["launched"] == said["in all"] == 20
    assert said["steps"] == 2 * [[count, 20] for count in range(1, 21)]
    assert not list(home.glob("*/*.ttir"))  # machine code only

    # What a forbidden compilation says, and that it is forbidden only there.
    width, precision = said["missing"]
    assert width.startswith("the kernel swiglu._swiglu_kernel is not compiled for I=32, not ")
    assert precision == "the kernel swiglu._swiglu_kernel is not compiled for p_gate_up=" + (
        "*fp32 tt.divisibility:16, not *bf16 tt.divisibility:16; p_out=*fp32 tt.divisibility:16, not "
        "*bf16 tt.divisibility:16; p_scales=*fp32 tt.divisibility:16, not *bf16 tt.divisibility:16"
    )
    assert said["outside"] == "compiled"


@pytest.mark.slow
def test_the_weights_fp8_have_a_kernel_more(tmp_path):
    """That which quantizes rows, of both widths of the weights; products are no kernels of ours."""
    pytest.importorskip("triton")
    arguments = "demo", "--target", "sm_90", "--output", tmp_path, "--weights", "fp8"
    shown = child.python("-c", COMPILE, *arguments).stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    assert ["quantize_rows", "2", "2"] in [row[:3] for row in rows]


@pytest.mark.slow
def test_a_folder_that_moved_holds_nothing_until_it_is_settled(home, tmp_path):
    said = answer(LAUNCH, "sm_90", TRITON_CACHE_DIR=str(home))
    moved = shutil.copytree(home, tmp_path / "moved")
    shutil.move(home, home.with_name("away"))
    assert "compiled" in child.python("-c", LAUNCH, "sm_90", check=False, TRITON_CACHE_DIR=str(moved)).stderr
    kernel_cache.settle(moved, moved)
    assert answer(LAUNCH, "sm_90", TRITON_CACHE_DIR=str(moved)) == said
    shutil.move(home.with_name("away"), home)


def test_what_stands_in_the_way_is_told(monkeypatch, capfd, tmp_path):
    def said(*arguments: str) -> str:
        assert cli.run(["compile", str(FOLDER), "--output", str(tmp_path / "new"), *arguments]) == 2
        assert not (tmp_path / "new").exists()
        return capfd.readouterr().err

    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    assert said("--target", "sm_90") == (
        "slant: TRITON_INTERPRET is set, with which kernels are not compiled; unset it.\n"
    )
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    assert said("--target", "sm_90", "--target", "sm_9").startswith(
        "slant: 'sm_9' is no known target; give one of sm_80, sm_86,"
    )
    assert "Missing option '--target'" in said()
    for name, weights in (("sm_86", "fp8"), ("gfx942", "fp8"), ("sm_90", "int8")):
        refused = f"slant: the weights {weights} are not for {name}; leave weights at auto.\n"
        assert said("--target", name, "--weights", weights) == refused

    def missing(target: object) -> None:
        raise RuntimeError("Cannot find ptxas")

    monkeypatch.setattr(triton.compiler, "make_backend", missing)
    assert said("--target", "sm_90") == "slant: Triton has no compiler for sm_90 here: Cannot find ptxas.\n"
    monkeypatch.setattr(kernel_cache, "triton", None)
    assert said("--target", "sm_90") == "slant: kernels are compiled by Triton, which exists for Linux only.\n"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"child_paths": 5}', "\0" * 90])
@pytest.mark.parametrize("name", ["__grp___swiglu_kernel.json", "_swiglu_kernel.json"])
def test_a_damaged_file_of_the_folder_is_named(tmp_path, name, content):
    """Triton's descriptions of a kernel need only be JSON."""
    (tmp_path / "KERNEL").mkdir()
    (tmp_path / "KERNEL" / name).write_text(content)
    fine = not name.startswith("__grp__") and content[:1] in ("[", "{") and content != "{"
    with nullcontext() if fine else pytest.raises(SlantError, match=rf"{name} is damaged \(.*\); delete .*KERNEL"):
        kernel_cache.settle(tmp_path, tmp_path)


@pytest.mark.parametrize("problem", [json.JSONDecodeError("x", "", 0), UnicodeDecodeError("utf-8", b"x", 0, 1, "y")])
def test_a_damaged_cache_of_triton_is_one_sentence(monkeypatch, capsys, problem):
    """Where no folder was compiled ahead: Triton's own in the home folder."""
    pytest.importorskip("triton")

    class Kernel:
        def warmup(self, *_: object, **__: object) -> None:
            raise problem

    def command(arguments: list[str]) -> int:
        launch.launch(Kernel(), (1,), launch.Config(), torch.empty(1, device="meta"))
        return 0

    monkeypatch.setattr(cli, "_invoke", command)
    monkeypatch.setattr(launch.triton.knobs.cache, "dir", "/cache")
    assert cli.run(["score"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("slant: /cache: Triton's description of a compiled kernel in it is damaged (")
    assert said.endswith("); delete the folder and run again.\n")
