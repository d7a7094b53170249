"""A report reaches the disk whole or not at all, and another format is refused with a reason."""

import json
import os

import pytest

from mechtest.errors import MechtestError
from mechtest.report import files, read_report, write_report
from tests.report.example import example_report, hostile_report, report_of, row

NAMES = ["report.json", "report.md", "report.html", "ctrf.json"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("report", [example_report(), hostile_report()], ids=["plain", "hostile"])
def test_a_report_comes_back_as_it_was_written(tmp_path, report):
    folder = tmp_path / "deep" / "claims-report"
    paths = write_report(report, folder)
    assert [path.name for path in paths] == NAMES
    assert names_in(folder) == sorted(NAMES)
    assert read_report(paths[0]) == read_report(folder) == report
    assert b"\r" not in paths[0].read_bytes()


def test_writing_again_replaces_all_files(tmp_path):
    write_report(report_of([row("a", "an earlier one", "refuted")]), tmp_path)
    write_report(report_of([row("a", "a later one", "supported")]), str(tmp_path))
    for name in NAMES:
        text = (tmp_path / name).read_text()
        assert "a later one" in text
        assert "an earlier one" not in text


@pytest.mark.parametrize("place", ["markdown", "html", "ctrf", "fsync", "full"])
def test_the_old_report_stays_when_writing_fails(tmp_path, monkeypatch, place):
    old = report_of([row("a", "a", "supported")])
    write_report(old, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in NAMES}

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    if place == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif place == "full":
        write, calls = files._write_through, []

        def third_fails(path, text):
            calls.append(path)
            path.write_text("half") if len(calls) == 3 else write(path, text)
            if len(calls) == 3:
                fail()

        monkeypatch.setattr(files, "_write_through", third_fails)
    else:
        monkeypatch.setattr(files, place, fail)
    with pytest.raises(OSError, match="no space"):
        write_report(example_report(), tmp_path)
    assert names_in(tmp_path) == sorted(NAMES)
    assert {name: (tmp_path / name).read_bytes() for name in NAMES} == before


def test_a_number_that_is_none_is_never_written(tmp_path):
    report = report_of([row("a", "a", "supported")])
    report["run"]["seconds"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(report, tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"schema": "mechtest-report/2"}', "expected  schema 'mechtest-report/1'"),
        ('{"format": "mechtest-record/2"}', "given     schema None"),
        ("[]", "schema None"),
        ("not json", "cannot be read as a report"),
        ("[" * 100_000, "cannot be read as a report"),
        (b"\xff\xfe", "cannot be read as a report"),
        ('{"schema": "mechtest-report/1"}', "no usable 'summary'"),
    ],
    ids=["major", "record", "list", "text", "deep", "binary", "torn"],
)
def test_what_is_not_a_report_is_refused(tmp_path, content, expected):
    path = tmp_path / "report.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MechtestError) as caught:
        read_report(path)
    assert expected in str(caught.value)
    assert "next " in str(caught.value)


def test_a_missing_report_says_how_to_make_one(tmp_path):
    with pytest.raises(MechtestError, match="--mechtest-report"):
        read_report(tmp_path / "nowhere.json")
    with pytest.raises(MechtestError, match="no report at"):
        read_report(tmp_path)


def test_fields_of_a_later_minor_version_are_kept(tmp_path):
    report = {**report_of([row("a", "a", "supported")]), "later": 1}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert read_report(tmp_path) == report
