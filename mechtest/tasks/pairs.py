"""What is a set of prompt pairs, how is it loaded, checked, taken apart and turned into tokens?"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import ClassVar, TypeVar, overload

import torch

from mechtest.errors import PromptError, closest_names
from mechtest.tasks.collection_checks import collection_findings
from mechtest.tasks.encoding import EncodedPairs, encode_rows
from mechtest.tasks.explanation import explain_pairs
from mechtest.tasks.findings import Finding, raise_errors
from mechtest.tasks.fingerprints import Fingerprints
from mechtest.tasks.masking import masked_template
from mechtest.tasks.pair import PromptPair, canonical, read_row
from mechtest.tasks.prompt_file import read_lines, write_lines
from mechtest.tasks.split import DEFAULT_SALT, Side, SplitSide, side_of
from mechtest.tasks.token_checks import token_findings
from mechtest.tasks.tokens import PairTokenizer, PairTokens, Tokenizer

__all__ = ["ConfirmationPairs", "DiscoveryPairs", "PromptPairs"]


# Not typing.Self: the shape checker of the tests decorates methods one by one and refuses it.
Kind = TypeVar("Kind", bound="PromptPairs")


@dataclass(frozen=True)
class PromptPairs:
    """An ordered, unchangeable set of prompt pairs; templates are its statistical units.

    Attributes:
        rows: The pairs, in the order of the file.
        source: Where they came from, for messages; no part of equality or of `digest`.
    """

    rows: tuple[PromptPair, ...]
    source: str = field(default="prompts", compare=False, kw_only=True)
    side: ClassVar[Side] = "all"

    @classmethod
    def from_jsonl(
        cls, path: str | PathLike[str], *, tokenizer: Tokenizer | None = None
    ) -> "PromptPairs":
        """Load a prompt file: JSON Lines, one pair a line.

        Args:
            path: The file.
            tokenizer: Only needed when rows have no `template`, which is then derived by masking
                the tokens at the rows' role positions and wherever the two prompts differ.

        Raises:
            PromptError: No such file, an empty one, and everything that is wrong with any row
                (malformed JSON, unknown or missing keys, wrong types, repeated ids, no template),
                told together with line numbers.
        """
        values, findings = read_lines(Path(path))
        return _collected(values, findings, Path(path).name, tokenizer)

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[PromptPair | Mapping[str, object]],
        *,
        tokenizer: Tokenizer | None = None,
        source: str = "rows",
    ) -> "PromptPairs":
        """Build from pairs or mappings with the keys of a prompt file; see `from_jsonl`."""
        values: list[tuple[str, object]] = [
            (f"row {number}", row.to_row() if isinstance(row, PromptPair) else row)
            for number, row in enumerate(rows)
        ]
        return _collected(values, [], source, tokenizer)

    def to_jsonl(self, path: str | PathLike[str]) -> None:
        """Write a prompt file that `from_jsonl` reads back as an equal collection."""
        write_lines(Path(path), self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[PromptPair]:
        return iter(self.rows)

    @overload
    def __getitem__(self, index: int) -> PromptPair: ...
    @overload
    def __getitem__(self: Kind, index: slice) -> Kind: ...
    def __getitem__(self: Kind, index: int | slice) -> PromptPair | Kind:  # noqa: PYI019
        """Return one pair, or the pairs of a slice as a collection of the same kind."""
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index])
        return self.rows[index]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.source}: {len(self)} prompts, "
            f"{len(self.templates)} templates, {self.digest[:12]}>"
        )

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """Template names in the order of their first row."""
        return tuple(dict.fromkeys(pair.template for pair in self.rows))

    def by_template(self: Kind) -> dict[str, Kind]:  # noqa: PYI019
        """Return the rows of each template, as collections of the same kind."""
        groups: dict[str, list[PromptPair]] = {name: [] for name in self.templates}
        for pair in self.rows:
            groups[pair.template].append(pair)
        return {name: replace(self, rows=tuple(rows)) for name, rows in groups.items()}

    def filter(  # noqa: PYI019
        self: Kind,
        keep: Callable[[PromptPair], bool] | None = None,
        *,
        template: str | Iterable[str] | None = None,
        behaviour: str | Iterable[str] | None = None,
    ) -> Kind:
        """Return the rows that meet every condition given, as a collection of the same kind.

        Args:
            keep: Says of one pair whether it stays.
            template: Name or names of templates.
            behaviour: Name or names of behaviours.

        Raises:
            PromptError: A name that no row has. A `keep` that nothing meets gives an empty
                collection, which cannot be encoded.
        """
        rows = self.rows
        for label, wanted in (("template", template), ("behaviour", behaviour)):
            if wanted is not None:
                names = {wanted} if isinstance(wanted, str) else set(wanted)
                self._require_names(label, names)
                rows = tuple(pair for pair in rows if getattr(pair, label) in names)
        if keep is not None:
            rows = tuple(pair for pair in rows if keep(pair))
        return replace(self, rows=rows)

    def deduplicated(self: Kind) -> Kind:  # noqa: PYI019
        """Return the first of all rows that have the same prompts, answers and foils."""
        first: dict[tuple[object, ...], PromptPair] = {}
        for pair in self.rows:
            first.setdefault((pair.clean, pair.corrupted, pair.answer, pair.foil), pair)
        return replace(self, rows=tuple(first.values()))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the content of all rows, whatever their order."""
        content = sorted(canonical(pair.to_row()) for pair in self.rows)
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """Hashes of all clean and corrupted texts and of the template names."""
        texts = [text for pair in self.rows for text in (pair.clean, pair.corrupted)]
        return Fingerprints.of(texts=texts, clusters=self.templates)

    @property
    def discovery(self) -> "DiscoveryPairs":
        """The half on which circuits are looked for, under the default salt."""
        return self.split()[0]

    @property
    def test(self) -> "ConfirmationPairs":
        """The half on which claims are tested, under the default salt."""
        return self.split()[1]

    def split(self, salt: str = DEFAULT_SALT) -> "tuple[DiscoveryPairs, ConfirmationPairs]":
        """Deal the templates out to a discovery and a test half by a hash of their names.

        A template's side depends on its name and the salt only, so it survives new rows, new
        templates and any order; the halves are of about, not exactly, equal size.

        Raises:
            PromptError: This collection is a half already.
        """
        sides = [side_of(pair.template, salt) for pair in self.rows]
        return (
            DiscoveryPairs(self._on("discovery", sides), salt, source=self.source),
            ConfirmationPairs(self._on("test", sides), salt, source=self.source),
        )

    def validate(
        self, tokenizer: Tokenizer | None = None, *, prepend_bos: bool = False
    ) -> tuple[Finding, ...]:
        """Return everything that is wrong or weak, errors and warnings, without raising.

        Args:
            tokenizer: The model's; without one only the text is looked at.
            prepend_bos: Put a bos token in front where the tokenizer does not.
        """
        if tokenizer is None:
            return tuple(collection_findings(self.rows))
        words = PairTokenizer(tokenizer, prepend_bos=prepend_bos)
        return self._findings([words.pair(pair) for pair in self.rows], words)

    def encode(
        self,
        tokenizer: Tokenizer | None,
        device: torch.device | str = "cpu",
        *,
        prepend_bos: bool = False,
    ) -> EncodedPairs:
        """Validate the prompts and put them into tensors.

        Args:
            tokenizer: The model's.
            device: Where the tensors go.
            prepend_bos: Put a bos token in front where the tokenizer does not; positions count it.

        Raises:
            PromptError: Or its subclasses AlignmentError and AnswerTokenError: the errors among
                `validate(tokenizer)`, told together. Warnings do not stop it; `validate` and
                `explain` show them.
            PaddingError: Lengths differ and there is no token to pad with.
            TokenizerMissingError: The model has no tokenizer.
        """
        if not self.rows:
            raise PromptError(f"{self.source}: there are no prompts to encode", given=repr(self))
        words = PairTokenizer(tokenizer, prepend_bos=prepend_bos)
        rows = [words.pair(pair) for pair in self.rows]
        raise_errors(
            self._findings(rows, words),
            self.source,
            "prompts.validate(tokenizer) lists them all",
        )
        return encode_rows(
            rows,
            words,
            templates=self.templates,
            fingerprints=self.fingerprints,
            side=self.side,
            device=device,
        )

    def explain(self, tokenizer: Tokenizer, *, prepend_bos: bool = False) -> str:
        """Describe the prompts in words: counts, halves, lengths, roles, findings, an example."""
        words = PairTokenizer(tokenizer, prepend_bos=prepend_bos)
        rows = [words.pair(pair) for pair in self.rows]
        name = f"{self.source} ({type(self).__name__}, digest {self.digest[:12]})"
        return explain_pairs(name, rows, words, self._findings(rows, words))

    def _findings(self, rows: list[PairTokens], words: PairTokenizer) -> tuple[Finding, ...]:
        return (*collection_findings(self.rows), *token_findings(rows, words))

    def _on(self, side: SplitSide, sides: list[SplitSide]) -> tuple[PromptPair, ...]:
        pairs = zip(self.rows, sides, strict=True)
        return tuple(pair for pair, its_side in pairs if its_side == side)

    def _require_names(self, label: str, names: set[str]) -> None:
        known = list(dict.fromkeys(getattr(pair, label) for pair in self.rows))
        for name in sorted(names - set(known)):
            texts = [text for text in known if text is not None]
            raise PromptError(
                f"{self.source}: no row has the {label} {name!r}",
                given=name,
                closest=closest_names(name, texts),
                expected=f"one of {len(texts)}: " + ", ".join(texts[:5]),
            )


