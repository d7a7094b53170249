"""Which one number per prompt says how the model did?

Every metric reads the logits of one position (the last, unless told otherwise), is differentiable
where its definition is, computes in float32 or, for float64 logits, in float64, and refuses NaN
and infinity by naming the prompt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechtest.errors import MetricError, closest_names
from mechtest.tasks.answers import NO_TOKEN, AnswerIds
from mechtest.tasks.encoding import EncodedPairs
from mechtest.tasks.reading import read_position

__all__ = [
    "METRICS",
    "Metric",
    "NamedMetric",
    "accuracy",
    "broken",
    "kl_divergence",
    "log_probability",
    "logit_difference",
    "metric_by_name",
    "moved",
    "probability_mass",
]

PerPrompt = Float[Tensor, " prompt"]
Logits = Float[Tensor, "prompt d_vocab"]


@dataclass(frozen=True)
class Reading:
    """What a formula may look at: checked logits at one position, and what is right there."""

    logits: Logits
    answers: AnswerIds
    reference: Logits | None


Formula = Callable[[Reading], PerPrompt]


@runtime_checkable
class Metric(Protocol):
    """Anything that turns logits into one finite float a prompt."""

    @property
    def name(self) -> str:
        """Name in records and reports."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the values."""
        ...

    @property
    def sign(self) -> str:
        """What larger values mean."""
        ...

    def __call__(
        self,
        logits: Tensor,
        encoded: EncodedPairs | AnswerIds,
        *,
        position: int | Tensor | None = None,
        reference: Tensor | None = None,
    ) -> PerPrompt:
        """Return one value a prompt from logits "prompt pos d_vocab" or "prompt d_vocab"."""
        ...


@dataclass(frozen=True)
class NamedMetric:
    """A metric of this file.

    Attributes:
        name: Name in records, reports and `METRICS`.
        unit: Unit of the values.
        sign: What larger values mean.
        formula: From what was read at one position to one value a prompt.
        needs_reference: Whether it compares with the logits of another run.
        answers_only: Whether the logits of answers and foils are all it looks at.
        vocabulary: Number of real tokens where the head has rows of padding behind them; None
            takes all logits. See `within`.
    """

    name: str
    unit: str
    sign: str
    formula: Formula
    needs_reference: bool = False
    answers_only: bool = False
    vocabulary: int | None = None

    def __call__(
        self,
        logits: Tensor,
        encoded: EncodedPairs | AnswerIds,
        *,
        position: int | Tensor | None = None,
        reference: Tensor | None = None,
    ) -> PerPrompt:
        """Measure one value a prompt.

        Args:
            logits: Of the run to judge, float "prompt pos d_vocab" or "prompt d_vocab".
            encoded: The encoded prompts, or just their answers.
            position: Where to read, an index or one index a prompt (`encoded.positions(role)`);
                None is the last position. Only for logits that have positions.
            reference: Logits of the run to compare with, shaped alike, for metrics that need one.

        Returns:
            Values in the metric's unit; float64 for float64 logits, else float32.

        Raises:
            MetricError: A reference is missing, or given where none is used; answers lie outside
                the vocabulary.
            NonFiniteError: NaN or infinity in the logits that are read; names the prompts.
            ShapeError: Logits that are no float tensor of these shapes.
        """
        answers = encoded.answers if isinstance(encoded, EncodedPairs) else encoded
        if self.needs_reference != (reference is not None):
            raise MetricError(
                f"{self.name} "
                + ("needs" if self.needs_reference else "does not use")
                + " the logits of a reference run",
                given=f"reference={None if reference is None else tuple(reference.shape)}",
                next_step=f"pass reference=clean_logits to {self.name}"
                if self.needs_reference
                else "leave reference out, or use kl_divergence",
            )
        here = read_position(logits, answers, position, self.vocabulary, "logits")
        there = None
        if reference is not None:
            there = read_position(reference, answers, position, self.vocabulary, "reference")
        self._check_answers(answers, here.shape[1])
        return self.formula(Reading(here, answers, there))

    def within(self, vocabulary: int) -> "NamedMetric":
        """Return this metric over the first `vocabulary` logits only.

        Heads are often padded to a round number; the rows behind the tokenizer's last token were
        never trained, and whatever probability they get is no word's.
        """
        if vocabulary < 1:
            raise MetricError("a vocabulary has at least one token", given=vocabulary)
        return replace(self, vocabulary=vocabulary)

    def _check_answers(self, answers: AnswerIds, width: int) -> None:
        largest = int(torch.maximum(answers.answer_ids.max(), answers.foil_ids.max()))
        smallest = int(torch.minimum(answers.answer_ids.min(), answers.foil_ids.min()))
        if largest >= width or smallest < NO_TOKEN:
            raise MetricError(
                f"{self.name}: an answer or foil is outside the vocabulary",
                given=f"token ids {smallest} to {largest}, vocabulary {width}",
                expected=f"token ids from 0 to {width - 1}",
                next_step="encode the prompts with the tokenizer of this model",
            )


