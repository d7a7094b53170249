"""Where do figures go, and what is said about the machine they came from?"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
COMPARED = ("mechtest", "mamba-lens", "transformer-lens", "transformers", "torch")


def versions(names: Sequence[str] = COMPARED) -> dict[str, str]:
    """Return the versions that the figures depend on, without local build suffixes."""
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in names}
    return {"python": platform.python_version(), **found}


def write(name: str, data: Mapping[str, Any], compared: Sequence[str] = COMPARED) -> None:
    """Write one result file; a number that is not finite is an error."""
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps({"versions": versions(compared), **data}, indent=1, allow_nan=False)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table with aligned columns."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def shown(number: float) -> str:
    """Return a difference as people read it."""
    return "0" if number == 0 else f"{number:.1e}"
