"""What holds for every test: no network, and array shapes are checked as annotated.

Both are put in place when this file is read, before any test module is imported.
"""

import socket
import sys

import pytest
from hypothesis.internal.conjecture import providers
from jaxtyping import install_import_hook

CHECKED = ["mechtest.kernels", "mechtest.models", "mechtest.tasks"]
"""Sub-packages, never `mechtest` itself: pytest has loaded its plugin before this file.

Not `mechtest.checkpoints`: it checks what it reads from files itself, with messages for users, and
a type checker in front of that would answer first.
"""

_early = sorted(name for name in CHECKED if name in sys.modules)
if _early:
    raise pytest.UsageError(
        f"{', '.join(_early)} imported before tests/conftest.py: shapes would go unchecked. "
        "The pytest plugin and the root conftest.py must not import them."
    )
install_import_hook(CHECKED, "beartype.beartype")

# Hypothesis would parse every module of ours for constants to try: a minute in each process, for
# numbers that mean nothing here. Strategies name the values that matter.
providers._get_local_constants = lambda: providers._local_constants


class NetworkBlockedError(RuntimeError):
    """A test tried to reach the network."""


_INTERNET = {socket.AF_INET, socket.AF_INET6}
_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def _refuse(target):
    raise NetworkBlockedError(
        f"a test tried to reach {target!r}: tests run offline. Use a local fixture instead."
    )


def _guarded_connect(self, address):
    if self.family in _INTERNET:
        _refuse(address)
    return _connect(self, address)


def _guarded_connect_ex(self, address):
    if self.family in _INTERNET:
        _refuse(address)
    return _connect_ex(self, address)


def _guarded_getaddrinfo(host, *args, **kwargs):
    _refuse(host)


socket.socket.connect = _guarded_connect
socket.socket.connect_ex = _guarded_connect_ex
socket.getaddrinfo = _guarded_getaddrinfo
