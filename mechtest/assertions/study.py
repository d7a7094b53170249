"""What is a claim measured on: which model, which prompts of which half, read by which metric?

Everything that can be wrong before a forward pass is found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mechtest.errors import ClaimInvalid, MechtestError, MetricError, NonFiniteError
from mechtest.interventions import (
    Circuit,
    Intervention,
    Run,
    Runner,
    digest_of,
    plan_edits,
    runner_for_claim,
)
from mechtest.models import HookedMamba
from mechtest.records import ModelIdentity
from mechtest.running_claim import current_claim
from mechtest.tasks import (
    METRICS,
    AnswerIds,
    ConfirmationPairs,
    DiscoveryPairs,
    EncodedPairs,
    Metric,
    PromptPairs,
    metric_by_name,
)

__all__ = ["Study", "prepare_study"]

Values = Float[np.ndarray, " prompt"]


@dataclass(eq=False)
class Study:
    """A model, the test half of some prompts, and a metric.

    Attributes:
        model: The model.
        tested: The half of the prompts the claim is tested on.
        looked_at: The discovery half; None where only the test half was given.
        metric: Reads logits.
        duplicates: Prompts that were left out because they repeat another.
    """

    model: HookedMamba
    tested: ConfirmationPairs
    looked_at: DiscoveryPairs | None
    metric: Metric
    duplicates: int = 0
    runner: Runner = field(init=False)

    def __post_init__(self) -> None:
        self.runner = runner_for_claim(self.model, self.tested.encode(self.model.tokenizer))

    @property
    def pairs(self) -> EncodedPairs:
        """The encoded test prompts."""
        return self.runner.pairs

    @cached_property
    def discovery(self) -> Runner:
        """A runner over the discovery half, for fits.

        Raises:
            ClaimInvalid: Only the test half was given.
        """
        if self.looked_at is None or not len(self.looked_at):
            raise ClaimInvalid(
                "controls are drawn in coordinates measured on the discovery half of the prompts",
                given=f"{self.tested!r} alone",
                expected="the whole collection, which both halves are taken from",
                next_step="pass `prompts`, not `prompts.test`",
            )
        return runner_for_claim(self.model, self.looked_at.encode(self.model.tokenizer))

    @property
    def labels(self) -> list[str]:
        """Template of every prompt: its cluster."""
        return [self.pairs.templates[index] for index in self.pairs.cluster]

    @property
    def digests(self) -> tuple[str, ...]:
        """Digest of what every prompt's row says, by which prompts of two runs are paired."""
        known = {pair.id: pair.content_digest for pair in self.tested}
        return tuple(known[name] for name in self.pairs.ids)

    @property
    def templates(self) -> int:
        """Number of clusters."""
        return len(set(self.pairs.cluster.tolist()))

    @property
    def identity(self) -> ModelIdentity:
        """Which weights."""
        return identity_of(self.model)

    def read(self, logits: Tensor) -> Values:
        """Return the metric of some logits, one number a prompt, larger being better.

        Raises:
            MetricError: Not one number a prompt.
            NonFiniteError: NaN or infinity; names the prompts.
        """
        if getattr(self.metric, "needs_reference", False):
            values = -_array(self.metric(logits, self.pairs, reference=self.runner.logits("clean")))
        else:
            values = _array(self.metric(logits, self.pairs))
        self._require_numbers(values)
        return values

    def read_after(
        self, controls: Sequence[Sequence[Circuit]], intervention: Intervention, base: Run
    ) -> list[Values]:
        """Return the metric after each of some interventions.

        Where the metric looks at answers and foils alone, no other logits are computed.

        Raises:
            MetricError, NonFiniteError: As `read`.
        """
        if not self._answers_only:
            found = self.runner.logits_after(controls, intervention, base)
            return [self.read(logits) for logits in found]
        columns, answers = self._answer_columns
        found = self.runner.logits_after(controls, intervention, base, columns=columns)
        # One question for all of them: the metric looks at answers and foils alone.
        read = self.metric(found.flatten(0, 1), answers.repeated(len(found)))
        values = list(_array(read).reshape(len(found), -1))
        for one in values:
            self._require_numbers(one)
        return values

    @property
    def columns_read(self) -> int:
        """Number of tokens whose logits are computed for a control."""
        return len(self._answer_columns[0]) if self._answers_only else self.model.cfg.d_vocab

    @property
    def _answers_only(self) -> bool:
        within = getattr(self.metric, "vocabulary", None)
        return bool(getattr(self.metric, "answers_only", False)) and within is None

    @cached_property
    def _answer_columns(self) -> tuple[Tensor, AnswerIds]:
        """Return the tokens that are an answer or foil of any prompt, and answers among them."""
        return self.pairs.answers.among_themselves()

    def _require_numbers(self, values: np.ndarray) -> None:
        ids = self.pairs.ids
        if values.shape != (len(ids),):
            raise MetricError(
                f"{self.metric.name} does not give one number a prompt",
                given=f"shape {values.shape} for {len(ids)} prompts",
                expected=f"shape ({len(ids)},)",
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise NonFiniteError(
                f"{self.metric.name} is not finite for {len(bad)} of {len(ids)} prompts",
                given=", ".join(ids[int(row)] for row in bad[:5]),
                expected="finite numbers",
            )

    def share(self, logits: Tensor, name: str) -> float:
        """Return a share of prompts: `accuracy`, `moved` or `broken`."""
        return float(_array(METRICS[name](logits, self.pairs)).mean())


def _array(values: Tensor) -> Values:
    return np.asarray(values.detach().cpu().double().numpy())


def identity_of(model: HookedMamba) -> ModelIdentity:
    """Return what identifies a model's weights."""
    known = model.fingerprint
    return ModelIdentity(
        name=model.source,
        weights="" if known is None else known.weights,
        tokenizer="" if known is None else known.tokenizer or "",
        dtype=str(model.embedding.weight.dtype).removeprefix("torch."),
        device=str(model.device),
    )


def prepare_study(
    model: HookedMamba, circuits: Sequence[Circuit], prompts: PromptPairs, metric: Metric | str
) -> Study:
    """Bring together what a claim is measured on.

    Args:
        model: The model.
        circuits: Everything the claim speaks of; what they were fitted on is held against the test
            half.
        prompts: A whole collection (its test half is taken), or a test half.
        metric: A metric, or its name.

    Raises:
        ClaimInvalid: Discovery prompts, a circuit fitted on prompts or templates that would be
            tested on, or no prompts at all.
        MetricError, PromptError, AlignmentError, AnswerTokenError: As their classes say.
    """
    chosen = metric_by_name(metric) if isinstance(metric, str) else metric
    _require_model(model)
    _require_metric(chosen)
    tested, looked_at = _halves(prompts)
    for circuit in circuits:
        _refuse_circular(circuit, tested)
        for part in circuit.parts:  # a layer or hook the model lacks is told before any run
            model.resolver.site(str(part))
    _note_in_ledger(circuits, tested)
    unique = tested.deduplicated()
    study = Study(model, unique, looked_at, chosen, len(tested) - len(unique))
    for circuit in circuits:
        plan_edits(model.resolver, circuit, study.pairs)  # a role that some prompt lacks, likewise
        if circuit.fitted_on is not None and circuit.fitted_on & study.pairs.fingerprints:
            raise _circular(circuit, "prompts, token by token,")
    return study


def _note_in_ledger(circuits: Sequence[Circuit], tested: ConfirmationPairs) -> None:
    """Tell the running claim which circuits are tested on which prompts."""
    claim = current_claim()
    if claim is None or claim.planning:
        return
    for circuit in circuits:
        basis = None if circuit.subspace is None else circuit.subspace.basis
        parts = [[str(site) for site in circuit.sites], circuit.channel_key, basis]
        claim.ledger.append((tested.digest, digest_of(parts)))


def _require_model(model: object) -> None:
    if not isinstance(model, HookedMamba):
        raise ClaimInvalid(
            "a claim is about one hooked model",
            given=type(model).__name__,
            expected="a HookedMamba (the fixture `mamba`)",
            next_step="for several seeds use assert_stable_across_seeds(mamba_seeds, ...)",
        )


def _require_metric(metric: object) -> None:
    if not isinstance(metric, Metric):
        raise ClaimInvalid(
            "a metric turns logits into one number a prompt, and says its name, unit and sign",
            given=repr(metric),
            expected=f"one of {', '.join(METRICS)}, or an object like them (mechtest.Metric)",
        )


def _halves(prompts: PromptPairs) -> tuple[ConfirmationPairs, DiscoveryPairs | None]:
    if isinstance(prompts, DiscoveryPairs):
        raise ClaimInvalid(
            "circular: a claim cannot be tested on the half that circuits are looked for on",
            given=repr(prompts),
            expected="the whole collection, or its test half",
            next_step="pass `prompts`; its test half is taken",
        )
    if not isinstance(prompts, PromptPairs):
        raise ClaimInvalid(
            "a claim needs prompt pairs",
            given=type(prompts).__name__,
            expected="PromptPairs (the fixture `prompts`)",
        )
    if isinstance(prompts, ConfirmationPairs):
        tested, looked_at = prompts, None
    else:
        looked_at, tested = prompts.split()
    if not len(tested):
        raise ClaimInvalid(
            f"{prompts.source}: no template falls on the test half",
            given=f"{len(prompts)} prompts of {len(prompts.templates)} templates",
            expected="templates on both halves; about half of them fall on each",
            next_step="write prompts in more templates",
        )
    return tested, looked_at


def _refuse_circular(circuit: Circuit, tested: ConfirmationPairs) -> None:
    if circuit.fitted_on is None:
        return
    shared = circuit.fitted_on & tested.fingerprints
    if shared.texts or shared.tokens:
        raise _circular(circuit, f"{len(shared.texts) or len(shared.tokens)} prompts")
    if shared.clusters:
        raise _circular(circuit, f"{len(shared.clusters)} templates")


def _circular(circuit: Circuit, what: str) -> MechtestError:
    return ClaimInvalid(
        f"circular: {circuit.name} was found on {what} it would be tested on",
        given=f"a circuit fitted on the test half (or on the whole collection) of {circuit.name}",
        expected="a circuit found on prompts.discovery",
        next_step="find the circuit on prompts.discovery only, and test it with `prompts`",
    )
