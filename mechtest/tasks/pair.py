"""What is one row of a prompt file, and what can be wrong with it before any tokenizer is asked?"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from mechtest.errors import closest_names
from mechtest.tasks.findings import Finding

__all__ = ["PromptPair", "read_row"]

REQUIRED = ("clean", "corrupted", "answer", "foil", "positions")
OPTIONAL = ("id", "template", "changed", "seed", "behaviour")
KEYS = REQUIRED + OPTIONAL
EXPECTED_TYPES = {
    "id": "a non-empty string",
    "clean": "a non-empty string",
    "corrupted": "a non-empty string",
    "answer": "a non-empty string, or a list of them",
    "foil": "a non-empty string, or a list of them",
    "template": "a non-empty string",
    "positions": "an object {role: token index from 0, counting bos}",
    "changed": "a list of role names",
    "seed": "an integer",
    "behaviour": "a non-empty string",
}


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt, its corrupted twin, and what is right and wrong after the clean one.

    Attributes:
        id: Name of the row; derived from its content where the file has none.
        clean: Prompt on which the model shows the behaviour.
        corrupted: Twin of equal token length on which the right answer is (usually) the foil.
        answer: Right next tokens of the clean prompt as text, leading space included.
        foil: Wrong ones to compare with.
        template: Name of the sentence frame: the cluster, the unit of all statistics and of the
            split. Empty only until `PromptPairs` has derived one.
        positions: `(role, token index in the clean prompt counting bos)`, ordered by index.
        changed: Roles that sit exactly where clean and corrupted tokens differ; None: not stated.
        seed: Seed of the generator that made the row.
        behaviour: Name of the behaviour.
    """

    id: str
    clean: str
    corrupted: str
    answer: tuple[str, ...]
    foil: tuple[str, ...]
    template: str
    positions: tuple[tuple[str, int], ...] = ()
    changed: tuple[str, ...] | None = None
    seed: int | None = None
    behaviour: str | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """Role names in the order of their positions."""
        return tuple(role for role, _ in self.positions)

    @property
    def content_digest(self) -> str:
        """16 hex digits over everything but the id."""
        content = {key: value for key, value in self.to_row().items() if key != "id"}
        return hashlib.blake2b(canonical(content).encode(), digest_size=8).hexdigest()

    def to_row(self) -> dict[str, object]:
        """Return the row as a JSON-able dict; fields that are not stated are left out."""
        row: dict[str, object] = {
            "id": self.id,
            "clean": self.clean,
            "corrupted": self.corrupted,
            "answer": self.answer[0] if len(self.answer) == 1 else list(self.answer),
            "foil": self.foil[0] if len(self.foil) == 1 else list(self.foil),
            "template": self.template,
            "positions": dict(self.positions),
            "changed": None if self.changed is None else list(self.changed),
            "seed": self.seed,
            "behaviour": self.behaviour,
        }
        return {key: value for key, value in row.items() if value is not None}


def canonical(value: object) -> str:
    """Write a value as the one JSON text that digests are taken of."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def read_row(row: object, place: str) -> tuple[PromptPair | None, list[Finding]]:
    """Read one row of a file or iterable.

    Args:
        row: A mapping with the keys of `PromptPair`; `id`, `changed`, `seed` and `behaviour` may
            be missing, `template` too where the caller can derive it. None stands for missing.
        place: `"line 12"` or `"row 3"`, for messages.

    Returns:
        The pair, or None if anything is wrong, and everything that is wrong.
    """
    if not isinstance(row, Mapping):
        wrong = _wrong_type("", place, row, "an object with the keys " + ", ".join(REQUIRED))
        return None, [wrong]
    name = row.get("id")
    where = f"{place} ({name!r})" if isinstance(name, str) and name else place
    stated = {key: value for key, value in row.items() if value is not None}
    findings = _key_findings(stated, where)
    for key, value in stated.items():
        if key in KEYS and not _has_type(key, value):
            findings.append(_wrong_type(key, where, value, EXPECTED_TYPES[key]))
    if findings:
        return None, findings
    pair = PromptPair(
        id=str(stated.get("id", "")),
        clean=stated["clean"],
        corrupted=stated["corrupted"],
        answer=_as_tuple(stated["answer"]),
        foil=_as_tuple(stated["foil"]),
        template=stated.get("template", ""),
        positions=tuple(sorted(stated["positions"].items(), key=lambda item: (item[1], item[0]))),
        changed=None if "changed" not in stated else tuple(stated["changed"]),
        seed=stated.get("seed"),
        behaviour=stated.get("behaviour"),
    )
    return pair, []


def _key_findings(stated: Mapping[object, object], where: str) -> list[Finding]:
    """Name the keys that are missing and the keys nobody knows."""
    findings = [
        Finding(
            "missing_key",
            where,
            f"key {key!r} is missing",
            given="keys " + ", ".join(map(str, stated)),
            closest=closest_names(key, [str(name) for name in stated if name not in KEYS]),
            expected=EXPECTED_TYPES[key],
        )
        for key in REQUIRED
        if key not in stated
    ]
    findings += [
        Finding(
            "unknown_key",
            where,
            f"unknown key {key!r}",
            closest=closest_names(str(key), KEYS),
            expected="only " + ", ".join(KEYS),
            next_step="rename the key, or leave it out: nothing would read it",
        )
        for key in stated
        if key not in KEYS
    ]
    return findings


def _wrong_type(key: str, where: str, value: object, expected: str) -> Finding:
    shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
    what = f"{key!r} is not usable" if key else "the row is not an object"
    return Finding("wrong_type", where, what, f"{shown} ({type(value).__name__})", (), expected)


def _has_type(key: str, value: object) -> bool:
    if key == "seed":
        return _is_integer(value)
    if key == "positions":
        return isinstance(value, Mapping) and all(
            _is_text(role) and _is_integer(index) and index >= 0 for role, index in value.items()
        )
    if key == "changed":
        return isinstance(value, (list, tuple)) and all(map(_is_text, value))
    if key in ("answer", "foil") and isinstance(value, (list, tuple)):
        return len(value) > 0 and all(map(_is_text, value))
    return _is_text(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    """Accept non-empty text that can be written as UTF-8 (a lone surrogate cannot)."""
    if not isinstance(value, str) or not value:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _as_tuple(value: object) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(map(str, value))
    return (str(value),)
