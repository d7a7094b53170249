"""What was registered before the claims were checked, and does it still hold?

`claims.lock` is JSON with sorted keys, one claim a line, so that a change of a threshold is one
line of a diff. It is found by walking up from the claim files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mechtest.errors import RegistrationError
from mechtest.plugin.levels import Budget, RegisteredClaim, budget
from mechtest.plugin.plan import PlannedClaim

__all__ = [
    "Lock",
    "LockedClaim",
    "changes",
    "differences",
    "find_lock",
    "parse_lock",
    "read_lock",
    "write_lock",
]

LOCK_FORMAT = "mechtest-lock/1"
LOCK_NAME = "claims.lock"
_STATIC = ("family", "statement", "expect", "exact")


@dataclass(frozen=True, slots=True)
class LockedClaim:
    """A registered claim.

    Attributes:
        family: Name of its family.
        statement: The claim as a sentence.
        expect: Verdict it is written to come to.
        exact: Whether it is an identity.
        settings: What was chosen before the data were looked at, one dict for each assertion.
        prompts: Digest of the prompts, empty without prompts.
    """

    family: str
    statement: str
    expect: str
    exact: bool
    settings: tuple[Mapping[str, Any], ...] = ()
    prompts: str = ""


@dataclass(frozen=True)
class Lock:
    """A `claims.lock`.

    Attributes:
        alpha: Error rate shared by all claims.
        seed: Root seed.
        ordered: Of each family.
        claims: By key, in the order of their families.
    """

    alpha: float
    seed: int
    ordered: Mapping[str, bool]
    claims: Mapping[str, LockedClaim]

    @cached_property
    def budget(self) -> Budget:
        """How alpha is shared over the registered claims."""
        claims = [RegisteredClaim(k, c.family, c.expect, c.exact) for k, c in self.claims.items()]
        return budget(self.alpha, claims, self.ordered)

    @property
    def text(self) -> str:
        """The file's content."""
        plans = self.budget.families
        families = {n: {"ordered": p.ordered, "claims": list(p.claims)} for n, p in plans.items()}
        claims = {
            key: {
                "family": claim.family,
                "order": self.budget.order(key),
                "statement": claim.statement,
                "expect": claim.expect,
                "exact": claim.exact,
                "settings": list(claim.settings),
                "prompts": claim.prompts,
            }
            for key, claim in self.claims.items()
        }
        return (
            f'{{\n"alpha": {_compact(self.alpha)},\n'
            f'"claims": {_by_line(claims)},\n'
            f'"families": {_by_line(families)},\n'
            f'"format": {_compact(LOCK_FORMAT)},\n'
            f'"seed": {_compact(self.seed)}\n}}\n'
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def find_lock(files: Iterable[str], rootdir: Path) -> Path | None:
    """Return the lock that belongs to claim files.

    Raises:
        RegistrationError: They belong to different locks.
    """
    found: dict[Path, str] = {}
    for file in sorted(set(files)):
        for directory in (rootdir / file).parents:
            if (directory / LOCK_NAME).is_file():
                found.setdefault(directory / LOCK_NAME, file)
                break
            if directory == rootdir:
                break
    if len(found) > 1:
        raise RegistrationError(
            "claims of two locks in one run: they do not share one error rate",
            given="; ".join(f"{path} for {file}" for path, file in found.items()),
            next_step="run them one after the other, or merge them: delete one lock and write the "
            "other again with --mechtest-lock",
        )
    return next(iter(found), None)


def home_of_lock(files: Iterable[str], rootdir: Path) -> Path:
    """Return where a new lock for claim files goes: beside or above all of them."""
    directories = [str((rootdir / file).parent) for file in files]
    return Path(os.path.commonpath(directories)) / LOCK_NAME if directories else rootdir / LOCK_NAME


def read_lock(path: Path) -> Lock:
    """Read a lock.

    Raises:
        RegistrationError: It is no lock of this format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error
    return parse_lock(text, str(path))


def parse_lock(text: str, name: str) -> Lock:
    """Read the text of a lock.

    Args:
        text: The content.
        name: What errors call it.

    Raises:
        RegistrationError: It is no lock of this format.
    """
    try:
        content = json.loads(text)
        if content["format"] != LOCK_FORMAT:
            raise ValueError(f"format {content['format']!r}, not {LOCK_FORMAT}")
        keys = [key for plan in content["families"].values() for key in plan["claims"]]
        if sorted(keys) != sorted(content["claims"]):
            raise ValueError("families and claims do not name the same claims")
        claims = {key: _locked(content["claims"][key]) for key in keys}
        ordered = {name: bool(plan["ordered"]) for name, plan in content["families"].items()}
        alpha, seed = float(content["alpha"]), int(content["seed"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(name, error) from error
    if not 0 < alpha < 1:
        raise RegistrationError(f"{name} has the error rate {alpha}", expected="between 0 and 1")
    return Lock(alpha, seed, ordered, claims)


def _unreadable(name: str, error: Exception) -> RegistrationError:
    return RegistrationError(
        f"{name} cannot be read as a lock: {type(error).__name__}: {error}",
        given=name,
        next_step="take it back from version control, or write it anew with --mechtest-lock",
    )


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock; readers see the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(lock.text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def differences(locked: LockedClaim, claim: PlannedClaim) -> list[str]:
    """Return how a collected claim differs from what was registered, before it has run."""
    pairs = ((name, getattr(locked, name), getattr(claim, name)) for name in _STATIC)
    return [f"{name} {_shown(old)} -> {_shown(new)}" for name, old, new in pairs if old != new]


def settings_differences(
    locked: LockedClaim, settings: Sequence[Mapping[str, Any]], prompts: str
) -> list[str]:
    """Return how what a claim did differs from what was registered."""
    found = json.loads(json.dumps(list(settings), default=str))
    before = json.loads(json.dumps(list(locked.settings), default=str))
    lines = []
    if len(found) != len(before):
        lines.append(f"{len(before)} assertions -> {len(found)}")
    for old, new in zip(before, found, strict=False):
        lines += [
            f"{name} {_shown(old.get(name))} -> {_shown(new.get(name))}"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
    if prompts and prompts != locked.prompts:
        lines.append(f"prompts {locked.prompts[:12] or 'none'} -> {prompts[:12]}")
    return lines


def changes(old: Lock | None, new: Lock) -> list[str]:
    """Return what a new lock changes, in sentences."""
    if old is None:
        return [f"{len(new.claims)} claims registered in {len(new.ordered)} families"]
    lines = [
        f"{name} {getattr(old, name)} -> {getattr(new, name)}"
        for name in ("alpha", "seed")
        if getattr(old, name) != getattr(new, name)
    ]
    lines += [
        f"family {name}: {_order_word(old.ordered[name])} -> {_order_word(new.ordered[name])}"
        for name in new.ordered
        if name in old.ordered and old.ordered[name] != new.ordered[name]
    ]
    lines += [f"added {key}" for key in new.claims if key not in old.claims]
    lines += [f"removed {key}" for key in old.claims if key not in new.claims]
    for key, claim in new.claims.items():
        before = old.claims.get(key)
        if before is not None:
            found = [
                f"{name} {_shown(getattr(before, name))} -> {_shown(getattr(claim, name))}"
                for name in _STATIC
                if getattr(before, name) != getattr(claim, name)
            ]
            found += settings_differences(before, claim.settings, claim.prompts)
            lines += [f"changed {key}: {'; '.join(found)}"] if found else []
    if not lines and old.text != new.text:
        lines.append("the order of claims changed")
    return lines


def _order_word(ordered: bool) -> str:
    return "ordered" if ordered else "unordered"


def _locked(content: Mapping[str, Any]) -> LockedClaim:
    return LockedClaim(
        family=str(content["family"]),
        statement=str(content["statement"]),
        expect=str(content["expect"]),
        exact=bool(content["exact"]),
        settings=tuple(content["settings"]),
        prompts=str(content["prompts"]),
    )


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _by_line(content: Mapping[str, object]) -> str:
    lines = [f"{_compact(key)}: {_compact(value)}" for key, value in sorted(content.items())]
    return "{\n" + ",\n".join(lines) + "\n}" if lines else "{}"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else _compact(value)
    return text if len(text) <= 60 else text[:57] + "..."
