"""What does every discovery tool hand back, whatever it looked at?

A record says what was asked, of which model, on which prompts, and carries its numbers. It is kept
as strict JSON and comes back equal. What is found is no claim: it was looked for on the discovery
half of the prompts, and is tested on the other.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from mechtest.discovery.record_values import decoded, encoded, part_of_records
from mechtest.errors import DiscoveryFileError, MechtestError, NonFiniteError
from mechtest.interventions.sweep_file import write_whole
from mechtest.records import ModelIdentity
from mechtest.tasks import EncodedPairs, Fingerprints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mechtest.models import HookedMamba

__all__ = ["About", "DiscoveryRecord", "about", "identity_of", "read_only"]

FORMAT = "mechtest-discovery/1"


@part_of_records
@dataclass(frozen=True)
class About:
    """What a record speaks of: the fields all records share.

    Attributes:
        tool: Public name of the function that made it, for example `causal_trace`.
        model: Which weights.
        prompt_ids: Names of the prompts looked at.
        templates: Template of each prompt: the cluster it belongs to.
        fitted_on: Fingerprints of every prompt looked at, for circuits made of this record.
        metric: For example `logit_difference`; empty where none was read.
        settings: Everything else that was asked for, as plain JSON values.
    """

    tool: str
    model: ModelIdentity
    prompt_ids: tuple[str, ...]
    templates: tuple[str, ...]
    fitted_on: Fingerprints
    metric: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class DiscoveryRecord(ABC):
    """The base of what discovery tools return; every one is a frozen dataclass of plain values.

    Attributes:
        about: What was asked, of which model, on which prompts.
    """

    about: About
    _kinds: ClassVar[dict[str, type[DiscoveryRecord]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        DiscoveryRecord._kinds[cls.__name__] = cls

    @abstractmethod
    def lines(self) -> tuple[str, ...]:
        """Return what was found in a few lines of text, the most important first."""

    @abstractmethod
    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw it, and write the picture to `path` (.png or .svg) where one is given.

        Raises:
            MissingPackageError: Matplotlib is not installed.
            DiscoveryFileError: Another suffix.
        """

    def to_json(self) -> str:
        """Return everything as one line of strict JSON.

        Raises:
            NonFiniteError: NaN or infinity among its numbers.
        """
        content = {one.name: encoded(getattr(self, one.name)) for one in fields(self)}
        try:
            return json.dumps(
                {"format": FORMAT, "kind": type(self).__name__, **content},
                allow_nan=False,
                separators=(",", ":"),
            )
        except ValueError as error:
            raise NonFiniteError(
                f"a {type(self).__name__} cannot be written as JSON: {error}",
                expected="finite numbers; where one is missing, None and a reason",
            ) from error

    def save(self, path: str | Path) -> Path:
        """Write `to_json` to a file, whole or not at all, and return its path."""
        return write_whole(Path(path), (self.to_json() + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; every number is the same bit by bit.

        Raises:
            DiscoveryFileError: There is no file, or it holds something else.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DiscoveryFileError(
                f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
                expected="a file that `DiscoveryRecord.save` wrote",
            ) from error
        return cls.from_json(text, name=str(path))

    @classmethod
    def from_json(cls, text: str, *, name: str = "the text") -> Self:
        """Read what `to_json` wrote.

        Args:
            text: One line of JSON.
            name: What it is called in messages.

        Raises:
            DiscoveryFileError: Another format or kind, or fields that do not fit.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _refused(cls, name, f"no JSON: {error}") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise _refused(cls, name, f"no {FORMAT}")
        kind = DiscoveryRecord._kinds.get(str(content.pop("kind", None)))
        if kind is None or not issubclass(kind, cls):
            raise _refused(cls, name, "a record of another kind")
        odd = sorted({one.name for one in fields(kind)} ^ set(content))
        if odd:
            raise _refused(cls, name, f"missing or unknown fields: {', '.join(odd)}")
        try:
            return kind(**{key: decoded(value) for key, value in content.items()})
        except (TypeError, ValueError, KeyError) as error:
            what = error.what if isinstance(error, MechtestError) else str(error)
            raise _refused(cls, name, what) from error

    def __eq__(self, other: object) -> bool:
        """Whether both are of one kind and hold the same, bit by bit."""
        return isinstance(other, type(self)) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        first = next(iter(self.lines()), "nothing")
        return f"<{type(self).__name__} of {self.about.tool}: {first}>"


def about(
    tool: str,
    model: HookedMamba,
    pairs: EncodedPairs,
    *,
    metric: str = "",
    **settings: Any,
) -> About:
    """Return the core fields of a record.

    Args:
        tool: Public name of the function that makes it.
        model: The model.
        pairs: The prompts it looks at.
        metric: Name of the metric.
        **settings: What else was asked for, as plain JSON values.
    """
    return About(
        tool=tool,
        model=identity_of(model),
        prompt_ids=pairs.ids,
        templates=tuple(pairs.templates[index] for index in pairs.cluster),
        fitted_on=pairs.fingerprints,
        metric=metric,
        settings=settings,
    )


def identity_of(model: HookedMamba) -> ModelIdentity:
    """Return which weights a model has, as records say it."""
    known = model.fingerprint
    return ModelIdentity(
        name=model.source,
        weights="" if known is None else known.weights,
        tokenizer="" if known is None else known.tokenizer or "",
        dtype=str(model.embedding.weight.dtype).removeprefix("torch."),
        device=str(model.device),
    )


def _refused(kind: type, name: str, why: str) -> DiscoveryFileError:
    return DiscoveryFileError(
        f"{name} holds no {kind.__name__}", given=why, expected=f"what `{kind.__name__}.save` wrote"
    )


def read_only(array: np.ndarray) -> np.ndarray:
    """Return the array as float64 that nobody can write to."""
    made = np.array(array, dtype=np.float64)
    made.flags.writeable = False
    return made