@dataclass(frozen=True, repr=False)
class _Half(PromptPairs):
    """One side of a split; refuses rows of the other side, however it is made."""

    salt: str = DEFAULT_SALT

    def __post_init__(self) -> None:
        for pair in self.rows:
            if side_of(pair.template, self.salt) != self.side:
                raise PromptError(
                    f"{self.source}: row {pair.id!r} belongs to the other half of the split",
                    given=f"template {pair.template!r} in {type(self).__name__}",
                    expected=f"templates that the salt {self.salt!r} puts on the {self.side} side",
                    next_step="take the halves from prompts.discovery and prompts.test",
                )

    def split(self, salt: str = DEFAULT_SALT) -> "tuple[DiscoveryPairs, ConfirmationPairs]":
        """Refuse: dealing a half out again would mix what was kept apart."""
        raise PromptError(
            f"{self.source}: these prompts are the {self.side} half already",
            given=f"{type(self).__name__} split again with salt {salt!r}",
            expected="the whole collection",
        )


@dataclass(frozen=True, repr=False)
class DiscoveryPairs(_Half):
    """The half of the templates on which circuits are looked for, fitted and tuned."""

    side: ClassVar[Side] = "discovery"


@dataclass(frozen=True, repr=False)
class ConfirmationPairs(_Half):
    """The half of the templates on which claims are tested, and nothing else happens."""

    side: ClassVar[Side] = "test"


