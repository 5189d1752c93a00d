"""What ``slant finetune`` prints at its end."""

from __future__ import annotations

from rich.console import Group, RenderableType

from slant.evaluation import report
from slant.training.run import Finetuned


def terminal(done: Finetuned) -> RenderableType:
    rows, losses, labels = done.record["rows"], done.record["losses"], done.record["labels"]
    dropped = ", ".join(f"{reason}: {count:,}" for reason, count in rows["dropped"].items()) or "none"
    lines = [
        f"Trained on {sum(rows['train'].values()):,} texts in {done.record['steps']:,} steps; the loss was "
        f"{losses[0]['loss']:.4f} at first and {losses[-1]['loss']:.4f} at last.",
        f"Rows dropped: {dropped}. Texts truncated: {rows['truncated']:,}.",
    ]
    if absent := [name for answer, name in labels.items() if not rows["train"][answer]]:
        lines.append(f"No row has the label {', '.join(absent)}: the model learned not to give it.")
    return Group(*lines, "", report.terminal(done.validation), "", f"Written to {done.folder}.")
