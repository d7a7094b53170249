"""A killed sweep goes on where it was, bit by bit, and never from another sweep's file."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mechtest.errors import NonFiniteError, ShapeError, SweepFileError
from mechtest.interventions import sweep_journal
from mechtest.interventions.sweep_journal import (
    FinishedCell,
    SweepJournal,
    plan_digest,
    read_sweep_journal,
)

HEADER = {"weights": "ab12", "prompts": "cd34", "sites": ["blocks.*.hook_h"], "batch": 512}
PLAN = plan_digest(HEADER)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "sweep.jsonl"


def opened(path, header=HEADER, **options):
    return SweepJournal(path, plan_digest(header), header, **options)


def cell(row, column, values=(0.5, -1.25), reason=""):
    return FinishedCell(row, column, np.array(values), reason)


def written(path, *cells):
    with opened(path) as journal:
        for one in cells:
            journal.write(one)
    return path


def finished(path):
    with opened(path) as journal:
        return {at: found.values.tolist() for at, found in journal.finished.items()}


def test_what_was_written_is_there_again(path):
    written(path, cell(0, 1), cell(2, 3, (1.0, 0.0)))
    with opened(path) as journal:
        assert sorted(journal.finished) == [(0, 1), (2, 3)]
        assert journal.finished[0, 1].values.tolist() == [0.5, -1.25]
        assert journal.dropped == 0
        journal.write([cell(4, 0), cell(4, 1)])
    assert sorted(finished(path)) == [(0, 1), (2, 3), (4, 0), (4, 1)]


def test_numbers_come_back_bit_by_bit(path):
    rng = np.random.default_rng(0)
    narrow = np.concatenate([rng.normal(size=50), [-0.0, 1e-45, 3e38]]).astype(np.float32)
    wide = np.concatenate([rng.normal(size=50), [1e-300, 1e300]])
    written(path, cell(0, 0, narrow), cell(0, 1, wide))
    with opened(path) as journal:
        back = journal.finished[0, 0].values
        assert back.dtype == np.float32
        assert back.tobytes() == narrow.tobytes()
        assert journal.finished[0, 1].values.tobytes() == wide.tobytes()


def test_a_missing_number_keeps_its_reason(path):
    written(path, cell(0, 0, (np.nan, 1.0), "prompt 'a' has no position 7"))
    with opened(path) as journal:
        back = journal.finished[0, 0]
        assert np.isnan(back.values[0])
        assert back.values[1] == 1.0
        assert back.reason == "prompt 'a' has no position 7"


@pytest.mark.parametrize(
    ("values", "reason", "error"),
    [
        ((np.nan, 1.0), "", NonFiniteError),
        ((np.inf, 1.0), "because", NonFiniteError),
        (((1.0, 2.0),), "", ShapeError),
    ],
    ids=["no reason", "infinite", "no vector"],
)
def test_values_that_mean_nothing_are_refused_and_leave_no_trace(path, values, reason, error):
    with opened(path) as journal, pytest.raises(error, match="row 3, column 5"):
        journal.write([cell(0, 0), cell(3, 5, values, reason)])
    assert finished(path) == {}


@pytest.mark.parametrize("length", range(0, 200, 7))
def test_a_first_line_cut_off_anywhere_is_begun_anew(path, length):
    written(path)
    first = path.read_bytes().split(b"\n")[0]
    path.write_bytes(first[:length])
    written(path, cell(1, 1))
    assert path.read_bytes().split(b"\n")[0] == first
    assert sorted(finished(path)) == [(1, 1)]


def test_a_torn_last_line_is_dropped_at_every_length_and_told(path):
    written(path, cell(0, 0))
    before = path.read_bytes()
    written(path, cell(7, 7))
    whole = path.read_bytes()
    (start,) = [i for i in range(len(before), len(whole)) if whole[i:].startswith(b'{"cells"')]
    for end in range(start + 1, len(whole)):
        path.write_bytes(whole[:end])
        with opened(path) as journal:
            assert sorted(journal.finished) == [(0, 0)]
            assert journal.dropped == 1
            journal.write(cell(9, 9))
        assert sorted(finished(path)) == [(0, 0), (9, 9)]


def test_a_damaged_line_in_the_middle_costs_its_own_places_only(path):
    written(path, cell(0, 0), cell(1, 1), cell(2, 2))
    lines = path.read_bytes().split(b"\n")
    (middle,) = [i for i, line in enumerate(lines) if b"[[1,1," in line]
    lines[middle] = lines[middle].replace(b"AAAA", b"AABA")
    path.write_bytes(b"\n".join(lines))
    with opened(path) as journal:
        assert sorted(journal.finished) == [(0, 0), (2, 2)]
        assert journal.dropped == 1


@pytest.mark.parametrize("keep", ["nothing", "header"])
def test_an_empty_file_and_a_header_alone_have_nothing_finished(path, keep):
    written(path)
    first = path.read_bytes().split(b"\n")[0]
    path.write_bytes(b"" if keep == "nothing" else first + b"\n")
    with opened(path) as journal:
        assert journal.finished == {}
        assert journal.dropped == 0
    assert path.read_bytes().split(b"\n")[0] == first


def test_another_sweep_is_refused_field_by_field(path):
    written(path, cell(0, 0))
    before = path.read_bytes()
    other = {**HEADER, "weights": "ff00", "positions": ["last"]}
    del other["batch"]
    with pytest.raises(SweepFileError, match="belongs to another sweep") as caught:
        opened(path, other)
    assert caught.value.given == (
        'weights was "ab12", is "ff00"; batch was 512, is absent; positions was absent, is ["last"]'
    )
    assert "another path, or delete" in caught.value.next_step
    assert path.read_bytes() == before
    assert sorted(finished(path)) == [(0, 0)], "the refused one keeps no lock"


def test_a_header_that_went_through_json_is_the_same_sweep(path):
    written(path, cell(0, 0))
    same = {**HEADER, "sites": ("blocks.*.hook_h",)}
    with opened(path, dict(reversed(same.items()))) as journal:
        assert sorted(journal.finished) == [(0, 0)]


@pytest.mark.parametrize(
    "content",
    [
        b"important notes",
        b"important notes\n",
        b'{"format":"mechtest-sweep/1"}\n',
        b'{"format":"mechtest-sweep-journal/2","plan":"","header":{}}\n',
        b'{"format":"mechtest-sweep-journal/1"}\n',
        b"\x00\xff\n",
    ],
    ids=["text", "lines", "result", "later format", "no plan", "bytes"],
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(SweepFileError, match="not a journal"):
        opened(path)
    assert path.read_bytes() == content


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(SweepFileError, match="is a directory"):
        opened(tmp_path)


def test_reading_needs_no_lock(path):
    with opened(path) as journal:
        journal.write(cell(0, 0))
        content = read_sweep_journal(path)
    assert content.header == HEADER
    assert sorted(content.cells) == [(0, 0)]


def test_a_closed_journal_says_so(path):
    journal = opened(path)
    journal.close()
    journal.close()
    with pytest.raises(SweepFileError, match="closed before"):
        journal.write(cell(0, 0))


def test_a_discarded_journal_is_gone(path):
    journal = opened(path)
    journal.discard()
    assert not path.exists()
    assert finished(path) == {}


def test_a_file_replaced_while_it_is_being_locked_is_opened_anew(path, monkeypatch):
    """The lock of a deleted file guards nothing."""
    written(path, cell(0, 0))
    real, calls = sweep_journal.fcntl.flock, []

    def flock(descriptor, how):
        if not calls:
            path.unlink()
        calls.append(how)
        real(descriptor, how)

    monkeypatch.setattr(sweep_journal.fcntl, "flock", flock)
    written(path, cell(5, 5))
    assert len(calls) == 2
    assert sorted(finished(path)) == [(5, 5)]


def test_a_full_disk_leaves_no_half_line(path, monkeypatch):
    journal = opened(path)
    real = os.write

    def short(descriptor, data):
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:10])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(OSError, match="No space left"):
        journal.write(cell(0, 0))
    monkeypatch.setattr(os, "write", real)
    journal.write(cell(1, 1))
    journal.close()
    with opened(path) as journal:
        assert sorted(journal.finished) == [(1, 1)]
        assert journal.dropped == 0


def test_lines_reach_the_disk_every_few_seconds(path, monkeypatch):
    now, synced = [0.0], []
    monkeypatch.setattr(sweep_journal.time, "monotonic", lambda: now[0])
    journal = opened(path, sync_seconds=5.0)
    monkeypatch.setattr(os, "fsync", synced.append)
    for second in range(1, 12):
        now[0] = float(second)
        journal.write(cell(second, 0))
    assert len(synced) == 2
    journal.close()
    assert len(synced) == 3


# --- processes --------------------------------------------------------------------------------

WRITER = """
import json, sys
import numpy as np
from mechtest.interventions.sweep_journal import FinishedCell, SweepJournal, plan_digest
path, header = sys.argv[1], json.loads(sys.argv[2])
with SweepJournal(path, plan_digest(header), header) as journal:
    print("open", flush=True)
    for i in range(10**9):
        values = np.random.default_rng(i).normal(size=4000).astype(np.float32)
        journal.write([FinishedCell(i, 0, values), FinishedCell(i, 1, -values)])
