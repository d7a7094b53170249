"""Which implementation of the segment kernels runs on this machine, for this device and dtype?"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from mechtest.errors import MechtestError, closest_names
from mechtest.kernels.arguments import ScanArguments

__all__ = ["Backend", "backend_for", "backend_name"]

VARIABLE = "MECHTEST_KERNELS"
_NEEDS = {
    "native": "a C compiler (cc) on PATH and a cache folder of your own",
    "numba": "the package numba",
}


@runtime_checkable
class Backend(Protocol):
    """One implementation; the arguments are those of `mechtest.kernels.segments`, in order."""

    name: str

    def conv(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        windows: torch.Tensor,
        starts: torch.Tensor,
        activate: bool,
    ) -> torch.Tensor:
        """Run `conv_segments`."""
        ...

    def scan(
        self,
        x: torch.Tensor,
        delta: torch.Tensor,
        decay: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        h_start: torch.Tensor,
        starts: torch.Tensor,
        D: torch.Tensor | None,
        gate: torch.Tensor | None,
        given: torch.Tensor | None,
        keep: torch.Tensor | None,
        softplus: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run `scan_segments`, without gradients."""
        ...

    def scan_with_gradient(
        self,
        x: torch.Tensor,
        delta: torch.Tensor,
        decay: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        h_start: torch.Tensor,
        starts: torch.Tensor,
        D: torch.Tensor | None,
        gate: torch.Tensor | None,
        given: torch.Tensor | None,
        keep: torch.Tensor | None,
        softplus: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run `scan_segments` so that gradients flow back to every tensor."""
        ...

    def gate(
        self, y: torch.Tensor, x: torch.Tensor, D: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        """Run `gate_rows`."""
        ...

    def silu(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `silu_rows`."""
        ...

    def softplus(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `softplus_rows`."""
        ...

    def rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Run `rms_norm_rows`."""
        ...


@runtime_checkable
class Resumes(Protocol):
    """An implementation that can start many segments from one state without copying it."""

    def resume(
        self, scan: ScanArguments, slots: torch.Tensor | None, out: torch.Tensor
    ) -> torch.Tensor:
        """Run `resume_segments` on checked arguments."""
        ...


def backend_for(device: str, dtype: torch.dtype) -> Backend:
    """Return the fastest implementation that serves a device and dtype.

    On the CPU and in float32 the first of these that this machine can have: `native` (C, compiled
    on first use), `numba`, `torch`. The environment variable MECHTEST_KERNELS insists on one.

    Raises:
        MechtestError: MECHTEST_KERNELS names no implementation, or one that cannot be had here.
    """
    forced = os.environ.get(VARIABLE, "")
    if forced and forced not in _CPU:
        raise MechtestError(
            f"{VARIABLE} names no implementation of the kernels",
            given=forced,
            closest=closest_names(forced, _CPU),
            expected=f"one of {', '.join(_CPU)}, or nothing for the fastest",
            next_step=f"unset {VARIABLE} or correct it",
        )
    if forced == "torch" or (device == "cpu" and dtype is not torch.float32):
        return _torch()
    if device == "cpu":
        return _fastest_on_cpu() if not forced else _insisted_on(forced)
    return _cuda() if device == "cuda" else _torch()


def backend_name(device: str, dtype: torch.dtype) -> str:
    """Return the name of the implementation that runs: native, numba, torch or cuda."""
    return backend_for(device, dtype).name


@functools.cache
def _torch() -> Backend:
    from mechtest.kernels.torch_backend import TorchBackend

    return TorchBackend()


@functools.cache
def _native() -> Backend | str:
    from mechtest.kernels.native_backend import NativeBackend
    from mechtest.kernels.native_build import CannotBuildError

    try:
        return NativeBackend()
    except CannotBuildError as error:
        return str(error)


@functools.cache
def _numba() -> Backend | str:
    try:
        module = importlib.import_module("mechtest.kernels.numba_backend")
    except (ImportError, RuntimeError) as error:
        # RuntimeError: numba finds no folder to keep compiled code in, or no code for this machine.
        return str(error)
    backend: Backend = module.NumbaBackend()
    return backend


@functools.cache
def _cuda() -> Backend:
    backend: Backend = importlib.import_module("mechtest.kernels.cuda_backend").CudaBackend()
    return backend


_CPU: dict[str, Callable[[], Backend | str]] = {
    "native": _native,
    "numba": _numba,
    "torch": _torch,
}
"""Fastest first; each gives a backend, or why there is none."""


@functools.cache
def _fastest_on_cpu() -> Backend:
    found = (make() for make in _CPU.values())
    return next(backend for backend in found if not isinstance(backend, str))


def _insisted_on(name: str) -> Backend:
    found = _CPU[name]()
    if isinstance(found, str):
        raise MechtestError(
            f"the {name} kernels that {VARIABLE} insists on cannot be had here",
            given=f"{VARIABLE}={name}",
            expected=_NEEDS[name],
            next_step=f"unset {VARIABLE}, or put this right: {found}",
        )
    return found
