"""How is a prompt file read line by line without losing a line, and written back?

Knows JSON Lines, not what a row means (`pair.py`) nor what a collection is (`pairs.py`).
"""

import json
from collections.abc import Iterable
from pathlib import Path

from mechtest.errors import PromptError
from mechtest.tasks.findings import Finding
from mechtest.tasks.pair import PromptPair

__all__ = ["read_lines", "write_lines"]


def read_lines(path: Path) -> tuple[list[tuple[str, object]], list[Finding]]:
    """Parse every line of a JSON Lines file.

    Returns:
        `("line 12", value)` for every line that parses, and a finding for every line that does
        not. Empty lines are allowed and passed over.

    Raises:
        PromptError: There is no such file, or it is not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise PromptError(
            f"there is no prompt file {path}",
            given=str(path),
            expected="a file of JSON rows, one a line",
            next_step="check the path: it is relative to the directory pytest runs in",
        ) from error
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}",
            given=str(path),
            next_step="save the file as UTF-8",
        ) from error
    values: list[tuple[str, object]] = []
    findings: list[Finding] = []
    # Only a newline ends a row: str.splitlines would also cut at the separators inside a prompt.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            values.append((place, json.loads(line, object_pairs_hook=_without_repeats)))
        except ValueError as error:
            findings.append(_malformed(place, line, error))
        except RecursionError as error:
            findings.append(_malformed(place, line, error))
    return values, findings


def write_lines(path: Path, pairs: Iterable[PromptPair]) -> None:
    """Write pairs as JSON Lines; what `read_lines` gives back is equal."""
    rows = [json.dumps(pair.to_row(), ensure_ascii=False) for pair in pairs]
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8", newline="\n")


def _malformed(place: str, line: str, error: Exception) -> Finding:
    shown = line.strip() if len(line.strip()) <= 60 else line.strip()[:57] + "..."
    return Finding(
        "malformed_json", place, f"not a row of JSON: {error}", shown, (), "one JSON object a line"
    )


def _without_repeats(items: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object, refusing a key that stands there twice (json keeps the last in silence)."""
    found: dict[str, object] = {}
    for key, value in items:
        if key in found:
            raise ValueError(f"key {key!r} stands there twice")
        found[key] = value
    return found
