"""Which positions of a prompt does the part after `@` mean?

@3  @-1        one position (negative counts from the end)
@last          the last position
@S2  @S2+1     the position a prompt file calls S2, and the one after it
@3:  @2:6      a range, as Python slices
@S2:           from S2 on
(nothing)      every position
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mechtest.errors import PositionError

_BOUND = re.compile(r"(?P<role>[A-Za-z_]\w*)?(?P<offset>[+-]?\d+)?")
LAST = "last"


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range: an index, or a role of the prompt file plus an offset in tokens."""

    role: str | None
    offset: int

    @classmethod
    def parse(cls, text: str, whole: str) -> Bound:
        """Read `3`, `-1`, `last`, `S2` or `S2+1`."""
        match = _BOUND.fullmatch(text)
        if (
            match is None
            or not text
            or (match["role"] and match["offset"] and match["offset"][0] not in "+-")
        ):
            raise PositionError(
                f"cannot read the position {whole!r}",
                given=whole,
                expected="an index (3, -1), 'last', a role (S2, S2+1) or a range (3:, 2:6, S2:)",
            )
        return cls(match["role"], int(match["offset"] or 0))

    def index(self, n_pos: int, roles: Mapping[str, int]) -> int:
        """Return the non-negative index this bound means in a prompt of `n_pos` tokens."""
        if self.role is None:
            return self.offset if self.offset >= 0 else n_pos + self.offset
        if self.role == LAST:
            return n_pos - 1 + self.offset
        if self.role not in roles:
            known = ", ".join([*sorted(roles), LAST])
            raise PositionError(
                f"nobody defined the position role {self.role!r}",
                given=f"@{self}",
                expected=f"an index, or one of the roles: {known}",
                next_step="name roles in the prompt file (positions: {role: index}); "
                "a bare model knows only indices and 'last'",
            )
        return roles[self.role] + self.offset

    def __str__(self) -> str:
        if self.role is None:
            return str(self.offset)
        return self.role + (f"{self.offset:+d}" if self.offset else "")


@dataclass(frozen=True, slots=True)
class Position:
    """One position (`stop` unused) or a range of positions; see the module's table.

    Attributes:
        start: First position, or None for the beginning.
        stop: End of the range (exclusive), or None for the end.
        is_range: False for a single position.
    """

    start: Bound | None = None
    stop: Bound | None = None
    is_range: bool = True

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read what stands after `@`.

        Raises:
            PositionError: The text is no position.
        """
        if ":" not in text:
            return cls(Bound.parse(text, text), None, is_range=False)
        first, _, second = text.partition(":")
        return cls(
            Bound.parse(first, text) if first else None,
            Bound.parse(second, text) if second else None,
        )

    @classmethod
    def at(cls, index: int) -> Position:
        """Return the position of one index."""
        return cls(Bound(None, index), None, is_range=False)

    @property
    def everywhere(self) -> bool:
        """True for 'every position'."""
        return self.is_range and self.start is None and self.stop is None

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that a prompt must define before this position means anything."""
        bounds = (self.start, self.stop)
        return tuple(
            b.role for b in bounds if b is not None and b.role not in (None, LAST) and b.role
        )

    def indices(self, n_pos: int, roles: Mapping[str, int] | None = None) -> range:
        """Return the positions meant in a prompt of `n_pos` tokens.

        Args:
            n_pos: Tokens in the prompt.
            roles: Index of each role in this prompt.

        Raises:
            PositionError: Outside the prompt, an empty range, or an undefined role.
        """
        roles = roles or {}
        start = 0 if self.start is None else self.start.index(n_pos, roles)
        if self.is_range:
            stop = n_pos if self.stop is None else self.stop.index(n_pos, roles)
        else:
            stop = start + 1
        if not 0 <= start < stop <= n_pos:
            raise PositionError(
                f"position @{self} is outside a prompt of {n_pos} tokens",
                given=f"@{self}",
                expected=f"0 to {n_pos - 1}, or -{n_pos} to -1",
            )
        return range(start, stop)

    def __str__(self) -> str:
        first = "" if self.start is None else str(self.start)
        if not self.is_range:
            return first
        return f"{first}:{'' if self.stop is None else self.stop}"


EVERYWHERE = Position()