def _collected(
    values: list[tuple[str, object]],
    findings: list[Finding],
    source: str,
    tokenizer: Tokenizer | None,
) -> PromptPairs:
    """Read rows, complete ids and templates, and raise for everything that is wrong at once."""
    pairs: list[PromptPair] = []
    words = None if tokenizer is None else PairTokenizer(tokenizer)
    for place, value in values:
        pair, wrong = read_row(value, place)
        findings += wrong
        if pair is not None and not pair.template:
            if words is None:
                findings.append(_no_template(place, pair))
            else:
                pair = replace(pair, template=masked_template(pair, words))
        if pair is not None:
            pairs.append(pair)
    if not values and not findings:
        raise PromptError(
            f"{source} holds no prompts",
            given="0 rows",
            expected="rows of clean, corrupted, answer, foil, template, positions",
        )
    pairs = _with_ids(pairs)
    for name, count in Counter(pair.id for pair in pairs).items():
        if count > 1:
            what = f"{count} rows have this id"
            findings.append(Finding("repeated_id", name, what, expected="one row an id"))
    findings.sort(key=_line_number)
    raise_errors(findings, source, "mend the rows; nothing was loaded")
    return PromptPairs(tuple(pairs), source=source)


def _no_template(place: str, pair: PromptPair) -> Finding:
    return Finding(
        "no_template",
        f"{place} ({pair.id!r})" if pair.id else place,
        "has no 'template', the unit over which claims generalise",
        given=pair.clean,
        expected="the name of the sentence frame the prompt was made from",
        next_step="write it into the row, or pass tokenizer= to derive it by masking the roles",
    )


def _with_ids(pairs: list[PromptPair]) -> list[PromptPair]:
    """Name rows that have no id after their content; equal rows get `-2`, `-3` behind it."""
    seen: Counter[str] = Counter()
    named = []
    for pair in pairs:
        if not pair.id:
            digest = pair.content_digest
            seen[digest] += 1
            suffix = f"-{seen[digest]}" if seen[digest] > 1 else ""
            pair = replace(pair, id=digest + suffix)
        named.append(pair)
    return named


def _line_number(finding: Finding) -> int:
    words = finding.row.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 1 << 60
