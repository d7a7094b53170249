"""How are some words of a prompt made unreadable, and what runs on such a prompt?

An embedding with noise on it is the embedding of a word that no vocabulary has. So a model is given
a small vocabulary of its own: the words of the prompts, and each noised word as one more. Corrupted
prompts are then prompts like any other, and everything that runs interventions runs on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from mechtest.errors import NothingChangedError, PositionError, ShapeError
from mechtest.interventions import Circuit, NoiseAblation, Places, plan_edits
from mechtest.models import HookedMamba
from mechtest.models.forward_inputs import InputReader
from mechtest.models.tokens import Tokens
from mechtest.tasks import EncodedPairs

__all__ = ["EmbeddingNoise", "NoisedModel", "make_noise", "noised_pairs", "subject_mask"]


@dataclass(frozen=True, eq=False)
class EmbeddingNoise:
    """Gaussian noise on the embeddings of some tokens.

    Every prompt, token (counted from the end) and sample has its own stream, whatever the batch.

    Attributes:
        where: The tokens it is put on.
        std: Standard deviation, in the embedding's own unit.
        samples: Independent draws a prompt.
        seed: Key.
    """

    where: Bool[torch.Tensor, "prompt pos"]
    std: float
    samples: int
    seed: int = 0

    def noised(
        self, embeddings: Float[torch.Tensor, "token d_model"], places: Places, sample: int
    ) -> Float[torch.Tensor, "token d_model"]:
        """Return embeddings with one sample's noise on them.

        Args:
            embeddings: Of some tokens.
            places: Prompt and position of each.
            sample: Which draw.
        """
        noise = NoiseAblation(self.std, self.seed)
        return noise.replacement(embeddings, None, f"hook_embed|sample {sample}", places)


class NoisedModel(HookedMamba):
    """A model on a vocabulary of its own; everything but the embedding is the other model's.

    Its weights are the other's tensors, its hook points too. Unembedding is the other's: logits are
    of the real vocabulary.

    Attributes:
        words: Number of words it reads.
    """

    words: int

    @classmethod
    def over(
        cls, model: HookedMamba, embeddings: Float[torch.Tensor, "word d_model"]
    ) -> NoisedModel:
        """Return `model` as it reads these words, numbered from 0."""
        made = cls.__new__(cls)
        made.__dict__.update(model.__dict__)
        made._modules = dict(model._modules)
        made._requests = list(model._requests)  # hooks put on here are not the other's
        made.cfg = replace(model.cfg, tie_embeddings=False)
        made.tokens = Tokens(None)  # ids of this vocabulary are no tokenizer's
        made.fingerprint = None
        made.words, width = embeddings.shape
        made._modules["embedding"] = nn.Embedding(made.words, width, _weight=embeddings)
        return made

    @property
    def inputs(self) -> InputReader:
        """What reads token ids, checked against the words there are."""
        cfg = replace(self.cfg, vocab_size=self.words, pad_vocab_size_multiple=1)
        return InputReader(self.tokens, cfg, self.device)


def subject_mask(
    model: HookedMamba, pairs: EncodedPairs, subject: str | tuple[str, ...] | None
) -> Bool[torch.Tensor, "prompt pos"]:
    """Return where the subject of each prompt stands.

    Args:
        model: The model.
        pairs: The prompts.
        subject: Roles, spans (`first:last+1`) or positions; None is wherever clean and corrupted
            tokens differ.

    Raises:
        PositionError: A prompt without a subject, or a role nobody defined.
    """
    if subject is None:
        mask = pairs.changed & pairs.attention_mask
    else:
        named = (subject,) if isinstance(subject, str) else tuple(subject)
        if not named:
            raise PositionError("a subject has at least one token", given="subject=[]")
        circuit = Circuit(*(f"hook_embed@{one}" for one in named))
        (edit,) = plan_edits(model.resolver, circuit, pairs)
        mask = edit.known_spots.mask.to(pairs.device)
    bare = ~mask.any(1)
    if bool(bare.any()):
        first = int(bare.nonzero()[0])
        raise PositionError(
            f"{int(bare.sum())} of {len(pairs)} prompts have no subject",
            given=f"subject={subject!r}; the first of them is {pairs.ids[first]}",
            expected="a role of the prompt file, or clean and corrupted prompts that differ",
        )
    return mask


@torch.no_grad()
def make_noise(
    model: HookedMamba, pairs: EncodedPairs, where: Bool[torch.Tensor, "prompt pos"],
    noise: float, samples: int, seed: int, over: str,
) -> EmbeddingNoise:  # fmt: skip
    """Return noise of so many standard deviations of embeddings.

    Args:
        model: The model.
        pairs: The prompts.
        where: The subject of each.
        noise: Standard deviations.
        samples: Draws a prompt.
        seed: Key.
        over: Embeddings whose entries' standard deviation is the unit: `subject` (the subjects of
            all these prompts) or `vocabulary`.

    Raises:
        NothingChangedError: No noise.
        ShapeError: No samples, or another `over`.
    """
    if not noise > 0 or not np.isfinite(noise):
        raise NothingChangedError(
            "noise of no size corrupts nothing",
            given=f"noise={noise}",
            expected="a positive number of standard deviations, 3 as in the paper",
        )
    if samples < 1 or over not in ("subject", "vocabulary"):
        raise ShapeError(
            "noise is drawn at least once, in units of some embeddings",
            given=f"samples={samples}, noise_over={over!r}",
            expected="samples >= 1, noise_over='subject' or 'vocabulary'",
        )
    weight = model.embedding.weight
    rows = weight if over == "vocabulary" else weight[pairs.clean_tokens[where]]
    return EmbeddingNoise(where, noise * float(rows.double().std()), samples, seed)


@torch.no_grad()
def noised_pairs(
    model: HookedMamba, pairs: EncodedPairs, noise: EmbeddingNoise
) -> tuple[NoisedModel, EncodedPairs]:
    """Return the model and prompts whose corrupted run is the clean one with noise on its subject.

    Each prompt stands there once a sample, its samples one after another; their rows are numbered
    from 0 (`order`).

    Args:
        model: The model.
        pairs: The prompts.
        noise: What is put on their subjects; `where` is of these prompts.
    """
    samples, n_pos = noise.samples, pairs.clean_tokens.shape[1]
    row, column = noise.where.nonzero(as_tuple=True)
    embeddings = model.embedding(pairs.clean_tokens[row, column])
    order = torch.as_tensor(pairs.order, device=row.device)
    places = Places(order[row], n_pos - column)
    drawn = [noise.noised(embeddings, places, sample) for sample in range(samples)]

    known, own = pairs.clean_tokens.unique(return_inverse=True)
    repeated = torch.arange(len(pairs), device=row.device).repeat_interleave(samples)
    clean = own[repeated]
    corrupted = clean.clone()
    for sample in range(samples):
        numbers = len(known) + sample * len(row) + torch.arange(len(row), device=row.device)
        corrupted[row * samples + sample, column] = numbers
    words = torch.cat([model.embedding(known), *drawn])
    whole = replace(
        pairs[repeated],
        clean_tokens=clean,
        corrupted_tokens=corrupted,
        order=np.arange(len(repeated), dtype=np.int64),
    )
    return NoisedModel.over(model, words), whole
