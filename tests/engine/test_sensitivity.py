"""Bits by sensitivity: what is measured, what is chosen for it, and that the budgets hold in the end."""

import math
import re

import pytest
import torch

import classifier
import tiny
from slant.artifact.recipe import Grid, Recipe
from slant.cli import app as cli
from slant.demo import FOLDER, passages
from slant.engine import Engine
from slant.errors import CheckpointError, SlantError
from slant.evaluation.drift.figures import drift_between
from slant.model.checkpoint import HEAD, Checkpoint
from slant.model.hqq import QuantizedCheckpoint
from slant.model.network import Model
from slant.model.source import open_artifact
from slant.model.weights import Weights
from slant.options import LoadOptions
from slant.quantize.gauge import Gauge, groups
from slant.quantize.job import quantize_checkpoint
from slant.quantize.replay import Replay, places
from slant.quantize.sensitivity import Chooser, plan
from slant.runtime.resolved import resolve_options
from slant.runtime.runner import Runner

CPU = torch.device("cpu")
GRIDS = (Grid(8), Grid(4), Grid(2), None)
MORE_SHAPES = ["attention first and last", "linear last"]
SHAPES = ["grouped", "tied", *(pytest.param(shape, marks=pytest.mark.slow) for shape in MORE_SHAPES)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The models here are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=SHAPES)
def folder(request, tmp_path_factory):
    return classifier.write(tmp_path_factory.mktemp(request.param.replace(" ", "-")), request.param)


SHORT = LoadOptions(weights="fp32", max_tokens=512)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    return classifier.write(tmp_path_factory.mktemp("grouped"), "grouped")


def load(folder):
    return Gauge.load(folder, classifier.TEXTS, SHORT)


def ordinary(gauge, recipe):
    """An engine that reads the quantized checkpoint the ordinary way."""
    model = Model(Weights(QuantizedCheckpoint(gauge.checkpoint, recipe, CPU), torch.float32, CPU), 512)
    runner = Runner(model, gauge.runner.head, gauge.prompt.prefix_ids, gauge.runner.planner)
    return Engine(gauge.prompt, runner, resolve_options(SHORT, max_positions=8192, is_artifact=False))


def through(engine, ids):
    logits = torch.empty(len(ids), len(engine.labels))
    for result in engine.runner.run(ids):
        logits[list(result.rows)] = torch.from_numpy(result.logits)
    return logits


def sequences(prompt):
    """With the prompt's prefix and without it."""
    ids = [text.ids for text in prompt.encode(classifier.TEXTS)]
    return [*ids, ids[1][3:]]


def test_a_place_is_where_the_matrix_lies(folder):
    gauge = load(folder)
    found = places(gauge.runner.model)
    assert sorted(found) == sorted(name for names in groups(gauge.checkpoint.config) for name in names)
    for name, place in found.items():
        assert torch.equal(place, gauge.checkpoint.read(name).float()), name


def test_each_exchange_gives_the_bits_of_the_ordinary_way(folder):
    """For every matrix alone, run again only from its block on; and at last as it was."""
    gauge = load(folder)
    ids = sequences(gauge.prompt)
    replay = Replay(gauge.runner, ids)
    assert torch.equal(replay.reference, through(ordinary(gauge, Recipe({})), ids))
    for (name,) in groups(gauge.checkpoint.config):
        recipe = Recipe({name: Grid(3, 32)})
        gauge.exchange.reset()
        gauge.exchange.set(recipe.rules)
        assert gauge.exchange.first == int(name.split(".")[1])
        assert torch.equal(replay.logits(gauge.exchange.first), through(ordinary(gauge, recipe), ids)), name
    gauge.exchange.reset()
    assert torch.equal(replay.logits(), replay.reference)


def test_a_cost_is_the_mean_kl_that_drift_reports(grouped):
    gauge = load(grouped)
    reference = ordinary(gauge, Recipe({})).score(classifier.TEXTS)
    for s in gauge.measure(groups(gauge.checkpoint.config)[::6], GRIDS[::-1]):
        for grid, option in zip(s.grids, s.options, strict=True):
            ours = ordinary(gauge, Recipe(dict.fromkeys(s.names, grid))).score(classifier.TEXTS)
            kl = drift_between(reference, ours).overall.figures.kl.mean
            assert option.cost == pytest.approx(kl, rel=1e-9, abs=1e-15)
        assert s.options[0].cost == 0 < s.options[3].cost < s.options[1].cost