def _at(logits: Logits, ids: Tensor) -> Float[Tensor, "prompt answer"]:
    """Return the logits of some tokens, -inf where a row has fewer tokens than the widest."""
    found = logits.gather(1, ids.clamp(min=0))
    return found.masked_fill(ids == NO_TOKEN, -torch.inf)


def _logit_difference(read: Reading) -> PerPrompt:
    right = torch.logsumexp(_at(read.logits, read.answers.answer_ids), 1)
    return right - torch.logsumexp(_at(read.logits, read.answers.foil_ids), 1)


def _log_probability(read: Reading) -> PerPrompt:
    right = torch.logsumexp(_at(read.logits, read.answers.answer_ids), 1)
    # Rounding may leave the part larger than the whole by one unit in the last place.
    return (right - torch.logsumexp(read.logits, 1)).clamp(max=0)


def _probability_mass(read: Reading) -> PerPrompt:
    shares = torch.log_softmax(read.logits, 1)
    right = _at(shares, read.answers.answer_ids).exp().sum(1)
    return (right - _at(shares, read.answers.foil_ids).exp().sum(1)).clamp(-1, 1)


def _kl_divergence(read: Reading) -> PerPrompt:
    assert read.reference is not None
    log_p = torch.log_softmax(read.reference, 1)
    log_q = torch.log_softmax(read.logits, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1).clamp(min=0)


def _tops(logits: Logits, ids: Tensor) -> Bool[Tensor, " prompt"]:
    """Say whether one of the ids has a logit strictly above all other tokens'."""
    # Rows with fewer ids repeat their first one, which every row has.
    places = torch.where(ids == NO_TOKEN, ids[:, :1], ids)
    rows = torch.zeros_like(logits, dtype=torch.bool).scatter(1, places, value=True)
    inside = logits.masked_fill(~rows, -torch.inf).amax(1)
    return inside > logits.masked_fill(rows, -torch.inf).amax(1)


def _accuracy(read: Reading) -> PerPrompt:
    return _tops(read.logits, read.answers.answer_ids).to(read.logits.dtype)


def _moved(read: Reading) -> PerPrompt:
    return _tops(read.logits, read.answers.foil_ids).to(read.logits.dtype)


def _broken(read: Reading) -> PerPrompt:
    answered = _tops(read.logits, read.answers.answer_ids)
    return (~(answered | _tops(read.logits, read.answers.foil_ids))).to(read.logits.dtype)


logit_difference = NamedMetric(
    "logit_difference",
    "logits",
    "positive: the answer is preferred to the foil; log-odds of answer against foil",
    _logit_difference,
    answers_only=True,
)
"""logit[answer] - logit[foil]; for sets logsumexp over answers minus logsumexp over foils.

That is the log-odds of the answer set against the foil set, which for single tokens is the plain
logit difference. Adding a constant to all logits leaves it as it is.
Sources: Wang et al. 2022 (IOI), section 3; Zhang & Nanda 2023, section 4, for preferring it to
probability. Sets: ours.
"""

log_probability = NamedMetric(
    "log_probability",
    "nats",
    "0 is certainty of the answer set; more negative is less probable",
    _log_probability,
)
"""log of the probability of the answer set over the whole vocabulary; never above 0."""

probability_mass = NamedMetric(
    "probability_mass",
    "probability",
    "positive: more mass on the answers than on the foils; in [-1, 1]",
    _probability_mass,
)
"""Probability of the answers minus probability of the foils.

Source: Hanna et al. 2023 (greater-than), section 2: mass of the years above minus mass below.
"""

kl_divergence = NamedMetric(
    "kl_divergence",
    "nats",
    "0: the run predicts exactly as the reference does; larger: further from it",
    _kl_divergence,
    needs_reference=True,
)
"""KL(reference || run) of the next-token distributions, answers and foils playing no part.

`kl_divergence.within(tokenizer_size)` leaves padded rows of the head out of both.
Source: Conmy et al. 2023 (ACDC), section 3; Zhang & Nanda 2023, section 4.
"""

accuracy = NamedMetric(
    "accuracy", "share of prompts", "1: the top token is an answer, 0: it is not", _accuracy
)
"""1 where an answer's logit is strictly above those of all other tokens; a tie is no hit."""

moved = NamedMetric(
    "moved", "share of prompts", "1: the top token is a foil (the corrupted answer)", _moved
)
"""1 where a foil is strictly on top: the run answers as the corrupted prompt would."""

broken = NamedMetric(
    "broken", "share of prompts", "1: the top token is neither answer nor foil", _broken
)
"""1 where neither is strictly on top: the run answers neither prompt. With `accuracy` and `moved`
it adds up to 1 on every prompt, so a tie of answer and foil counts here.
"""

METRICS: Mapping[str, NamedMetric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            logit_difference,
            log_probability,
            probability_mass,
            kl_divergence,
            accuracy,
            moved,
            broken,
        )
    }
)


def metric_by_name(name: str) -> NamedMetric:
    """Return a metric by its name.

    Raises:
        MetricError: There is none of that name; the message has the closest.
    """
    if name not in METRICS:
        raise MetricError(
            f"there is no metric {name!r}",
            given=name,
            closest=closest_names(name, METRICS),
            expected="one of " + ", ".join(METRICS),
        )
    return METRICS[name]
