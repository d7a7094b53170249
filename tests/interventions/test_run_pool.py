"""What was measured comes back as it was, or not at all."""

import os
from contextlib import contextmanager

import numpy as np
import pytest

from mechtest.interventions.run_pool import RunPool


def test_an_array_comes_back_to_the_last_bit_in_another_process(tmp_path):
    block = np.random.default_rng(0).standard_normal((8, 5))
    RunPool(tmp_path).put("key", block)
    found = RunPool(tmp_path).get("key", (8, 5))
    assert np.array_equal(found, block)
    assert RunPool(tmp_path).get("other", (8, 5)) is None
    assert RunPool(tmp_path).get("key", (8, 6)) is None, "not for other prompts"
    assert [path.name for path in tmp_path.iterdir()] == ["key.npy"], "no part is left behind"


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00torn", b"not an array"])
def test_a_damaged_file_counts_as_none(tmp_path, content):
    (tmp_path / "key.npy").write_bytes(content)
    assert RunPool(tmp_path).get("key", (1, 1)) is None


def test_numbers_that_are_not_finite_are_not_shared(tmp_path):
    RunPool(tmp_path).put("key", np.array([[np.nan]]))
    assert list(tmp_path.iterdir()) == []
    np.save(tmp_path / "key.npy", np.array([[np.inf]]))
    assert RunPool(tmp_path).get("key", (1, 1)) is None


def test_it_is_bounded_in_memory_and_on_the_disk(tmp_path):
    pool = RunPool(tmp_path, held=100, stored=400)
    for number in range(10):
        pool.put(f"{number}", np.zeros((1, 10)))
    assert len(pool._arrays) == 1
    assert 1 <= len(list(tmp_path.iterdir())) <= 3


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path):
    pool = RunPool(tmp_path / "gone")
    pool.put("key", np.zeros((1, 1)))
    assert pool.get("key", (1, 1)) is not None, "this process still has it"


def test_a_file_that_another_worker_moves_away_meanwhile_is_no_error(tmp_path, monkeypatch):
    """Listing a directory and asking for sizes are two steps."""
    (tmp_path / "other.part").write_bytes(b"half")
    scan = os.scandir

    @contextmanager
    def moved(directory):
        with scan(directory) as entries:
            found = list(entries)
        (tmp_path / "other.part").unlink(missing_ok=True)
        yield iter(found)

    monkeypatch.setattr(os, "scandir", moved)
    RunPool(tmp_path).put("key", np.zeros((1, 1)))
    monkeypatch.undo()
    assert RunPool(tmp_path).get("key", (1, 1)) is not None


def test_an_array_of_another_type_counts_as_none(tmp_path):
    RunPool(tmp_path).put("key", np.zeros((2, 3), dtype=np.float32))
    assert RunPool(tmp_path).get("key", (2, 3)) is None
    assert RunPool(tmp_path).get("key", (2, 3), np.float32) is not None
