"""How do the tokens of two prompts line up, drawn so that a person sees where they differ?"""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

__all__ = ["draw_alignment"]

LINE = 88
AROUND = 5
GAP = "-"


def draw_alignment(
    clean: Sequence[str], corrupted: Sequence[str], roles: Mapping[str, int] | None = None
) -> str:
    """Draw two token rows under each other with `^` under every difference.

    Args:
        clean: Tokens of the clean prompt as text; a leading blank is drawn as a middle dot.
        corrupted: Tokens of the corrupted prompt. Where the lengths differ, the rows are aligned
            so that equal runs stand under each other, and `-` fills the gaps.
        roles: Role names by position in the clean prompt, drawn above it.

    Returns:
        Lines `pos`, `role` (if there are roles), `clean`, `corrupted` and the marks; long prompts
        are cut to the surroundings of the differences and roles, and wrapped.
    """
    columns = _columns(clean, corrupted)
    names: dict[int, str] = {}
    for role, place in (roles or {}).items():
        names[place] = f"{names[place]},{role}" if place in names else role
    cells: list[tuple[str, ...]] = []
    for position, one, other in _surroundings(columns, names):
        mark = "" if one == other else "^"
        role = names.get(int(position), "") if position.isdigit() else ""
        cells.append((position, role, _visible(one), _visible(other), mark))
    labels = ("pos", "role", "clean", "corrupted", "")
    return "\n".join(
        "\n".join(
            f"{label:<9}  {'  '.join(row)}".rstrip()
            for label, row in zip(labels, _padded(chunk), strict=True)
            if label in ("pos", "clean", "corrupted") or any(cell.strip() for cell in row)
        )
        for chunk in _wrapped(cells)
    )


def _columns(clean: Sequence[str], corrupted: Sequence[str]) -> list[tuple[str, str, str]]:
    """Pair up tokens as (position in clean or "", clean token, corrupted token)."""
    if len(clean) == len(corrupted):
        pairs = zip(clean, corrupted, strict=True)
        return [(str(index), one, other) for index, (one, other) in enumerate(pairs)]
    columns = []
    matcher = SequenceMatcher(None, list(clean), list(corrupted), autojunk=False)
    for _, start, stop, start_other, stop_other in matcher.get_opcodes():
        for step in range(max(stop - start, stop_other - start_other)):
            here, there = start + step, start_other + step
            position = str(here) if here < stop else ""
            one = clean[here] if here < stop else GAP
            other = corrupted[there] if there < stop_other else GAP
            columns.append((position, one, other))
    return columns


def _surroundings(
    columns: list[tuple[str, str, str]], names: Mapping[int, str]
) -> list[tuple[str, str, str]]:
    """Keep what is near a difference or a role; a run that is left out becomes one `...`."""
    marked = [
        index
        for index, (position, one, other) in enumerate(columns)
        if one != other or (position.isdigit() and int(position) in names)
    ]
    kept: list[tuple[str, str, str]] = []
    for index, column in enumerate(columns):
        if len(columns) <= 4 * AROUND or any(abs(index - mark) <= AROUND for mark in marked):
            kept.append(column)
        elif not kept or kept[-1][0] != "...":
            kept.append(("...", "...", "..."))
    return kept


def _wrapped(cells: list[tuple[str, ...]]) -> list[list[tuple[str, ...]]]:
    chunks: list[list[tuple[str, ...]]] = [[]]
    used = 0
    for cell in cells:
        width = max(map(len, cell)) + 2
        if chunks[-1] and used + width > LINE:
            chunks.append([])
            used = 0
        chunks[-1].append(cell)
        used += width
    return chunks


def _padded(chunk: list[tuple[str, ...]]) -> list[list[str]]:
    widths = [max(map(len, cell)) for cell in chunk]
    return [
        [cell[line].ljust(width) for cell, width in zip(chunk, widths, strict=True)]
        for line in range(5)
    ]


def _visible(token: str) -> str:
    shown = token.replace("\n", "\\n").replace("\t", "\\t")
    return "·" + shown[1:] if shown.startswith(" ") else shown
