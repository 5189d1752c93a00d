"""``finetune`` from a tiny base to a merged checkpoint: it learns, merges exactly, and both ways of loading agree."""

import csv
import json
import warnings

import numpy as np
import pytest
import torch
import toy
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import classifier
import tiny
from slant.engine import Engine
from slant.errors import SlantError
from slant.evaluation.metrics import accuracy
from slant.evaluation.reference import last_logits, load_model
from slant.model.checkpoint import HEAD, Checkpoint
from slant.prompt.prompt import Prompt
from slant.training.data import Example, Examples, TrainingTable
from slant.training.network import AnswerNetwork, adapted, deltas, text_model
from slant.training.recipe import DELTA_NET, PROJECTIONS
from slant.training.run import finetune
from slant.training.train import collate, steps_of, train

CPU = torch.device("cpu")
TEXTS = [text for text, _ in toy.rows(24, seed=9)]
# how the base is made, and saved: its own head, a tied one in shards, a multimodal checkpoint with a tied head
BASES = {
    "own head": {"shape": "grouped"},
    "tied, in shards": {"shape": "tied", "max_shard_size": "60KB"},
    "multimodal in bf16": {"shape": tiny.MULTIMODAL, "dtype": torch.bfloat16},
}
LEARNABLE = "own head"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The base, and what ``finetune`` made of it, by the name in ``BASES``."""
    known = {}

    def make(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("made")
            (folder / "base").mkdir()
            base = toy.base(folder / "base", **BASES[name])
            table = toy.write(folder / "a.csv", toy.rows(150 if name == LEARNABLE else 40))
            recipe = toy.recipe(epochs=5, accumulation=1) if name == LEARNABLE else toy.recipe(accumulation=1)
            known[name] = base, finetune(base, [table], folder / "made", recipe, device="cpu")
        return known[name]

    return make


def examples_of(base, texts=TEXTS, labels=None):
    encoded = Prompt.load(base, max_tokens=200).encode(texts)
    labels = [row % 3 for row in range(len(texts))] if labels is None else labels
    rows = enumerate(zip(texts, encoded, labels, strict=True))
    return [Example(text, row.ids, False, label, 0, i) for i, (text, row, label) in rows]


def network_of(base, **changes):
    return adapted(
        Checkpoint(base),
        Prompt.load(base, max_tokens=200),
        toy.recipe(**changes),
        dtype=torch.float32,
        checkpointing=False,
    )


def with_adapters_that_matter(network, seed=0):
    """Fresh adapters add nothing: their second factors are zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02, generator=generator)
    return network


def logits_of(network, examples):
    batch = collate(examples)
    return network(batch["ids"], batch["last"])


# What was learned


def test_it_learns_the_toy_task(made):
    _, done = made(LEARNABLE)
    (side,) = done.validation.sides
    assert side.assessment.rows == 15
    assert side.assessment.accuracy.value >= 0.9
    engine = Engine.load(done.folder, weights="fp32", device="cpu")
    lines = toy.rows(90, seed=5)
    scores = engine.score([text for text, _ in lines])
    assert np.mean(scores.label == [int(label) for _, label in lines]) >= 0.9, "texts that it never saw"


def test_the_base_does_not_know_the_toy_task(made):
    base, _ = made(LEARNABLE)
    lines = toy.rows(90, seed=5)
    scores = Engine.load(base, weights="fp32", device="cpu").score([text for text, _ in lines])
    assert np.mean(scores.label == [int(label) for _, label in lines]) < 0.6


def test_the_record_says_what_was_done(made):
    base, done = made(LEARNABLE)
    record = json.loads((done.folder / "training.json").read_bytes())
    assert record == json.loads(json.dumps(done.record))
    assert record["recipe"]["seed"] == 3407
    assert record["rows"]["train"] == {"0": 45, "1": 45, "2": 45}
    assert record["rows"]["validation"] == {"0": 5, "1": 5, "2": 5}
    assert record["steps"] == record["losses"][-1]["step"] == 85
    assert record["losses"][-1]["loss"] < 0.1 < record["losses"][0]["loss"]
    assert np.sum(record["validation"]["confusion"]) == 15
    assert record["validation"]["accuracy"]["value"] == accuracy(np.array(record["validation"]["confusion"]))
    assert record["base"].keys() == {"config.json", "tokenizer.json", "model.safetensors"}
    with (done.folder / "split.csv").open() as file:
        lines = list(csv.DictReader(file))
    again = Examples.read([TrainingTable(done.folder.parent / "a.csv")], Prompt.load(base, max_tokens=200))
    held = again.split(0.1, 3407, ("a", "b", "c"))[1]
    assert [int(line["row"]) for line in lines if line["part"] == "validation"] == [example.row for example in held]
    assert sorted(path.name for path in done.folder.parent.iterdir()) == ["a.csv", "base", "made"]
    assert not {"checkpoints", "plan.json"} & {path.name for path in done.folder.iterdir()}


# The merge


@pytest.mark.parametrize("name", BASES)
def test_the_engine_scores_the_merged_checkpoint_like_transformers(made, name):
    _, done = made(name)
    sequences = [example.ids.tolist() for example in examples_of(done.folder)]
    truth = last_logits(load_model(done.folder, torch.float32), sequences, Prompt.load(done.folder).answer_ids)
    scores = Engine.load(done.folder, weights="fp32", device="cpu").score(TEXTS)
    assert truth.std() > 0.1
    np.testing.assert_allclose(scores.logits, truth, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", BASES)
def test_plain_from_pretrained_loads_the_merged_checkpoint(made, name):
    """With the whole vocabulary: rows of the head that are no answers are the base's."""
    base, done = made(name)
    prompt = Prompt.load(done.folder)
    model = AutoModelForCausalLM.from_pretrained(done.folder, dtype=torch.float32).eval()
    sequences = [example.ids.tolist() for example in examples_of(base)]
    truth = last_logits(load_model(done.folder, torch.float32), sequences, range(tiny.VOCABULARY))
    torch.testing.assert_close(last_logits(model, sequences, range(tiny.VOCABULARY)), truth, atol=1e-5, rtol=0)
    assert prompt.labels == classifier.LABELS
    assert prompt.template == classifier.TEMPLATE
    stored, merged = Checkpoint(base), Checkpoint(done.folder)
    assert merged.head == HEAD
    assert not merged.notes or "tied" not in merged.notes[0]
    others = [token for token in range(tiny.VOCABULARY) if token not in prompt.answer_ids]
    assert torch.equal(stored.head_rows(others), merged.head_rows(others))
    assert not torch.equal(stored.head_rows(prompt.answer_ids), merged.head_rows(prompt.answer_ids))


@pytest.mark.parametrize("name", BASES)
def test_what_was_not_trained_keeps_its_bytes_and_what_was_is_rounded_once(made, name):
    base, done = made(name)
    before, after = (
        {key: tensor for path in folder.glob("*.safetensors") for key, tensor in load_file(path).items()}
        for folder in (base, done.folder)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of tied heads
        model = PeftModel.from_pretrained(load_model(base, torch.float32), done.folder / "adapter")
        merged = model.merge_and_unload().state_dict()
    trained = [
        key for key in before if key.removesuffix(".weight").endswith(PROJECTIONS + DELTA_NET) and "visual" not in key
    ]
    assert len(trained) >= 20
    new = set() if HEAD in before else {HEAD}
    assert after.keys() == before.keys() | new
    for index in done.folder.glob("*.index.json"):
        assert json.loads(index.read_bytes())["weight_map"].keys() == after.keys()
    for key, tensor in after.items():
        assert tensor.dtype == before.get(key, tensor).dtype
        if key in trained or key == HEAD:
            assert key in new or not torch.equal(tensor, before[key])
            if key != HEAD:  # its product has other shapes in peft, and with them other roundings
                assert torch.equal(tensor, merged[key].to(tensor.dtype)), key
        else:
            assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize("name", BASES)
def test_merged_scores_equal_the_adapters_on_the_plain_base(made, name):
    """In fp32 within 1e-5. In bf16 each trained weight was rounded once: within 1 % of what training changed."""
    base, done = made(name)
    sequences = [example.ids.tolist() for example in examples_of(base)]
    answers = Prompt.load(base).answer_ids
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load_model(base, torch.float32), done.folder / "adapter").eval()
    theirs = last_logits(model, sequences, answers)
    ours = last_logits(load_model(done.folder, torch.float32), sequences, answers)
    plain = last_logits(load_model(base, torch.float32), sequences, answers)
    changed = (theirs - plain).square().mean().sqrt()
    assert changed > 0.1
    atol = 0.01 * float(changed) if BASES[name].get("dtype") == torch.bfloat16 else 1e-5
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def test_merged_scores_equal_those_of_the_network_in_training(made, tmp_path):
    base, done = made(LEARNABLE)
    network = network_of(base)
    examples = examples_of(base)
    saved = load_file(done.folder / "adapter" / "adapter_model.safetensors")
    answers = torch.tensor(Prompt.load(base).answer_ids)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                key = (
                    name.replace(".default.", ".")
                    .replace("model.text.", "model.model.")
                    .replace("model.head.", "model.lm_head.")
                )
                value = saved[key]
                parameter.copy_(value[answers] if "head.lora_B" in name else value)
        ours = logits_of(network, examples)
    merged = Engine.load(done.folder, weights="fp32", device="cpu").score(TEXTS).logits
    np.testing.assert_allclose(merged, ours.numpy(), atol=1e-5, rtol=0)


# The loss


def test_the_trimmed_heads_gradient_is_the_full_heads_at_the_answers(made):
    base, _ = made(LEARNABLE)
    checkpoint, prompt, examples = Checkpoint(base), Prompt.load(base, max_tokens=200), examples_of(base)
    rows = list(prompt.answer_ids)
    labels = collate(examples)["labels"]
    network = AnswerNetwork(text_model(checkpoint, torch.float32), checkpoint.head_rows(rows))
    cross_entropy(logits_of(network, examples), labels).backward()
    full = load_model(base, torch.float32).requires_grad_(False)
    full.lm_head.weight.requires_grad_()
    logits = [full(torch.tensor(example.ids[None])).logits[0, -1, rows] for example in examples]
    cross_entropy(torch.stack(logits), labels).backward()
    gradient = full.lm_head.weight.grad
    torch.testing.assert_close(network.head.weight.grad, gradient[rows], atol=1e-6, rtol=1e-4)
    gradient[rows] = 0
    assert not gradient.any()
    assert network.head.weight.grad.abs().max() > 0.01


def test_the_head_is_a_copy_of_a_tied_embeddings_rows(made):
    base, _ = made("tied, in shards")
    network = network_of(base)
    rows = network.base_model.model.text.embed_tokens.weight[list(Prompt.load(base).answer_ids)]
    head = network.base_model.model.head.base_layer.weight
    assert torch.equal(head, rows)
    assert (
        head.untyped_storage().data_ptr()
        != network.base_model.model.text.embed_tokens.weight.untyped_storage().data_ptr()
    )


@pytest.mark.parametrize("name", BASES)
def test_fresh_adapters_change_nothing(made, name):
    base, _ = made(name)
    sequences = [example.ids.tolist() for example in examples_of(base)]
    truth = last_logits(load_model(base, torch.float32), sequences, Prompt.load(base).answer_ids)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(network_of(base), examples_of(base)), truth, atol=1e-4, rtol=0)


