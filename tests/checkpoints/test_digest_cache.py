import os

import pytest

from mechtest.checkpoints import digest_cache
from mechtest.checkpoints.digest_cache import remembered_digest


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digest_cache, "_FROM_BYTES", 10)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"x" * 100)
    return path


def counting(answer):
    calls = []

    def compute():
        calls.append(1)
        return answer

    return compute, calls


def test_second_process_need_not_hash(weights):
    compute, calls = counting("a" * 64)
    for _ in range(2):
        assert remembered_digest([weights], compute, tied=True) == "a" * 64
    assert len(calls) == 1
    other, _ = counting("b" * 64)
    assert remembered_digest([weights], other, tied=False) == "b" * 64


def test_write_that_hides_behind_the_old_time_is_noticed(weights):
    remembered_digest([weights], counting("a" * 64)[0], tied=True)
    stat = weights.stat()
    with weights.open("r+b") as file:
        file.write(b"y")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights.stat().st_mtime_ns == stat.st_mtime_ns
    assert remembered_digest([weights], counting("b" * 64)[0], tied=True) == "b" * 64


def test_small_checkpoints_leave_nothing_behind(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(digest_cache, "_FROM_BYTES", 101)
    remembered_digest([weights], counting("a" * 64)[0], tied=True)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"not a digest", b"\xff" * 64])
def test_damaged_memory_is_computed_anew(weights, tmp_path, content):
    remembered_digest([weights], counting("a" * 64)[0], tied=True)
    (entry,) = (tmp_path / "cache" / "mechtest" / "digests").iterdir()
    entry.write_bytes(content)
    assert remembered_digest([weights], counting("b" * 64)[0], tied=True) == "b" * 64


def test_unwritable_cache_costs_time_only(weights, tmp_path):
    (tmp_path / "cache").write_text("a file where the directory would be")
    assert remembered_digest([weights], counting("a" * 64)[0], tied=True) == "a" * 64
