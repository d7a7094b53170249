"""What remains of a run that was cut off, and how another goes on with it to the same report."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mechtest.cli import main
from mechtest.plugin import journal
from mechtest.plugin.journal import Journal, newest_run, read_journals
from tests.plugin.conftest import HEAD, QUICK

pytest_plugins = ["pytester"]

CLAIMS = """
from pathlib import Path

from mechtest.running_claim import current_claim

pytestmark = mt.family("f", prompts="prompts.jsonl", ordered=False)


def at(name):
    with Path("ran.log").open("a") as log:
        log.write(name + "\\n")
    if Path("stop").is_file() and Path("stop").read_text().split()[0] == name:
        how = Path("stop").read_text().split()[1]
        if how == "ctrl-c":
            raise KeyboardInterrupt
        if how == "controller":
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def shared():
    yield 1
    at("module-ended")


@mt.claim("first")
def test_a(shared, claim):
    at("a")
    claim.ledger.append(("half", "circuit"))
    fake(p=0.004)


@mt.claim("False: second", expect="refuted")
def test_b():
    at("b")
    fake("refuted", p=0.9)


@mt.claim("third, which is open")
def test_c(record_property):
    at("c")
    record_property("mine", 3)
    fake("inconclusive", p=0.2)


@pytest.mark.skip(reason="not here")
@mt.claim("skipped")
def test_d():
    fake()


@mt.claim("broken: no verdict, so it is run again")
def test_e():
    at("e")
    fake()
    if not current_claim().planning:
        raise OSError("no space")


@mt.claim("at which it ends")
def test_f(shared):
    at("f")
    fake()


@mt.claim("last")
def test_g(shared):
    at("g")
    fake(p=0.003)
"""
OTHER = "\n\n@mt.claim('another file')\ndef test_z():\n    fake()\n"
NOT_ALIKE = ("run",)


def alike(report):
    """What has to be equal: all but `run`, and frames of pytest in a failure's text."""
    report = {name: value for name, value in report.items() if name not in NOT_ALIKE}
    return {
        **report,
        "claims": [{**r, "message": r["message"].splitlines()[:1]} for r in report["claims"]],
    }


