"""How does a package offer names without importing what is behind them?"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from mechtest.errors import closest_names


def lazy_names(
    package: str, home: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package whose names live elsewhere.

    Args:
        package: Name of the package that offers the names.
        home: Public name -> module that defines it.
    """

    def __getattr__(name: str) -> object:
        if name not in home:
            near = closest_names(name, home)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")
        return getattr(importlib.import_module(home[name]), name)

    def __dir__() -> list[str]:
        return sorted(home)

    return __getattr__, __dir__