def test_groups_by_part(grouped):
    config = Checkpoint.open(grouped).config
    parts = groups(config, "part")
    assert sorted(sum(parts, ())) == sorted(sum(groups(config), ()))
    assert len(parts) == 2 * config.num_hidden_layers
    assert all(len({name.rsplit(".", 2)[0] for name in names}) == 1 for names in parts)
    with pytest.raises(SlantError, match="by 'colour'"):
        groups(config, "colour")


@pytest.fixture(scope="module")
def sizes(grouped):
    """Bytes of all tensors by the grid of every matrix."""
    gauge = load(grouped)
    found = gauge.measure(groups(gauge.checkpoint.config), (Grid(8), Grid(2)))
    return [gauge.fixed_bytes + sum(s.options[i].size for s in found) for i in range(2)]


@pytest.mark.parametrize("by", ["tensor", "part"])
def test_the_artifact_has_the_bytes_and_the_kl_of_the_plan(grouped, sizes, tmp_path, by):
    target = (sizes[0] + 2 * sizes[1]) // 3
    found = plan(grouped, classifier.TEXTS, target_bytes=target, by=by, options=SHORT)
    artifact = open_artifact(quantize_checkpoint(grouped, tmp_path / "q", found.recipe))
    stored = sum(artifact.tensors[name].nbytes for name in artifact.config.shapes())
    stored += artifact.head_rows(artifact.manifest.answers).nbytes if artifact.head == HEAD else 0
    assert found.nbytes == stored <= target
    assert found.nbytes > 0.9 * target
    ours = Engine.load(tmp_path / "q", weights="fp32", device="cpu", max_tokens=512).score(classifier.TEXTS)
    reference = Engine.load(grouped, weights="fp32", device="cpu", max_tokens=512).score(classifier.TEXTS)
    kl = drift_between(reference, ours).overall.figures.kl.mean
    assert found.measured == pytest.approx(kl, rel=1e-9)


def test_the_smallest_size_is_within_reach_and_below_it_nothing(grouped, sizes):
    options = {"grids": (Grid(8), Grid(2)), "options": SHORT}
    found = plan(grouped, classifier.TEXTS, target_bytes=sizes[1], **options)
    assert found.nbytes == sizes[1]
    with pytest.raises(SlantError, match=f"the least that they can take is {sizes[1]:,}"):
        plan(grouped, classifier.TEXTS, target_bytes=sizes[1] - 1, **options)


def test_a_largest_kl_holds_and_is_used(grouped):
    options = {"options": SHORT, "by": "part", "grids": GRIDS}
    loose = plan(grouped, classifier.TEXTS, max_kl=1e-3, **options)
    tight = plan(grouped, classifier.TEXTS, max_kl=1e-6, **options)
    none = plan(grouped, classifier.TEXTS, max_kl=0.0, **options)
    assert loose.measured <= 1e-3
    assert tight.measured <= 1e-6
    assert loose.nbytes < tight.nbytes < none.nbytes
    assert none.measured == 0
    assert set(none.recipe.rules.values()) == {None}