class Cut:
    """A project whose run is cut off where a file says."""

    def __init__(self, project):
        self.project = project
        project.write(test_a=CLAIMS, test_b=OTHER)
        (project.path / "prompts.jsonl").write_text('{"a": 1}\n')
        self.journals = project.path / "claims-report" / "journal"

    def reference(self):
        """The report of the run when nothing happens to it."""
        self.project.run("--mechtest-report=reference")
        report = json.loads((self.project.path / "reference" / "report.json").read_text())
        self.ran()
        return report

    def stop(self, claim, how):
        (self.project.path / "stop").write_text(f"{claim} {how}")

    def go_on(self):
        (self.project.path / "stop").unlink()

    def run(self, *options):
        """Run in a process of its own; returns its exit status."""
        command = [sys.executable, "-m", "pytest", *QUICK, "claims", *options]
        done = subprocess.run(
            command, cwd=self.project.path, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        return done.returncode

    def ran(self):
        """Which claims have run since the last time."""
        log = self.project.path / "ran.log"
        found = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return sorted(name for name in found if name != "module-ended")

    def settled(self):
        """Wait until workers without a controller have written their last."""
        before = None
        for _ in range(100):
            now = sum(path.stat().st_size for path in self.journals.glob("*.jsonl"))
            if now == before:
                return
            before = now
            time.sleep(0.3)


@pytest.fixture
def cut(project):
    return Cut(project)


def test_a_killed_process_is_accounted_for_and_gone_on_with(cut, capsys):
    reference = cut.reference()
    cut.stop("f", "process")
    assert cut.run() == -9
    assert cut.ran() == ["a", "b", "c", "e", "f"]
    assert not (cut.project.path / "claims-report" / "report.json").exists()

    assert main(["report", str(cut.project.path / "claims-report")]) == 1  # test_c failed
    printed = capsys.readouterr().out
    assert "rebuilt from the journals of the run" in printed
    assert "test_f was cut off: the evidence is incomplete" in printed
    report = cut.project.report
    assert cut.project.verdicts == {
        "test_a": "supported", "test_b": "refuted", "test_c": "inconclusive", "test_d": "skipped",
        "test_e": "invalid", "test_f": "interrupted", "test_g": "not_run", "test_z": "not_run",
    }  # fmt: skip
    assert not report["complete"]
    same = {row["id"]: row for row in alike(reference)["claims"]}
    assert [
        r for r in alike(report)["claims"] if r["verdict"] not in ("interrupted", "not_run")
    ] == [
        {**same[r["id"]], "p_adjusted": r["p_adjusted"]}
        for r in report["claims"]
        if r["verdict"] not in ("interrupted", "not_run")
    ]
    assert report["provenance"] == reference["provenance"]

    cut.go_on()
    result = cut.project.run("--mechtest-resume", "--junitxml=junit.xml", "-v")
    assert cut.ran() == ["e", "f", "g"]
    assert alike(cut.project.report) == alike(reference)
    assert result.ret == 1
    result.assert_outcomes(passed=5, failed=1, errors=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["*::test_b REFUTED (as expected)*", "resumed: 4 of 8 claims taken over from the run of *"]
    )
    junit = (cut.project.path / "junit.xml").read_text()
    assert 'name="mine" value="3"' in junit
    assert junit.count('name="mechtest_verdict"') == 8
    # Journals of the run that was gone on with are no longer needed.
    assert {path.stem.partition("-")[0] for path in cut.journals.iterdir()} == {"main", "resumed"}


def test_a_killed_controller_is_accounted_for_and_gone_on_with_in_parallel(cut):
    reference = cut.reference()
    cut.stop("f", "controller")
    assert cut.run("-n", "2") == -9
    cut.settled()
    assert main(["report", str(cut.journals)]) in (1, 8)
    assert cut.project.verdicts["test_f"] == "interrupted"
    assert "f" in cut.ran()
    # What ended without its fixtures being torn down is run again as well.
    lines = read_journals(cut.journals, newest_run(cut.journals)).events("done")
    done = {line["id"].rpartition("_")[2] for line in lines} - {"e"}
    assert done
    cut.go_on()
    assert cut.run("-n", "2", "--mechtest-resume") == 1
    assert cut.ran() == sorted({"a", "b", "c", "e", "f", "g"} - done)
    assert alike(cut.project.report) == alike(reference)


def test_a_killed_worker_is_in_the_rebuilt_report_as_in_the_runs_own(cut):
    cut.stop("f", "process")
    assert cut.run("-n", "1") == 1
    own = cut.project.report
    assert cut.project.verdicts["test_f"] == "crashed"
    assert main(["report", str(cut.project.path / "claims-report")]) == 1
    assert alike(cut.project.report) == alike(own)
    cut.ran()
    cut.go_on()
    assert cut.run("-n", "1", "--mechtest-resume") == 1
    assert cut.ran() == ["e", "f"]
    assert cut.project.report["complete"] is False  # one is skipped
    assert cut.project.verdicts["test_f"] == "supported"


def test_what_was_taken_over_survives_a_second_interruption(cut):
    reference = cut.reference()
    cut.stop("b", "ctrl-c")
    assert cut.project.run().ret == 2
    assert cut.project.verdicts["test_b"] == "interrupted"
    cut.stop("f", "ctrl-c")
    assert cut.project.run("--mechtest-resume").ret == 2
    assert cut.ran() == ["a", "b", "b", "c", "e", "f"]
    assert cut.project.verdicts["test_a"] == "supported"
    assert main(["report", str(cut.project.path / "claims-report")]) == 1
    cut.go_on()
    cut.project.run("--mechtest-resume")
    assert cut.ran() == ["e", "f", "g"]
    assert alike(cut.project.report) == alike(reference)
    cut.project.run("--mechtest-resume")  # nothing is left but what has no verdict
    assert cut.ran() == ["e"]
    assert alike(cut.project.report) == alike(reference)


def test_a_run_under_other_conditions_is_refused_field_by_field(cut):
    (cut.project.path / "claims" / "test_a.py").write_text(
        (HEAD + CLAIMS).replace('@pytest.mark.skip(reason="not here")', "")
    )
    cut.project.run("--mechtest-lock")
    cut.stop("f", "ctrl-c")
    cut.project.run()
    kept = {path.name: path.read_bytes() for path in cut.journals.iterdir()}
    report = cut.project.report
    cut.go_on()
    prompts = cut.project.path / "prompts.jsonl"
    claims = cut.project.path / "claims" / "test_b.py"
    lock, text = cut.project.lock_path.read_text(), claims.read_text()
    changes = {
        "seed 0 -> 7": lambda: ["--mechtest-seed=7"],
        "alpha 0.05 -> 0.01": lambda: ["--mechtest-alpha=0.01"],
        "engine auto -> hooked": lambda: ["--mechtest-engine=hooked"],
        "prompts.jsonl changed": lambda: prompts.write_text("{}") and [],
        "claims/test_b.py changed": lambda: claims.write_text(f"{text}#\n") and [],
        "claims/claims.lock changed": lambda: cut.project.lock_path.write_text(
            lock.replace("another file", "another")) and [],
        "claims/test_a.py::test_g: selected changed": lambda: ["-k", "not test_g"],
        "claims/test_b.py::test_z is no longer collected": lambda: ["claims/test_a.py"],
    }  # fmt: skip
    for harmless in ("--mechtest-plan", "--mechtest-lock", "--collect-only"):
        cut.project.run(harmless)
        assert cut.project.lock_path.read_text() == lock
    cut.ran()
    for text_of_it, change in changes.items():
        result = cut.project.run("--mechtest-resume", *change())
        assert result.ret == 4, text_of_it
        errors = result.stdout.str() + result.stderr.str()
        assert "the interrupted run cannot be resumed" in errors
        assert f"  {text_of_it}\n" in errors, errors
        prompts.write_text('{"a": 1}\n')
        claims.write_text(text)
        cut.project.lock_path.write_text(lock)
    assert cut.ran() == []
    assert {path.name: path.read_bytes() for path in cut.journals.iterdir()} == kept
    assert cut.project.report == report
    cut.project.run("--mechtest-resume")
    assert cut.ran() == ["e", "f", "g"]


def test_with_workers_a_refusal_is_one_message(cut):
    cut.stop("f", "ctrl-c")
    cut.project.run()
    cut.go_on()
    result = cut.project.run("--mechtest-resume", "--mechtest-seed=7", "-n", "1")
    assert result.ret == 4
    assert (result.stdout.str() + result.stderr.str()).count("cannot be resumed") == 1
    assert not [path for path in cut.journals.iterdir() if path.name != "main.jsonl"]


def test_where_there_is_nothing_to_resume_the_run_is_an_ordinary_one(cut):
    result = cut.project.run("--mechtest-resume", "claims/test_b.py")
    assert cut.project.verdicts == {"test_z": "supported"}
    result.stdout.fnmatch_lines(["nothing to resume: no journal of an earlier run was found"])
    assert result.ret == 0
    assert result.stdout.str().count("nothing to resume") == 1
    (line,) = read_journals(cut.journals, newest_run(cut.journals)).events("end")
    for path in cut.journals.iterdir():  # a run of which only an end is known
        path.unlink()
    begun = Journal(cut.journals, "gw0", "an earlier one")
    begun.write("end", line)
    begun.write("done", {"id": line["id"], "failed": False})
    begun.close()
    assert main(["report", str(cut.journals)]) == 2
    result = cut.project.run("--mechtest-resume", "claims/test_b.py")
    result.stdout.fnmatch_lines(["nothing to resume: the earlier run ended before it had a plan"])
    for wrong, words in (
        (["--mechtest-report="], "needs a report's directory"),
        (["--mechtest-plan"], "plans and locks run nothing"),
    ):
        result = cut.project.run("--mechtest-resume", *wrong)
        assert result.ret == 4
        result.stderr.fnmatch_lines([f"*{words}*"])


def test_a_report_alone_gets_its_other_files_anew(cut, tmp_path, capsys):
    cut.project.run("claims/test_b.py")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "report.json").write_bytes(
        (cut.project.path / "claims-report" / "report.json").read_bytes()
    )
    assert main(["report", str(alone / "report.json"), "--output", str(tmp_path / "new")]) == 0
    assert main(["report", str(alone)]) == 0
    assert {path.name for path in alone.iterdir()} == {
        "report.json", "report.html", "report.md", "ctrf.json",
    }  # fmt: skip
    assert (tmp_path / "new" / "report.html").read_text() == (alone / "report.html").read_text()
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "there is no report" in capsys.readouterr().err


