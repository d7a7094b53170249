"""Which options and ini keys does mechtest add to pytest, and what do they come to?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mechtest.errors import closest_names
from mechtest.plugin.baseline_options import (
    BASELINE_INI,
    BaselineOptions,
    add_baseline_options,
    read_baseline_options,
)
from mechtest.running_claim import DEFAULT_MEMORY

__all__ = ["ENGINES", "Options", "add_options", "read_options"]

ENGINES = ("auto", "packed", "hooked")
MIB = 2**20

_INI = {
    "model": ("args", "Models to check claims on instead of their families' (default: none)."),
    "checkpoint": ("args", "Checkpoints of a suite to check (default: the family's, else last)."),
    "device": ("string", "Device that models are loaded on (default: cpu)."),
    "dtype": ("string", "Type of weights: float32, float64, bfloat16, float16 (default: float32)."),
    "engine": ("string", "What carries interventions out: auto, packed, hooked (default: auto)."),
    "memory": ("string", "MiB that a batch of packed rows may take (default: 512)."),
    "report": ("string", "Directory of the claims report (default: claims-report)."),
    "seed": ("string", "Root seed of all random draws (default: from the lock, else 0)."),
    "alpha": ("string", "Error rate shared by all claims (default: from the lock, else 0.05)."),
    "inconclusive": ("string", "What an inconclusive claim does: fail, xfail or skip."),
    "twins": ("string", "Untrained twins that each supported claim is checked in (default: 0)."),
    "require_all": ("bool", "Fail when registered claims were not checked (default: in CI)."),
    **BASELINE_INI,
}


def add_options(parser: pytest.Parser) -> None:
    """Add the group `mechtest` and its ini keys."""
    add = parser.getgroup("mechtest", "claims about models (mechtest)").addoption
    add(
        "--mechtest-model",
        action="append",
        metavar="PATH",
        help="Check claims on this suite, checkpoint directory or repository instead of the one "
        "their family names. May be given several times.",
    )
    add(
        "--mechtest-checkpoint",
        action="append",
        metavar="NAME",
        help="Checkpoint of a suite to check: a name such as step-02500 or 2500, 'last', or 'all'. "
        "May be given several times. Default: what the family says, else 'last'.",
    )
    add("--mechtest-device", metavar="DEVICE", help="Load models on this device. Default: cpu.")
    add("--mechtest-dtype", metavar="DTYPE", help="Load models as this type. Default: float32.")
    _add_engine(add)
    add(
        "--mechtest-report",
        metavar="DIR",
        help="Write the claims report into this directory; an empty DIR writes none. "
        "Default: claims-report under rootdir.",
    )
    add(
        "--mechtest-seed",
        type=int,
        metavar="N",
        help="Root seed of all random draws. Default: from claims.lock, else 0. Another seed than "
        "the lock's makes the run exploratory.",
    )
    add(
        "--mechtest-alpha",
        type=float,
        metavar="RATE",
        help="Probability of any false 'supported' among all claims. Default: from claims.lock, "
        "else 0.05. Another rate than the lock's makes the run exploratory.",
    )
    _add_modes(add)
    add_baseline_options(add)
    for name, (kind, text) in _INI.items():
        # An unset ini key of no type is "" for a string; bool and args keys have such defaults too.
        parser.addini(
            f"mechtest_{name}",
            text,
            type=kind,  # type: ignore[arg-type]
            default={"args": [], "bool": False}.get(kind, ""),
        )


def _add_engine(add: Callable[..., None]) -> None:
    """Add the options that change how interventions are carried out, and no result."""
    add(
        "--mechtest-engine",
        metavar="ENGINE",
        help="What carries interventions out: 'auto' packs what can be packed into few passes and "
        "uses hooks for the rest, 'hooked' uses hooks for everything, 'packed' refuses what cannot "
        "be packed. Default: auto.",
    )
    add(
        "--mechtest-memory",
        metavar="MIB",
        help="MiB that a batch of packed rows may take. Default: 512.",
    )


def _add_modes(add: Callable[..., None]) -> None:
    """Add the options that change what a run is for, and how strict it is."""
    # Two flags and not one with an optional value, which would swallow the path after it.
    add(
        "--mechtest-lock",
        action="store_const",
        const="write",
        dest="mechtest_lock",
        help="Write claims.lock from the collected claims, without running the models.",
    )
    add(
        "--mechtest-lock=check",
        action="store_const",
        const="check",
        dest="mechtest_lock",
        help="Run as usual, and fail when claims.lock is stale.",
    )
    add(
        "--mechtest-plan",
        action="store_true",
        default=False,
        help="Only print what each claim would need: level, templates, controls, seeds, forward "
        "passes. Fails when some claim could never be supported.",
    )
    add(
        "--mechtest-resume",
        action="store_true",
        default=False,
        help="Go on with the run that was interrupted in the report's directory: take finished "
        "claims over and run the rest. Refused where something has changed.",
    )
    add(
        "--mechtest-inconclusive",
        choices=("fail", "xfail", "skip"),
        help="What an inconclusive claim does to its test. Default: fail.",
    )
    add(
        "--mechtest-twins",
        type=int,
        metavar="N",
        help="Check every supported claim again in N untrained twins of its model, discovery in "
        "the test included. A claim that they support as well is invalid. Default: 0.",
    )
    add(
        "--mechtest-require-all",
        action="store_true",
        default=False,
        help="Exit with 8 when registered claims were deselected or not collected. "
        "Always on where the environment variable CI is true.",
    )


@dataclass(frozen=True, slots=True)
class Options:
    """What command line and ini file ask for.

    Attributes:
        models: Models that replace the families', as written.
        checkpoints: Checkpoints that replace the families', as written.
        device: Where models are loaded.
        dtype: As which type.
        engine: What carries interventions out.
        memory: Bytes that a batch of packed rows may take.
        report: Directory of the report; None for no report.
        seed: Root seed where one is asked for.
        alpha: Error rate where one is asked for.
        lock: `write`, `check` or nothing.
        plan: Whether to say only what would be done.
        inconclusive: `fail`, `xfail` or `skip`.
        require_all: Whether every registered claim has to be checked.
        ci: Whether this is a CI machine.
        twins: Untrained twins that each supported claim is checked in.
        earlier: What is asked for about earlier runs.
        resume: Whether finished claims are taken over from an interrupted run.
    """

    models: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    device: str = "cpu"
    dtype: str = "float32"
    engine: str = "auto"
    memory: int = DEFAULT_MEMORY
    report: Path | None = None
    seed: int | None = None
    alpha: float | None = None
    lock: str = ""
    plan: bool = False
    inconclusive: str = "fail"
    require_all: bool = False
    ci: bool = False
    twins: int = 0
    earlier: BaselineOptions = field(default_factory=BaselineOptions)
    resume: bool = False

    @property
    def planning(self) -> bool:
        """Whether claims say what they would do instead of doing it."""
        return self.plan or self.lock == "write"


def read_options(config: pytest.Config, environment: dict[str, str]) -> Options:
    """Return what command line and ini file ask for; the command line wins.

    Raises:
        UsageError: A value that means nothing.
    """

    def text(name: str, default: str = "") -> str:
        given = config.getoption(f"mechtest_{name}")
        return str(config.getini(f"mechtest_{name}") or default if given is None else given)

    def several(name: str) -> tuple[str, ...]:
        given = config.getoption(f"mechtest_{name}") or config.getini(f"mechtest_{name}")
        return tuple(str(item) for item in given)

    ci = environment.get("CI", "").strip().lower() not in ("", "0", "false", "no", "off")
    report = text("report", "claims-report") if config.getoption("mechtest_report") != "" else ""
    alpha = _number("alpha", text("alpha"), float)
    if alpha is not None and not 0 < alpha < 1:
        raise pytest.UsageError(f"--mechtest-alpha is a rate between 0 and 1, not {alpha}")
    seed = _number("seed", text("seed"), int)
    if seed is not None and seed < 0:
        raise pytest.UsageError(f"--mechtest-seed is a whole number of at least 0, not {seed}")
    inconclusive = text("inconclusive", "fail")
    if inconclusive not in ("fail", "xfail", "skip"):
        raise pytest.UsageError(
            f"mechtest_inconclusive is fail, xfail or skip, not {inconclusive!r}"
        )
    return Options(
        models=several("model"),
        checkpoints=several("checkpoint"),
        device=text("device", "cpu"),
        dtype=text("dtype", "float32"),
        engine=_engine(text("engine", "auto")),
        memory=_memory(text("memory")),
        report=config.rootpath / report if report else None,
        seed=None if seed is None else int(seed),
        alpha=alpha,
        lock=str(config.getoption("mechtest_lock") or ""),
        plan=bool(config.getoption("mechtest_plan")),
        inconclusive=inconclusive,
        require_all=bool(config.getoption("mechtest_require_all"))
        or bool(config.getini("mechtest_require_all"))
        or ci,
        ci=ci,
        twins=_twins(text("twins")),
        earlier=read_baseline_options(config, text),
        resume=_resume(config, report),
    )


def _resume(config: pytest.Config, report: str) -> bool:
    if not config.getoption("mechtest_resume"):
        return False
    if not report:
        raise pytest.UsageError("--mechtest-resume needs a report's directory: journals are in it")
    if config.getoption("mechtest_plan") or config.getoption("mechtest_lock") == "write":
        raise pytest.UsageError("--mechtest-resume goes on with a run; plans and locks run nothing")
    return True


def _twins(text: str) -> int:
    twins = _number("twins", text, int)
    if twins is not None and twins < 0:
        raise pytest.UsageError(f"--mechtest-twins is a whole number of at least 0, not {twins}")
    return int(twins or 0)


def _engine(name: str) -> str:
    if name in ENGINES:
        return name
    closest = closest_names(name, ENGINES)
    meant = f"; did you mean {closest[0]}?" if closest else ""
    raise pytest.UsageError(
        f"--mechtest-engine is {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, not {name!r}{meant}"
    )


def _memory(text: str) -> int:
    """Return bytes for a number of MiB."""
    mebibytes = _number("memory", text, float)
    if mebibytes is None:
        return DEFAULT_MEMORY
    if not (0 < mebibytes < math.inf):
        raise pytest.UsageError(f"--mechtest-memory is a positive number of MiB, not {text}")
    return max(1, round(mebibytes * MIB))


def _number(name: str, text: str, kind: type[int | float]) -> int | float | None:
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise pytest.UsageError(f"mechtest_{name} is no number: {text!r}") from None