def test_padding_changes_neither_loss_nor_gradient(made):
    """One batch of all lengths against the texts one by one, and against other tokens in the padding."""
    base, _ = made(LEARNABLE)
    network, examples = with_adapters_that_matter(network_of(base)), examples_of(base)
    assert len({len(example.ids) for example in examples}) > 10
    batch = collate(examples)

    def gradients(ids):
        network.zero_grad()
        loss = cross_entropy(network(ids, batch["last"]), batch["labels"])
        loss.backward()
        return loss.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    loss, gradient = gradients(batch["ids"])
    other = batch["ids"].clone()
    for row, last in zip(other, batch["last"], strict=True):
        row[last + 1 :] = torch.randint(0, tiny.VOCABULARY, (len(row) - int(last) - 1,))
    assert not torch.equal(other, batch["ids"])
    for found, expected in zip(gradients(other), (loss, gradient), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-5)
    with torch.no_grad():
        singles = torch.cat([logits_of(network, [example]) for example in examples])
        torch.testing.assert_close(network(batch["ids"], batch["last"]), singles, atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_nothing(made):
    base, _ = made(LEARNABLE)
    found = []
    for checkpointing in (False, True):
        network = adapted(
            Checkpoint(base), Prompt.load(base), toy.recipe(), dtype=torch.float32, checkpointing=checkpointing
        )
        network.train()
        with_adapters_that_matter(network)
        calls = []
        hook = network.base_model.model.text.layers[0].mlp.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        logits_of(network, examples_of(base)).sum().backward()
        hook.remove()
        found.append((len(calls), [p.grad for p in network.parameters() if p.grad is not None]))
    assert [calls for calls, _ in found] == [1, 2], "computed again on the way back"
    for one, other in zip(*(gradients for _, gradients in found), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("delta_net", "layers"), [(False, 4 * 3 + 4 + 1), (True, 4 * 3 + 4 + 1 + 3 * 5)])
def test_adapters_are_where_the_recipe_says(made, delta_net, layers):
    base, _ = made(LEARNABLE)
    network = with_adapters_that_matter(network_of(base, delta_net=delta_net))
    found = deltas(network)
    assert len(found) == layers
    for name, delta in found.items():
        assert delta.shape == ((3, 48) if name == HEAD else Checkpoint(base).tensors[name].shape)
    layer = network.base_model.model.text.layers[3].self_attn.q_proj
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(found["layers.3.self_attn.q_proj.weight"], 16 / 16**0.5 * product)
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trainable)
    assert len(trainable) == 2 * layers


