"""Which prompts and templates has something seen, so that nothing is tested on what it was fitted?

A circuit keeps the fingerprints of everything that was used to find it; an assertion intersects
them with the fingerprints of the prompts it is about to test on.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Fingerprints"]


@dataclass(frozen=True)
class Fingerprints:
    """64-bit hashes, as 16 hex digits, of prompts and of the templates they come from.

    Attributes:
        texts: Prompts as text, runs of white space counted as one blank and none at the ends.
        tokens: Prompts as token ids without padding; empty where nothing was tokenized.
        clusters: Template names.
    """

    texts: frozenset[str] = field(default_factory=frozenset)
    tokens: frozenset[str] = field(default_factory=frozenset)
    clusters: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(
        cls,
        texts: Iterable[str] = (),
        tokens: Iterable[Sequence[int]] = (),
        clusters: Iterable[str] = (),
    ) -> "Fingerprints":
        """Hash prompts, token rows and template names."""
        return cls(
            frozenset(_hash64("text", " ".join(text.split())) for text in texts),
            frozenset(_hash64("tokens", ",".join(map(str, row))) for row in tokens),
            frozenset(_hash64("cluster", name) for name in clusters),
        )

    def __or__(self, other: "Fingerprints") -> "Fingerprints":
        """Everything either has seen."""
        return Fingerprints(
            self.texts | other.texts, self.tokens | other.tokens, self.clusters | other.clusters
        )

    def __and__(self, other: "Fingerprints") -> "Fingerprints":
        """What both have seen; falsy when that is nothing."""
        return Fingerprints(
            self.texts & other.texts, self.tokens & other.tokens, self.clusters & other.clusters
        )

    def __bool__(self) -> bool:
        return bool(self.texts or self.tokens or self.clusters)

    def to_row(self) -> dict[str, list[str]]:
        """Return sorted lists for a JSON record."""
        return {
            "texts": sorted(self.texts),
            "tokens": sorted(self.tokens),
            "clusters": sorted(self.clusters),
        }

    @classmethod
    def from_row(cls, row: dict[str, list[str]]) -> "Fingerprints":
        """Read what `to_row` wrote."""
        return cls(frozenset(row["texts"]), frozenset(row["tokens"]), frozenset(row["clusters"]))


def _hash64(kind: str, text: str) -> str:
    return hashlib.blake2b(f"{kind}|{text}".encode(), digest_size=8).hexdigest()
