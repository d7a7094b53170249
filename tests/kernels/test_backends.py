"""Which kernels run: the fastest this machine has, the one insisted on, never a silent surprise."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mechtest.errors import MechtestError
from mechtest.kernels import backend_name, backends, native_build
from mechtest.kernels.native_backend import NativeBackend, _refuse_wrong_numbers
from tests.kernels.segment_cases import BACKENDS

ROOT = Path(__file__).parents[2]
NAME = (
    "import torch; from mechtest.kernels import backend_name as n; print(n('cpu', torch.float32))"
)


def environment(tmp_path, **changes):
    found = {k: v for k, v in os.environ.items() if k not in ("MECHTEST_KERNELS", "XDG_CACHE_HOME")}
    return {**found, "XDG_CACHE_HOME": str(tmp_path), **changes}


def printed(code, env):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=env, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_table_of_shapes_runs_on_what_there_is():
    """A machine of the tests has both: nothing is skipped without a word."""
    assert set(BACKENDS) == {"native", "numba"}


def test_the_fastest_one_is_taken_and_other_dtypes_go_to_torch(monkeypatch):
    monkeypatch.delenv("MECHTEST_KERNELS", raising=False)
    assert backend_name("cpu", torch.float32) == "native"
    assert {backend_name("cpu", d) for d in (torch.float64, torch.bfloat16)} == {"torch"}
    assert backend_name("mps", torch.float32) == "torch"


@pytest.mark.parametrize("name", ["native", "numba", "torch"])
def test_one_can_be_insisted_on(name, monkeypatch):
    monkeypatch.setenv("MECHTEST_KERNELS", name)
    assert backend_name("cpu", torch.float32) == name


def test_an_unknown_name_gets_the_closest_ones(monkeypatch):
    monkeypatch.setenv("MECHTEST_KERNELS", "nativ")
    with pytest.raises(MechtestError, match="names no implementation") as caught:
        backend_name("cpu", torch.float32)
    assert caught.value.closest == ("native",)


def test_one_that_cannot_be_had_is_an_error_when_insisted_on(monkeypatch):
    monkeypatch.setenv("MECHTEST_KERNELS", "native")
    monkeypatch.setitem(backends._CPU, "native", lambda: "there is no C compiler")
    with pytest.raises(MechtestError, match="cannot be had here") as caught:
        backend_name("cpu", torch.float32)
    assert "there is no C compiler" in caught.value.next_step


def test_without_a_compiler_numba_runs_and_nothing_is_written(tmp_path):
    assert printed(NAME, environment(tmp_path, PATH=str(tmp_path / "nothing"))) == "numba"
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_and_numba_torch_runs(tmp_path):
    code = f"import sys; sys.modules['numba'] = None; {NAME}"
    assert printed(code, environment(tmp_path, PATH=str(tmp_path / "nothing"))) == "torch"


def test_importing_loads_and_compiles_nothing(tmp_path):
    code = (
        "import sys, mechtest.kernels, mechtest.kernels.segments;"
        "print([m for m in ('numba', 'llvmlite', 'mechtest.kernels.native_backend')"
        " if m in sys.modules])"
    )
    assert printed(code, environment(tmp_path)) == "[]"
    assert list(tmp_path.iterdir()) == []


def test_where_native_runs_numba_is_not_imported():
    code = f"{NAME}; import sys; print('numba' in sys.modules)"
    env = {k: v for k, v in os.environ.items() if k != "MECHTEST_KERNELS"}
    assert printed(code, env).split() == ["native", "False"]


def test_four_processes_may_be_the_first_at_once(tmp_path):
    """Each ends with the same library, whole, and nothing half-made is left."""
    command = [sys.executable, "-W", "error", "-c", NAME]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, env=environment(tmp_path), **options) for _ in range(4)]
    finished = [process.communicate() for process in started]
    assert [out.strip() for out, _ in finished] == ["native"] * 4, finished
    folder = tmp_path / "mechtest" / "kernels"
    (library,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not library.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def test_a_folder_that_others_can_write_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native_build.cache_folder().chmod(0o777)
    with pytest.raises(native_build.CannotBuildError, match="somebody else"):
        native_build.built_library()


def test_a_source_that_does_not_compile_is_no_backend(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "segments.c"
    broken.write_text("int mt_scan(")
    monkeypatch.setattr(native_build, "SOURCE", broken)
    with pytest.raises(native_build.CannotBuildError, match="error"):
        NativeBackend()
    assert list((tmp_path / "mechtest" / "kernels").iterdir()) == []


@pytest.mark.parametrize("content", ["", "int other(void) { return 0; }"], ids=["empty", "foreign"])
def test_a_damaged_library_is_no_backend(tmp_path, monkeypatch, content):
    library = tmp_path / "library.so"
    library.write_text(content)
    if content:
        source = tmp_path / "other.c"
        source.write_text(content)
        subprocess.run(["cc", "-shared", "-o", library, source], check=True)
    monkeypatch.setattr("mechtest.kernels.native_backend.built_library", lambda: library)
    with pytest.raises(native_build.CannotBuildError, match="cannot be loaded"):
        NativeBackend()


def test_a_library_with_wrong_numbers_is_refused(monkeypatch):
    native = NativeBackend()
    right = native.scan
    monkeypatch.setattr(native, "scan", lambda *a: tuple(each * 1.001 for each in right(*a)))
    with pytest.raises(native_build.CannotBuildError, match="scan gives wrong numbers"):
        _refuse_wrong_numbers(native)
