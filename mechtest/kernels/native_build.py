"""How does the C file become a library on this machine, once, and never somebody else's?

Compiled by the user's own `cc` on first use and kept in the user's cache under a name that changes
with the source, the compiler, its flags and the processor. Several processes may want it at once:
one compiles, to a file that is moved into place when it is whole, and the others wait.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["CannotBuildError", "built_library", "cache_folder"]

SOURCE = Path(__file__).with_name("segments.c")
INCLUDED = tuple(SOURCE.with_name(name) for name in ("vectors.h", "adjoint.h"))
OPTIMISED = ("-std=gnu11", "-O2", "-ffp-contract=off", "-fno-math-errno")
FLAGS = (*OPTIMISED, "-fvisibility=hidden", "-shared", "-fPIC")
FOR_THIS_CPU = ("-march=native", "-mcpu=native", "")
"""Tried in this order: compilers for ARM differ in which one they know."""
TIMEOUT_S = 120


class CannotBuildError(RuntimeError):
    """Why there is no library; the next backend is taken, unless this one was asked for by name."""


def built_library() -> Path:
    """Return the library for this machine, compiling it if the cache has none.

    Raises:
        CannotBuildError: No compiler, no place to keep a library, or the source does not compile.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CannotBuildError("there is no C compiler (cc, gcc or clang) on PATH")
    folder = cache_folder()
    library = folder / f"segments-{_fingerprint(compiler)}.so"
    if not _is_ours(library):
        with _alone_in(folder):
            if not _is_ours(library):
                _compile(compiler, library)
    return library


def cache_folder() -> Path:
    """Return the user's own folder for libraries, which nobody else can write to.

    Raises:
        CannotBuildError: It cannot be made, or is not the user's alone.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    folder = root / "mechtest" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError) as error:
        raise CannotBuildError(f"cannot make the cache folder {folder}: {error}") from error
    if not _is_ours(folder):
        raise CannotBuildError(f"{folder} belongs to, or can be written by, somebody else")
    return folder


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process compile and the others wait for its library, where files can be locked."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_ours(path: Path) -> bool:
    """Return whether the path exists, is this user's, and nobody else may write to it."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _fingerprint(compiler: str) -> str:
    parts = [path.read_text(encoding="utf-8") for path in (SOURCE, *INCLUDED)]
    parts += [" ".join((*FLAGS, *FOR_THIS_CPU)), compiler]
    parts += [_run([compiler, "--version"]), platform.machine(), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    """Return what tells processors apart that need different code."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.processor()} {platform.platform()}"
    kinds = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def _compile(compiler: str, library: Path) -> None:
    problems = []
    for target in FOR_THIS_CPU:
        handle, name = tempfile.mkstemp(dir=library.parent, suffix=".so")
        os.close(handle)
        flags = [*FLAGS, target] if target else list(FLAGS)
        try:
            _run([compiler, *flags, "-o", name, str(SOURCE), "-lm"])
            Path(name).chmod(0o700)
            ctypes.CDLL(name)
            Path(name).replace(library)
            return
        except (CannotBuildError, OSError) as error:
            problems.append(str(error))
        finally:
            Path(name).unlink(missing_ok=True)
    raise CannotBuildError("\n".join(problems))


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the compiler found on PATH, no shell
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuildError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise CannotBuildError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout
