"""What the program around the engine has set in torch changes no score: same bits, or at least no crash."""

import json
import re
from pathlib import Path

import pytest
from host_program import SETTINGS

import child

SCRIPT = Path(__file__).with_name("host_program.py")


@pytest.fixture(scope="module", params=["compiled ops", pytest.param("torch ops", marks=pytest.mark.slow)])
def found(request):
    """The digests under each setting; a setting that ends the process has the end of its error output."""
    variables = {"OMP_NUM_THREADS": "1"} | ({"SLANT_NATIVE": "0"} if request.param == "torch ops" else {})
    answers, left = {}, list(SETTINGS)
    while left:
        process = child.python(SCRIPT, *left, check=False, **variables)
        for line in process.stdout.splitlines():
            answers |= json.loads(line)
        if process.returncode:
            crashed = next(name for name in left if name not in answers)
            answers[crashed] = {"": process.stderr[-300:]}
        left = [name for name in left if name not in answers]
    return answers


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "none"])
def test_scores_are_the_same_bits(found, setting):
    assert all(re.fullmatch("[0-9a-f]{64}", answer) for answer in found["none"].values())
    assert found[setting] == {way: found["none"][way] for way in found[setting]}