def test_rebuilding_and_its_command_need_no_torch(cut):
    cut.project.run("claims/test_b.py")
    code = (
        "import sys; from mechtest.cli import main; main(['report', 'claims-report']);"
        "print('modules', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cut.project.path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    modules = set(done.stdout.splitlines()[-1].split())
    assert "mechtest.plugin.rebuilding" in modules
    assert modules.isdisjoint({"torch", "scipy", "numpy"})


def test_a_full_disk_loses_the_journal_and_no_verdict(cut, monkeypatch):
    def full(file, raw):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "os", SimpleNamespace(**{**vars(os), "write": full}))
    result = cut.project.run("claims/test_b.py")
    assert cut.project.verdicts == {"test_z": "supported"}
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["a crash would have lost finished claims: main.jsonl could not be written: No space*"]
    )


@pytest.mark.parametrize("way", [[], ["-n", "1"]], ids=["one process", "worker"])
def test_a_report_that_cannot_be_written_is_no_green_run(cut, way):
    (cut.project.path / "taken").write_text("a file")
    result = cut.project.run("claims/test_b.py", "--mechtest-report=taken/report", *way)
    result.assert_outcomes(passed=1)
    assert result.ret == 8
    result.stdout.fnmatch_lines(["*the report could not be written: *"])
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_line_cut_short_by_a_full_disk_ends_the_journal(tmp_path, monkeypatch):
    kept = Journal(tmp_path, "gw0", "run")
    kept.write("start", {"id": "a"})
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, raw: real(file, raw[:9]))
    kept.write("end", {"id": "a", "facts": {}})
    monkeypatch.undo()
    kept.write("start", {"id": "b"})
    assert kept.failed == "gw0.jsonl could not be written: No space left on device"
    content = read_journals(tmp_path, "run")
    assert (content.torn, [line["id"] for line in content.events("start")]) == (1, ["a"])


def test_the_newest_run_is_the_one_that_began_last(tmp_path):
    assert newest_run(tmp_path) is None
    for name, began in (("gw0", 5.0), ("gw1", 7.0), ("main", 6.0)):
        line = {"event": "run", "run": f"of-{name}", "worker": name, "time": began}
        Path(tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "gw9.jsonl").write_text("{torn")
    (tmp_path / "odd.jsonl").symlink_to("/dev/zero")  # which could be read for ever
    assert newest_run(tmp_path) == "of-gw1"
