"""Which state are the two packages in: missing, usable, or installed and broken?"""

import sys

import pytest
import torch

from mechtest.errors import MissingPackageError
from mechtest.kernels.cuda_backend import CudaBackend
from mechtest.kernels.cuda_packages import load_gpu_kernels

INSTALLED = ("mamba_ssm", "selective_scan_cuda", "causal_conv1d", "causal_conv1d_cuda")


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Hide the real packages, and return the folder in which a test may put others."""
    for name in list(sys.modules):
        if name.split(".")[0] in INSTALLED:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    load_gpu_kernels.cache_clear()
    yield tmp_path
    for name in list(sys.modules):
        if name.split(".")[0] in INSTALLED:
            monkeypatch.delitem(sys.modules, name)
    load_gpu_kernels.cache_clear()


def test_without_the_packages_the_backend_is_torch_and_says_so(packages, monkeypatch):
    for name in INSTALLED:
        monkeypatch.setitem(sys.modules, name, None)
    backend = CudaBackend(device_type="cpu")
    assert backend.name == "torch"
    assert backend.scan_obstacle(torch.zeros(1, 1)) == "mamba_ssm is not installed"


def test_installed_packages_are_found(packages):
    write(packages, "mamba_ssm/ops/selective_scan_interface.py", "def selective_scan_fn(): ...")
    write(packages, "causal_conv1d/__init__.py", "def causal_conv1d_fn(): ...")
    write(packages, "selective_scan_cuda.py", "")
    write(packages, "causal_conv1d_cuda.py", "")
    kernels = load_gpu_kernels()
    assert kernels.scan.__name__ == "selective_scan_fn"
    assert kernels.conv.__name__ == "causal_conv1d_fn"
    assert CudaBackend().name == "cuda"


@pytest.mark.parametrize(
    ("compiled", "said"),
    [
        (None, "ModuleNotFoundError: No module named 'selective_scan_cuda'"),
        ("raise ImportError('undefined symbol: _ZN3c104cuda')", "undefined symbol"),
        ("raise OSError('libcudart.so.12: cannot open')", "libcudart.so.12"),
    ],
    ids=["not compiled", "other torch", "other CUDA"],
)
def test_an_installed_package_that_cannot_be_loaded_is_an_error(packages, compiled, said):
    """Never a quiet fallback: whoever installed it believes that it runs."""
    write(packages, "mamba_ssm/__init__.py", "")
    if compiled is not None:
        write(packages, "selective_scan_cuda.py", compiled)
    with pytest.raises(MissingPackageError, match="mamba_ssm is installed, and its GPU") as caught:
        CudaBackend()
    assert said in caught.value.given
    assert "docs/gpu.md" in caught.value.next_step


def write(folder, path, text):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text)
