"""Are the two packages with Mamba's GPU kernels there, and do they load?

They are compiled against one torch and one CUDA, so "installed" and "usable" differ. Not installed
is an ordinary state, answered with None; installed and broken is an error, never a quiet fallback.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

from mechtest.errors import MissingPackageError

__all__ = ["GpuKernels", "load_gpu_kernels"]


class GpuKernels(NamedTuple):
    """The two functions, each None where its package is not installed.

    Attributes:
        scan: `mamba_ssm.ops.selective_scan_interface.selective_scan_fn`.
        conv: `causal_conv1d.causal_conv1d_fn`.
    """

    scan: Callable[..., Any] | None
    conv: Callable[..., Any] | None


@functools.cache
def load_gpu_kernels() -> GpuKernels:
    """Import what is installed, once a process.

    Raises:
        MissingPackageError: A package is installed, and it or its compiled half cannot be imported.
    """
    return GpuKernels(
        scan=_load(
            "mamba_ssm",
            "selective_scan_cuda",
            "mamba_ssm.ops.selective_scan_interface",
            "selective_scan_fn",
        ),
        conv=_load("causal_conv1d", "causal_conv1d_cuda", "causal_conv1d", "causal_conv1d_fn"),
    )


def _load(package: str, compiled: str, module: str, function: str) -> Callable[..., Any] | None:
    if importlib.util.find_spec(package) is None:
        return None
    try:
        # First, and by name: some versions of mamba_ssm import without it and fail when called.
        importlib.import_module(compiled)
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise MissingPackageError(
            f"{package} is installed, and its GPU kernels cannot be loaded",
            given=f"{type(error).__name__}: {error}",
            expected=f"{module}.{function} and {compiled}, built against the installed torch",
            next_step=f"build {package} again as docs/gpu.md says, or uninstall it to run in torch",
        ) from error
