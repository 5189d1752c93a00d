"""Damaged files for ten minutes; the fuzzer itself runs as long as one likes: see ``fuzz.py``."""

import fuzz
import pytest

JUDGED = [name for name in fuzz.TARGETS if name != "broken"]
SECONDS = 600 / len(JUDGED)


def test_what_a_target_does_wrong_is_found_and_told_apart():
    outcomes, failures = fuzz.run("broken", seconds=120, cases=12, patience=2)
    assert outcomes.total() == 12
    assert outcomes["answers"] + outcomes[fuzz.FAILED] == 12
    assert outcomes["answers"] > 0
    ends = ("ZeroDivisionError: as a bug would", "MemoryError", "the process ended with 7", "the process ended with 1")
    assert set(failures) == set(ends)
    assert "fuzz_broken.py" in failures["the process ended with 1"]  # where it hung


@pytest.mark.slow
@pytest.mark.parametrize("target", JUDGED)
def test_a_damaged_file_is_refused_or_read_as_it_stands(target):
    outcomes, failures = fuzz.run(target, seconds=SECONDS)
    assert not failures, "\n".join(failures.values())
    assert outcomes.total() > 100
    assert len(outcomes) > 1, outcomes  # damage that always leads to a refusal tries little