# The training


def test_a_step_is_the_mean_over_its_texts_however_they_are_batched(made, tmp_path):
    """Ten texts as one batch, and as 4 + 4 + 2 of one step, with one learning rate."""
    base, _ = made(LEARNABLE)
    examples = examples_of(base)[:10]
    found = []
    for size, accumulation in ((10, 1), (4, 3)):
        network = network_of(base)
        recipe = toy.recipe(batch_size=size, accumulation=accumulation, epochs=1, warmup_steps=0, dropout=0.0)
        losses = train(
            network, examples, recipe, tmp_path / str(size), device=CPU, bf16=False, progress=lambda *_: None
        )
        assert [line["step"] for line in losses] == [1]
        found.append((losses[0]["loss"], losses[0]["grad_norm"], get_peft_model_state_dict(network)))
    with torch.no_grad():
        batch = collate(examples)
        loss = cross_entropy(network_of(base)(batch["ids"], batch["last"]), batch["labels"])
    assert found[0][:2] == pytest.approx(found[1][:2], rel=1e-4)
    assert found[0][0] == pytest.approx(float(loss), rel=1e-4)


def test_bf16_trains_bf16_matrices_under_fp32_adapters(made, tmp_path):
    """And leaves nothing behind for a run in fp32 in the same process."""
    base, _ = made(LEARNABLE)
    table = toy.write(tmp_path / "a.csv", toy.rows(40))
    recipe = toy.recipe(precision="bf16", epochs=1, accumulation=1)
    mixed = finetune(base, [table], tmp_path / "mixed", recipe, device="cpu")
    assert mixed.record["environment"]["precision"] == "bf16"
    network = adapted(
        Checkpoint(base), Prompt.load(base, max_tokens=200), recipe, dtype=torch.bfloat16, checkpointing=False
    )
    held = {p.dtype for p in network.base_model.model.text.parameters() if p.ndim > 1 and not p.requires_grad}
    assert held == {torch.bfloat16}
    saved = load_file(mixed.folder / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    first, second = (
        finetune(base, [table], tmp_path / name, toy.recipe(epochs=1, accumulation=1), device="cpu")
        for name in ("one", "two")
    )
    assert first.record["files"] == second.record["files"]
    fp32, bf16 = (run.record["losses"][0]["loss"] for run in (first, mixed))
    assert 0 < abs(fp32 - bf16) < 0.05
    ours, theirs = Checkpoint(mixed.folder), Checkpoint(first.folder)
    assert not torch.equal(ours.read("layers.0.mlp.up_proj.weight"), theirs.read("layers.0.mlp.up_proj.weight"))


def test_a_loss_that_is_no_number_stops_the_run(made, tmp_path):
    base, _ = made(LEARNABLE)
    network = network_of(base)
    network.base_model.model.head.base_layer.weight.data.fill_(float("nan"))
    with pytest.raises(SlantError, match="the loss is nan at step 1; give a lower learning rate"):
        train(
            network,
            examples_of(base),
            toy.recipe(accumulation=1),
            tmp_path / "run",
            device=CPU,
            bf16=False,
            progress=lambda *_: None,
        )


def test_the_warm_up_must_leave_steps():
    assert steps_of(toy.recipe(epochs=2, batch_size=8, accumulation=4, warmup_steps=3), 60) == 4
    with pytest.raises(SlantError, match="takes 4 steps, and the warm-up alone 4"):
        steps_of(toy.recipe(epochs=2, batch_size=8, accumulation=4, warmup_steps=4), 60)
