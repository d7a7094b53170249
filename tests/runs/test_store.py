"""Runs are kept whole, found again by any of their names, and removed only when asked."""

import datetime as dt
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from mechtest.errors import RunError, RunNotFoundError
from mechtest.report import read_report
from mechtest.runs import RunStore, collect_runs, find_store, resolve, run_name, store
from tests.report.example import report_of, row

NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


@pytest.fixture
def runs(tmp_path):
    return RunStore(tmp_path / ".mechtest")


def report(statement="a claim"):
    return report_of([row("test_a", statement, "supported")])


def saved(runs, count, **options):
    times = [NOON + dt.timedelta(hours=hour) for hour in range(count)]
    return [runs.save(report(), now=now, **options).name for now in times]


def test_a_name_tells_when_and_from_which_commit():
    name = run_name(NOON.astimezone(dt.timezone(dt.timedelta(hours=2))), "0123456789abcdef")
    assert name.startswith("20260102T120000Z-0123456-")
    assert len(name.rpartition("-")[2]) == 6
    assert run_name(NOON, "").startswith("20260102T120000Z-0000000-")


def test_a_run_comes_back_as_it_was(runs):
    done = runs.save(report("as it was"), tag="main", now=NOON)
    assert {path.name for path in done.path.iterdir()} == {
        "report.json", "report.md", "report.html", "ctrf.json", "run.json",
    }  # fmt: skip
    assert read_report(done.path)["claims"][0]["statement"] == "as it was"
    (run,) = runs.runs()
    assert (run.name, run.tags, run.latest) == (done.name, ("main",), True)
    assert run.headline == "The only claim is as expected: 1 supported."
    assert (runs.root / ".gitignore").read_text().endswith("*\n")


def test_a_tag_moves_and_says_from_where(runs):
    first, second = (runs.save(report(), tag="main", now=NOON) for _ in range(2))
    assert (first.retired, second.retired) == ("", first.name)
    assert str(second) == f"saved as {second.name}; tag main points to it (was {first.name})"
    assert runs.tags == {"main": second.name}
    assert first.path.is_dir()


@pytest.mark.parametrize(
    "tag", ["latest", "a/b", "../x", " ", "-x", "20260102T120000Z-0000000-abcdef"]
)
def test_a_tag_is_a_plain_name(runs, tag):
    with pytest.raises(RunError, match="no name for a tag"):
        runs.save(report(), tag=tag)
    assert not runs.root.exists()


def test_runs_saved_at_once_are_all_there_and_whole(runs):
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda i: runs.save(report(f"run {i}"), tag="main", now=NOON).name,
                              range(8)))  # fmt: skip
    assert sorted(names) == runs.names
    statements = {read_report(run.path)["claims"][0]["statement"] for run in runs.runs()}
    assert statements == {f"run {i}" for i in range(8)}
    assert runs.latest in names
    assert runs.tags["main"] in names
    hidden = [p.name for folder in (runs.root, runs.runs_folder) for p in folder.glob(".*")]
    assert hidden == [".gitignore"]


def test_a_crash_while_saving_leaves_no_half_run(runs, monkeypatch):
    (name,) = saved(runs, 1)

    def crash(content, folder):
        folder.mkdir()
        (folder / "report.json").write_text('{"half"')
        raise OSError("disk full")

    monkeypatch.setattr(store, "write_report", crash)
    with pytest.raises(RunError, match="disk full"):
        runs.save(report(), tag="main")
    assert (runs.names, runs.latest, runs.tags) == ([name], name, {})
    (part,) = runs.runs_folder.glob(".*.part")
    assert collect_runs(runs, keep=5).leftovers == ()  # it may still be being written
    os.utime(part, (0, 0))
    assert collect_runs(runs, keep=5).leftovers == (part,)
    assert not part.exists()


def test_every_name_of_a_run_leads_to_it(runs, tmp_path):
    first, second = saved(runs, 2)
    runs.save(report(), tag="main", now=NOON + dt.timedelta(days=1))
    path = runs.runs_folder / first / "report.json"
    for word in (first, "20260102T12", str(path), str(path.parent)):
        assert resolve(word, runs, tmp_path).path == path
    assert resolve("main", runs, tmp_path).path == resolve("latest", runs, tmp_path).path
    assert resolve("main", runs, tmp_path).name == f"main ({runs.latest})"
    assert resolve("20260102T13", runs, tmp_path).name == second
    # What is both a tag and a directory is the tag, and the directory with ./ before it.
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "report.json").write_text("{}")
    assert resolve("main", runs, tmp_path).path.parent.name == runs.latest
    assert resolve("./main", runs, tmp_path).path == tmp_path / "main" / "report.json"


@pytest.mark.parametrize(
    ("word", "said", "closest"),
    [("mian", "is called 'mian'", "main"), ("2026", "2 runs have names that begin so", "2026"),
     ("", "is called ''", "main")],
)  # fmt: skip
def test_a_wrong_name_tells_the_closest(runs, tmp_path, word, said, closest):
    saved(runs, 1)
    runs.save(report(), tag="main", now=NOON)
    with pytest.raises(RunNotFoundError, match=said) as caught:
        resolve(word, runs, tmp_path)
    assert any(closest in name for name in caught.value.closest)


def test_a_tag_whose_run_is_gone_says_so(runs, tmp_path):
    done = runs.save(report(), tag="main")
    for file in done.path.iterdir():
        file.unlink()
    done.path.rmdir()
    with pytest.raises(RunNotFoundError, match="points to a run that is gone"):
        resolve("main", runs, tmp_path)


def test_only_old_runs_without_a_name_are_removed(runs):
    names = saved(runs, 5)
    tagged = runs.save(report(), tag="paper", now=NOON - dt.timedelta(days=9)).name
    runs.save(report(), now=NOON + dt.timedelta(days=1))  # the latest
    tried = collect_runs(runs, keep=2, dry=True)
    assert [run.name for run in tried.removed] == names[2::-1]
    assert len(runs.names) == 7
    done = collect_runs(runs, keep=2)
    assert done.removed == tried.removed
    assert runs.names == sorted([tagged, *names[3:], runs.latest])
    assert list(runs.runs_folder.glob(".*")) == []
    with pytest.raises(RunError, match="at least 0"):
        collect_runs(runs, keep=-1)


def test_the_nearest_store_is_found_from_below(runs, tmp_path):
    below = tmp_path / "claims" / "deep"
    below.mkdir(parents=True)
    assert find_store(below) == below / ".mechtest"  # where one would be
    saved(runs, 1)
    assert find_store(below) == runs.root
