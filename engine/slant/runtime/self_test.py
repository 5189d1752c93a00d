"""Runs the self-test of an artifact on a loaded model."""

from __future__ import annotations

import numpy as np

from slant.artifact import MANIFEST
from slant.artifact.self_test import check, parse
from slant.errors import CheckpointError
from slant.options import token_limit
from slant.prompt.prompt import Prompt
from slant.runtime.classifier import Classifier, answer_head
from slant.runtime.execution import Executor
from slant.validation import shown


class SelfTest:
    """An artifact's self-test: its own prompt and limits, whatever the user's.

    ``tokens`` are those of its longest text.
    """

    def __init__(self, classifier: Classifier) -> None:
        """Raises CheckpointError if what is stored is damaged."""
        source, options = classifier.source, classifier.options
        assert source.self_test is not None
        name = f"the self-test (probe) in {source.folder / MANIFEST}"
        self._stored, self._arithmetic = parse(source.self_test, name), options.arithmetic()
        limit = token_limit(None, source.config.max_position_embeddings)
        shared = classifier.prompt
        own = Prompt.load(
            source.folder, tokenizer=shared.tokenizer, max_tokens=limit, special_tokens=shared.special_tokens
        )
        encoded = own.encode(self._stored["texts"])
        for index, (text, row) in enumerate(zip(self._stored["texts"], encoded, strict=True)):
            if row.error is not None:
                raise CheckpointError(
                    f"{name} is damaged: texts[{index}] is {shown(text)}: {row.error.rstrip('.')}; quantize again."
                )
        self._ids = [row.ids for row in encoded]
        self._head = answer_head(source, own, options.device)
        self.tokens = max(map(len, self._ids))

    def check(self, runner: Executor, positions: int) -> None:
        """Run it on a runner that was loaded for so many positions; raises CheckpointError unless the answers fit."""
        probabilities = np.empty((len(self._ids), len(self._head.rows)), dtype=np.float32)
        for answers in runner.run(self._ids, head=self._head, max_tokens=positions):
            probabilities[list(answers.rows)] = answers.probabilities
        check(self._stored, probabilities, self._arithmetic)
