"""Which options keep a run, and hold it against an earlier one?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mechtest.errors import MechtestError

__all__ = ["BASELINE_INI", "BaselineOptions", "add_baseline_options", "read_baseline_options"]

FAIL_ON = ("any", "regressed")

BASELINE_INI = {
    "save": ("bool", "Keep the report of every run under .mechtest/runs (default: no)."),
    "baseline": ("string", "Run, tag, report or directory to compare with (default: none)."),
    "fail_on": ("string", "What makes the exit status red: any, regressed (default: any)."),
    "margin": ("string", "Share of an effect that may be lost (default: 0.2)."),
    "two_sided": ("bool", "Whether gaining more than the margin counts, too (default: no)."),
    "allow": ("string", "TOML file of findings that may be lost for now (default: none)."),
}


@dataclass(frozen=True, slots=True)
class BaselineOptions:
    """What is asked for about earlier runs.

    Attributes:
        save: Whether to keep this run.
        tag: Name it is kept under; empty for none.
        baseline: Report to compare with, as written; empty for none.
        fail_on: `any` or `regressed`.
        margin: Share of an effect that may be lost.
        two_sided: Whether gaining more counts, too.
        allow: Allow-list, as written; empty for none.
    """

    save: bool = False
    tag: str = ""
    baseline: str = ""
    fail_on: str = "any"
    margin: float = 0.2
    two_sided: bool = False
    allow: str = ""


def add_baseline_options(add: Callable[..., None]) -> None:
    """Add the options to pytest's parser."""
    # A flag and an option that always takes a value: one with an optional value would swallow the
    # path after it.
    add(
        "--mechtest-save",
        action="store_true",
        default=False,
        help="Keep the report of this run under .mechtest/runs.",
    )
    add(
        "--mechtest-tag",
        metavar="TAG",
        help="Keep the report of this run, and let TAG point to it.",
    )
    add(
        "--mechtest-baseline",
        metavar="REF",
        help="Compare with an earlier report: a tag, 'latest', a run (or how its name begins), a "
        "report.json or its directory.",
    )
    add(
        "--mechtest-fail-on",
        choices=FAIL_ON,
        help="What makes the exit status red: 'any' claim that is not as expected, and any finding "
        "of the baseline that was lost; or only what 'regressed' since the baseline. Default: any.",
    )
    add(
        "--mechtest-margin",
        metavar="SHARE",
        help="Share of an effect that may be lost before a finding has regressed. Default: 0.2.",
    )
    add(
        "--mechtest-two-sided",
        action="store_true",
        default=False,
        help="An effect that grew by more than the margin has regressed, too.",
    )
    add(
        "--mechtest-allow",
        metavar="FILE",
        help="TOML file of findings that may be lost for now, each with a reason and a date.",
    )


def read_baseline_options(
    config: pytest.Config, text: Callable[[str, str], str]
) -> BaselineOptions:
    """Return what command line and ini file ask for.

    Args:
        config: pytest's.
        text: Returns an option's or ini key's text, or a default.

    Raises:
        UsageError: A value that means nothing.
    """
    baseline, fail_on = text("baseline", ""), text("fail_on", "any")
    if fail_on not in FAIL_ON:
        raise pytest.UsageError(f"mechtest_fail_on is any or regressed, not {fail_on!r}")
    if fail_on == "regressed" and not baseline:
        raise pytest.UsageError(
            "--mechtest-fail-on=regressed needs something to have regressed from: give "
            "--mechtest-baseline=TAG (and keep a run with --mechtest-tag=TAG first)"
        )
    tag = _tag(config.getoption("mechtest_tag"))

    def flag(name: str) -> bool:
        return bool(config.getoption(f"mechtest_{name}")) or bool(config.getini(f"mechtest_{name}"))

    return BaselineOptions(
        save=flag("save") or bool(tag),
        tag=tag,
        baseline=baseline,
        fail_on=fail_on,
        margin=_margin(text("margin", "0.2")),
        two_sided=flag("two_sided"),
        allow=text("allow", ""),
    )


def _tag(given: str | None) -> str:
    from mechtest.runs.names import require_tag

    if given is None:
        return ""
    try:
        return require_tag(given)
    except MechtestError as error:
        raise pytest.UsageError(f"--mechtest-tag: {error}") from error


def _margin(text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        margin = -1.0
    if not 0 < margin < 1:
        raise pytest.UsageError(f"--mechtest-margin is a share between 0 and 1, not {text!r}")
    return margin
