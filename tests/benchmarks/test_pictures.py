"""The pictures of the committed rows: text that stays text, nothing painted white, and labels that do not overlap."""

import shutil
from itertools import pairwise

import pytest

pytest.importorskip("matplotlib")
import report
from harness.plots import GAP, End, label_ends, panels
from harness.rows import RESULTS


def test_every_picture_is_drawn_and_fits_a_dark_page(tmp_path):
    for path in RESULTS.glob("*.jsonl"):
        shutil.copy(path, tmp_path)
    report.draw(tmp_path)
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert drawn.keys() == {path.name for path in RESULTS.glob("*.svg")}
    for text in drawn.values():
        assert "<text" in text
        assert "#ffffff" not in text
        assert "#000000" not in text


def test_labels_stay_below_one_another_and_within_the_axes():
    figure, ((axes,),) = panels()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.canvas.draw()
    label_ends(axes, [End(str(i), 1, y, "#3b82c4") for i, y in enumerate((0.5, 0.5, 0.51, 0.99, 1.0, 1.0))])
    heights = [note.xyann[1] for note in axes.texts]
    gap = GAP / (figure.get_figheight() * axes.get_position().height)
    assert [note.get_text() for note in axes.texts] == ["0", "1", "2", "3", "4", "5"]
    assert all(b - a >= gap * 0.999 for a, b in pairwise(heights))
    assert heights[-1] <= 1 + 1e-9
    assert heights[0] == pytest.approx(0.5)
