"""Which number does a directory name such as `step-001000-2BT` or `seed3` stand for?"""

from __future__ import annotations

import re

from mechtest.errors import ConfigError

__all__ = ["SEED_PATTERN", "STEP_PATTERN", "compile_pattern", "parse_number"]

# step1000, step-001000-2BT, step1000-tokens4B, global_step8, checkpoint-500, 1000
STEP_PATTERN = r"(?:(?:global[-_]?)?step|checkpoint|ckpt|iter(?:ation)?)?[-_]?(\d+)(?:[-_].*)?"
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


def parse_number(name: str, pattern: re.Pattern[str]) -> int | None:
    """Return the number in a name, or None when the whole name does not match."""
    match = pattern.fullmatch(name)
    return int(match[1]) if match and match[1] and match[1].isdecimal() else None
