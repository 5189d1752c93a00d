"""A training that was killed goes on to the same bytes, and is neither overwritten nor mixed with another."""

import shutil
from pathlib import Path

import pytest
import toy

import child
from slant.errors import SlantError
from slant.training.run import finetune
from slant.training.train import last_complete, seal


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    return toy.base(folder)


def kill(base, folder, *places):
    return child.python(Path(__file__).with_name("kill_finetune.py"), base, folder, *places).stdout.split()


def test_a_killed_run_goes_on_to_the_same_bytes(base, tmp_path):
    """Killed in the second epoch, in the middle of writing a checkpoint (huggingface/transformers#35782)."""
    assert kill(base, tmp_path, "save:15") == ["save:15", "checkpoint-6"]


@pytest.mark.slow
def test_a_run_killed_anywhere_goes_on_to_the_same_bytes(base, tmp_path):
    places = [f"training:{step}" for step in (1, 3, 4, 5, 8)] + [f"save:{piece}" for piece in range(1, 13)]
    places += ["merging:1", "validating:1", "rename:1"]
    assert len(kill(base, tmp_path, *places)) == 2 * len(places)


def test_an_unfinished_run_is_not_overwritten_and_not_mixed(base, tmp_path):
    table = toy.write(tmp_path / "a.csv", toy.rows(40))

    def stop(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(base, [table], tmp_path / "out", toy.recipe(), device="cpu", progress=stop)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SlantError, match=r"out\.partial holds an unfinished run: go on with resume \(--resume\)"):
        finetune(base, [table], tmp_path / "out", toy.recipe(), device="cpu")
    with pytest.raises(SlantError, match="was begun with another recipe"):
        finetune(base, [table], tmp_path / "out", toy.recipe(rank=8), device="cpu", resume=True)
    toy.write(tmp_path / "a.csv", toy.rows(43))
    with pytest.raises(SlantError, match="was begun with another data"):
        finetune(base, [table], tmp_path / "out", toy.recipe(), device="cpu", resume=True)
    shutil.rmtree(tmp_path / "out.partial")
    (tmp_path / "out").mkdir()
    with pytest.raises(SlantError, match="out exists; name another destination"):
        finetune(base, [table], tmp_path / "out", toy.recipe(), device="cpu")


@pytest.mark.parametrize("name", ["trainer_state.json", "optimizer.pt", "adapter_model.safetensors", "complete"])
@pytest.mark.parametrize("content", [b"", b"x", None])
def test_a_damaged_checkpoint_is_named_and_can_be_removed(tmp_path, name, content):
    """As in bghira/SimpleTuner#2613."""
    for step in (3, 12):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        for file in ("trainer_state.json", "optimizer.pt", "adapter_model.safetensors"):
            (checkpoint / file).write_text(f"{file} {step}")
        seal(checkpoint)
    (tmp_path / "checkpoint-12 (copy)").mkdir()
    assert last_complete(tmp_path) == str(checkpoint)
    if content is None:
        (checkpoint / name).unlink()
    else:
        (checkpoint / name).write_bytes(content)
    if (name, content) == ("complete", None):  # as if it had never been finished
        assert last_complete(tmp_path) == str(tmp_path / "checkpoint-3")
        return
    with pytest.raises(
        SlantError, match=rf"checkpoint-12/({name}|complete) was damaged .*; remove .*checkpoint-12 and "
    ):
        last_complete(tmp_path)
    shutil.rmtree(checkpoint)
    assert last_complete(tmp_path) == str(tmp_path / "checkpoint-3")
