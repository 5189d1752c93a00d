"""What a job costs beside tokenizer and model: memory and processor time, each in a process of its own."""

from pathlib import Path

import pytest

from child import python

SCRIPT = Path(__file__).with_name("job_cost.py")


@pytest.mark.slow
def test_a_million_rows_take_no_more_memory_than_few(tmp_path):
    few, many = (int(python(SCRIPT, "memory", rows, tmp_path).stdout.split()[0]) for rows in (10_000, 1_000_000))
    assert many - few < 100e6


@pytest.mark.slow
def test_a_job_takes_little_more_time_than_its_model(tmp_path):
    smallest, _ = map(float, python(SCRIPT, "time", 2048, 4, tmp_path).stdout.split())
    assert smallest < 1.1