"""


@pytest.fixture
def writer(path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), json.dumps(HEADER)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"open\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def wait_for_bytes(path, count):
    deadline = time.monotonic() + 60
    while path.stat().st_size < count:
        assert time.monotonic() < deadline, "the writer does not write"
        time.sleep(0.002)


def test_a_writer_that_is_killed_loses_no_line_that_was_there(path, writer):
    """Kill -9 in the middle of writing, then go on."""
    wait_for_bytes(path, 500_000)
    whole = path.read_bytes().count(b'{"cells"') - 1  # the last one may be half there
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    with opened(path) as journal:
        assert journal.dropped <= 1
        rows = sorted({row for row, _ in journal.finished})
        assert rows == list(range(len(rows)))
        assert len(rows) >= whole > 10
        for (row, column), found in journal.finished.items():
            values = np.random.default_rng(row).normal(size=4000).astype(np.float32)
            assert np.array_equal(found.values, -values if column else values)
        journal.write(cell(len(rows), 0))
    assert (len(rows), 0) in finished(path)


def test_a_second_writer_is_refused_by_name_until_the_first_is_dead(path, writer):
    with pytest.raises(SweepFileError, match=f"being written by process {writer.pid} on") as caught:
        opened(path)
    assert "a path each" in caught.value.next_step
    writer.kill()
    writer.wait()
    opened(path).close()


def test_a_second_writer_in_one_process_is_refused(path):
    with opened(path), pytest.raises(SweepFileError, match="written by this process"):
        opened(path)
    opened(path).close()