def test_beats_uniform_bits_on_held_out_texts_of_the_demo():
    """Some passages calibrate, others judge: less than half of the divergence of 4 bits everywhere."""
    texts = [passage["text"] for passage in passages()]
    gauge = Gauge.load(FOLDER, texts[0::8], LoadOptions(weights="fp32"))
    judge = Replay(gauge.runner, [text.ids for text in gauge.prompt.encode(texts[1::4])])
    chooser = Chooser(gauge.measure(groups(gauge.checkpoint.config), (Grid(8), Grid(4), Grid(3))), gauge.fixed_bytes)
    uniform = Recipe(dict.fromkeys(gauge.checkpoint.config.quantizable, Grid(4)))
    gauge.kl(uniform)
    theirs = judge.kl(gauge.exchange.first)
    size = sum(s.options[1].size for s in chooser.sensitivities)
    choice = chooser.within_bytes(gauge.fixed_bytes + size)
    assert choice.size <= size
    gauge.kl(chooser.recipe(choice))
    assert 0 < judge.kl(gauge.exchange.first) < theirs / 2


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["One."], {}, "either a target of bytes or a largest KL"),
        (["One."], {"target_bytes": 1, "max_kl": 1.0}, "either a target of bytes or a largest KL"),
        (["One."], {"max_kl": -1.0}, "largest KL is -1"),
        (["One."], {"max_kl": math.nan}, "largest KL is nan"),
        (["One."], {"max_kl": 1.0, "options": LoadOptions(weights="hqq4")}, "hqq4' are no reference"),
        (["", None], {"max_kl": 1.0}, "no calibration text can be scored: The text is empty"),
        ([], {"max_kl": 1.0}, "no calibration text can be scored: there are none"),
    ],
)
def test_refused(grouped, texts, options, message):
    with pytest.raises(SlantError, match=message):
        plan(grouped, texts, **{"options": SHORT, **options})


def test_a_target_that_nothing_reaches_is_refused_before_measuring(grouped):
    stages = []
    with pytest.raises(SlantError, match="the least that they can take is"):
        plan(grouped, ["One."], target_bytes=1, options=SHORT, progress=lambda stage, *_: stages.append(stage))
    assert "measuring" not in stages


def test_unscorable_texts_are_left_out_and_counted(grouped):
    found = plan(grouped, ["One.", "", None, "Two."], max_kl=1.0, grids=GRIDS, options=SHORT)
    assert (found.texts, found.skipped) == (2, 2)
    assert "on 2 texts (2 could not be scored)" in found.summary()


def test_an_artifact_is_refused(grouped, tmp_path):
    quantize_checkpoint(grouped, tmp_path / "q", tiny.recipe(4))
    with pytest.raises(CheckpointError):
        plan(tmp_path / "q", ["One."], max_kl=1.0)


def command(folder, target, *options):
    return cli.run(["quantize", str(folder), str(target), "--device", "cpu", *map(str, options)])


def test_the_command(grouped, sizes, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("id,body\n1,One.\n2,Two and three.\n3,\n")
    table = ("--calibration", tmp_path / "in.csv", "--text-column", "body", "--max-tokens", 512)
    target = sum(sizes) // 2
    options = ("--by", "part", "--group-size", 64)
    assert command(grouped, tmp_path / "q", "--target-bytes", target, *options, *table) == 0
    out = capsys.readouterr().out
    assert re.search(r"^[\d,]+ bytes of tensors\. .* on 2 texts \(1 could not be scored\)", out)
    rules = open_artifact(tmp_path / "q").recipe.rules
    size = int(out.split(" ")[0].replace(",", ""))
    assert size <= target
    assert {grid.group_size for grid in rules.values() if grid} == {64}
    assert command(grouped, tmp_path / "q2", "--max-kl", 0, *options, *table) == 0
    assert "0 nats measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target-bytes", 9), "name the texts to measure with"),
        (("--max-kl", 1, "--calibration", "t", "--bits", 4), "leave out --bits and --recipe"),
        (("--max-kl", 1, "--calibration", "t", "--recipe", "r"), "leave out --bits and --recipe"),
        (("--calibration", "t"), "goes with --target-bytes or --max-kl"),
        (("--max-kl", 1, "--target-bytes", 9, "--calibration", "t.txt"), "either a target of bytes or a largest KL"),
    ],
)
def test_the_command_refuses(grouped, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("One.\n")
    assert command(grouped, tmp_path / "q", *options) == cli.FAILURE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


def test_a_destination_that_exists_is_refused_before_anything_is_measured(grouped, tmp_path, capsys):
    (tmp_path / "q").mkdir()
    assert command(grouped, tmp_path / "q", "--max-kl", 1, "--calibration", "missing.txt") == cli.FAILURE
    assert "q exists" in capsys.readouterr().err
