"""Which activations is a sparse autoencoder trained on, and in which order?

Activations are computed when they are needed, a part at a time, and never all at once. The order is
fixed by the seed alone: whoever goes on from a checkpoint meets the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64

from mechtest.discovery.looking import discovery_half
from mechtest.errors import ShapeError
from mechtest.interventions import Circuit, plan_edits
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.stats import derived_seed
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Fingerprints, PromptPairs

__all__ = ["ActivationStream", "Sequences", "one_hook", "read_rows", "sequences_of"]

MEMORY = 2**28
"""Bytes of activations that are held at once."""

EVERY = "*"


@dataclass(frozen=True, eq=False)
class Sequences:
    """Token sequences, and the positions of theirs that are read.

    Attributes:
        tokens: Ids, padded on the left.
        mask: True at tokens.
        wanted: True where activations are read.
        fingerprints: Of everything in here.
    """

    tokens: Int64[torch.Tensor, "sequence pos"]
    mask: Bool[torch.Tensor, "sequence pos"]
    wanted: Bool[torch.Tensor, "sequence pos"]
    fingerprints: Fingerprints

    def __len__(self) -> int:
        return len(self.tokens)

    def some(self, index: torch.Tensor) -> Sequences:
        """Return some of them, without columns that are padding in all of these."""
        first = int(self.mask[index].any(0).int().argmax())
        return Sequences(
            self.tokens[index, first:],
            self.mask[index, first:],
            self.wanted[index, first:],
            self.fingerprints,
        )


def sequences_of(
    model: HookedMamba,
    source: PromptPairs | DiscoveryPairs | EncodedPairs | Sequence[str],
    site: str,
    positions: str,
) -> Sequences:
    """Return the clean and corrupted prompts of the discovery half, or texts, as sequences.

    Args:
        model: For its tokenizer.
        source: Prompts or texts.
        site: The hook, for its positions.
        positions: `*` for every token but bos, or one position in the notation of sites.

    Raises:
        ClaimInvalid: Prompts that are kept for testing claims.
        ShapeError: No text, or texts with a role.
    """
    if isinstance(source, PromptPairs | EncodedPairs):
        if isinstance(source, EncodedPairs) and source.side == "discovery":
            pairs = source
        else:
            pairs = discovery_half(source).encode(model.tokenizer)
        pairs = pairs.to(model.device)
        tokens = torch.cat([pairs.clean_tokens, pairs.corrupted_tokens])
        mask = pairs.attention_mask.repeat(2, 1)
        wanted = _all_but_bos(model, tokens, mask)
        if positions != EVERY:
            where = plan_edits(model.resolver, Circuit(f"{site}@{positions}"), pairs)[0].where
            assert where is not None
            wanted = where.repeat(2, 1)
        return Sequences(tokens, mask, wanted, pairs.fingerprints)
    return _of_texts(model, list(source), positions)


def _of_texts(model: HookedMamba, texts: Sequence[str], positions: str) -> Sequences:
    if not texts or positions != EVERY:
        raise ShapeError(
            "texts are read at all of their tokens, and there has to be one",
            given=f"{len(texts)} texts, positions={positions!r}",
            expected="positions='*', or prompts, which have roles",
        )
    rows = [model.to_tokens(text)[0] for text in dict.fromkeys(texts)]
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64, device=model.device)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=model.device)
    for index, row in enumerate(rows):
        tokens[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = True
    known = Fingerprints.of(texts=texts, tokens=[row.tolist() for row in rows])
    return Sequences(tokens, mask, _all_but_bos(model, tokens, mask), known)


def _all_but_bos(
    model: HookedMamba,
    tokens: Int64[torch.Tensor, "sequence pos"],
    mask: Bool[torch.Tensor, "sequence pos"],
) -> Bool[torch.Tensor, "sequence pos"]:
    """Return where there is text: a beginning says the same every time, and says it loudly."""
    bos = model.tokenizer.bos_token_id if model.tokens.available else None
    return mask if bos is None else mask & (tokens != bos)


def one_hook(model: HookedMamba, site: str) -> Site:
    """Return a site of one hook with positions, its own position left out.

    Raises:
        ShapeError: Several hooks, a position, or a hook without positions.
    """
    found = model.resolver.in_model(Site.parse(site))
    if found.is_state or not found.position.everywhere:
        raise ShapeError(
            "a sparse autoencoder is trained on one hook, at positions of its own",
            given=site,
            expected="one hook, for example blocks.1.hook_resid_pre, positions='last'",
        )
    if found.spec.position_axis is None and not found.spec.per_position:
        raise ShapeError(f"{site} has no positions", given=site)
    return found


@torch.no_grad()
def read_rows(model: HookedMamba, site: Site, part: Sequences) -> Float[torch.Tensor, "row d_in"]:
    """Return the activations at the positions wanted, sequence by sequence, flattened."""
    name, wanted = str(site), part.wanted
    columns = wanted.any(0).nonzero().flatten().tolist()
    names = [f"{name}.{column}" for column in columns] if site.spec.per_position else [name]
    _, cache = model.run_with_cache(
        part.tokens, attention_mask=part.mask, names_filter=names, return_type=None
    )
    if not site.spec.per_position:
        return cache[name].flatten(2)[wanted]
    first = cache[names[0]].flatten(1)
    rows = first.new_empty(*wanted.shape, first.shape[1])
    for column, one in zip(columns, names, strict=True):
        rows[:, column] = cache[one].flatten(1)
    return rows[wanted]


class ActivationStream:
    """Batches of activations in an order fixed by the seed.

    Sequences are dealt out anew in every epoch. A part of them at a time goes through the model;
    its rows are shuffled and cut into batches, and what is left over is dropped.

    Args:
        model: The model.
        site: The hook.
        sequences: What to read.
        batch: Rows of a batch.
        buffer: Rows of a part; fewer where they would not fit `MEMORY`.
        seed: Key of the order.
    """

    def __init__(
        self, model: HookedMamba, site: Site, sequences: Sequences, *, batch: int, buffer: int,
        seed: int,
    ) -> None:  # fmt: skip
        self.model, self.site, self.sequences = model, site, sequences
        self.batch, self.seed = batch, seed
        first = read_rows(model, site, sequences.some(torch.tensor([0])))
        self.d_in = first.shape[1]
        rows = min(buffer, MEMORY // (4 * self.d_in))
        mean = max(1.0, float(sequences.wanted.sum() / len(sequences)))
        self.size = min(len(sequences), max(1, int(rows / mean)))
        self.parts = -(-len(sequences) // self.size)
        self._only: torch.Tensor | None = None

    def part(self, number: int) -> Float[torch.Tensor, "row d_in"]:
        """Return the shuffled rows of one part; numbers go on over the epochs."""
        epoch, within = divmod(number, self.parts)
        if self.parts == 1:  # the same rows in every epoch: computed once
            if self._only is None:
                self._only = self._read(torch.arange(len(self.sequences)))
            rows = self._only
        else:
            order = self._shuffled(len(self.sequences), "sequences", epoch)
            rows = self._read(order[within * self.size : (within + 1) * self.size])
        return rows[self._shuffled(len(rows), "rows", number).to(rows.device)]

    def batches(
        self, part: int = 0, offset: int = 0
    ) -> Iterator[tuple[int, int, Float[torch.Tensor, "row d_in"]]]:
        """Yield (part, offset behind it, rows), without end, from some place on."""
        while True:
            rows = self.part(part)
            size = min(self.batch, len(rows))
            while offset + size <= len(rows):
                offset += size
                yield part, offset, rows[offset - size : offset]
            part, offset = part + 1, 0

    def _read(self, index: torch.Tensor) -> Float[torch.Tensor, "row d_in"]:
        at_once = max(1, MEMORY // (4 * self.d_in * self.sequences.tokens.shape[1]))
        return torch.cat(
            [
                read_rows(self.model, self.site, self.sequences.some(piece))
                for piece in index.split(at_once)
            ]
        )

    def _shuffled(self, count: int, what: str, number: int) -> Int64[torch.Tensor, " row"]:
        key = derived_seed(self.seed, "sparse autoencoder", what, number)
        return torch.randperm(count, generator=torch.Generator().manual_seed(key))
