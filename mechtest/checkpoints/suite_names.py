"""Which number does a directory name such as `step-001000-2BT` or `seed3` stand for?"""

from __future__ import annotations

import re
from decimal import Decimal

from mechtest.errors import ConfigError

__all__ = ["SEED_PATTERN", "STEP_PATTERN", "compile_pattern", "parse_number", "parse_step"]

# step1000, step-001000-2BT, step1000-tokens4B, global_step8, checkpoint-500, 1000
STEP_PATTERN = r"(?:(?:global[-_]?)?step|checkpoint|ckpt|iter(?:ation)?)?[-_]?(\d+)(?:[-_].*)?"
# 10B, 2.5BT, tokens-10B, 300M-tokens. Upper case, because 12b and 130m are sizes of models.
_TOKENS = re.compile(
    r"(?:[Tt]okens?[-_]?)?(\d+(?:\.\d+)?)(K|M|B|T)T?(?:[-_]?[Tt]okens?)?|[Tt]okens?[-_]?(\d+)"
)
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
# seed0, seed-01, seed_3, run2, 4
SEED_PATTERN = r"(?:seed|run)?[-_]?(\d+)"


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a naming pattern: it must match whole names and have one group, the number.

    Raises:
        ConfigError: It is no regular expression, or has not exactly one group.
    """
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(
            f"{pattern!r} is not a regular expression: {error}", given=pattern
        ) from error
    if compiled.groups != 1:
        raise ConfigError(
            f"the naming pattern {pattern!r} has {compiled.groups} groups",
            given=pattern,
            expected=r"exactly one group, around the number: step-(\d+)",
        )
    return compiled


def parse_step(name: str, pattern: re.Pattern[str]) -> int | None:
    """Return the step in a name; without a pattern of one's own, else the tokens in it (`10B`)."""
    step = parse_number(name, pattern)
    tokens = _TOKENS.fullmatch(name) if pattern.pattern == STEP_PATTERN else None
    if step is not None or tokens is None:
        return step
    if tokens[3] is not None:
        return int(tokens[3])
    # Decimal text, not floats: 2.3 billion is a whole number.
    return int(Decimal(tokens[1]) * _UNITS[tokens[2]])


def parse_number(name: str, pattern: re.Pattern[str]) -> int | None:
    """Return the number in a name, or None when the whole name does not match."""
    match = pattern.fullmatch(name)
    return int(match[1]) if match and match[1] and match[1].isdecimal() else None
