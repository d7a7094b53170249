"""What stands at some hooks of a run, and how steeply does the metric rise there?

One forward pass keeps values, and a backward pass from the metric gives the slope of the metric at
each of them. However many hooks are kept, it stays one pass there and one back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float

from mechtest.discovery.record_values import part_of_records
from mechtest.errors import MetricError, NonFiniteError
from mechtest.interventions import Run, Runner
from mechtest.models import HookedMamba, HookPoint
from mechtest.tasks import EncodedPairs, Metric

__all__ = ["AttributionCost", "Trace", "Tracer", "Values", "require_slope"]

Values = Mapping[str, torch.Tensor]

KEPT_PER_CHANNEL = 14
"""Numbers that the backward pass needs for each inner channel of a token and layer, about."""


@part_of_records
@dataclass(frozen=True)
class AttributionCost:
    """What an attribution took; the true effects beside it are counted apart.

    Attributes:
        forward_passes: Passes forward, of one batch of prompts each.
        backward_passes: Passes back.
        forward_tokens: Tokens through the model forward, padding included.
        batch_size: Prompts in a batch.
        true_effect_tokens: Tokens through the model for the true effects; one through half of the
            layers counts half.
    """

    forward_passes: int
    backward_passes: int
    forward_tokens: int
    batch_size: int
    true_effect_tokens: int

    def with_truth(self, tokens: int) -> AttributionCost:
        """Return it with the tokens that true effects took."""
        return replace(self, true_effect_tokens=tokens)

    def line(self) -> str:
        """Return it as a sentence."""
        return (
            f"cost: {self.forward_passes} passes forward and {self.backward_passes} back "
            f"({self.forward_tokens:,} tokens, {self.batch_size} prompts at a time); "
            f"true effects: {self.true_effect_tokens:,} tokens"
        )


@dataclass(frozen=True, eq=False)
class Trace:
    """What a run kept.

    Attributes:
        values: By hook name.
        slopes: Derivative of each prompt's metric by each value, shaped alike.
    """

    values: Values
    slopes: Values


@dataclass(eq=False)
class Tracer:
    """Runs a model on batches of prompts, forward and back.

    Memory: a batch is as many prompts as `memory` holds the graph of, at least one: about
    4 (14 d_inner + 4 d_model) bytes a token and layer, 20 MB a token for 64 layers of 5120
    channels. States are never kept: the kernels walk back from checkpoints. (Where they are not
    compiled for a device and dtype, torch keeps every state of every layer.)

    Args:
        runner: Model and prompts.
        metric: Reads logits.
        memory: Bytes a batch may take.
        extra: Numbers that a token keeps besides.

    Attributes:
        passes: Passes forward so far.
        backward_passes: Passes back so far.
        tokens: Tokens through the model so far.
    """

    runner: Runner
    metric: Metric
    memory: int
    extra: int = 0
    passes: int = field(default=0, init=False)
    backward_passes: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)

    @property
    def model(self) -> HookedMamba:
        """The model."""
        return self.runner.model

    @property
    def batch_size(self) -> int:
        """Prompts in a batch."""
        cfg = self.model.cfg
        width = self.model.embedding.weight.element_size()
        layer = KEPT_PER_CHANNEL * cfg.E + 4 * cfg.d_model
        n_pos = self.runner.pairs.clean_tokens.shape[1]
        prompt = width * n_pos * (cfg.n_layer * layer + 2 * cfg.d_vocab + self.extra)
        return max(1, min(len(self.runner.pairs), self.memory // prompt))

    def batches(self) -> Iterator[tuple[slice, EncodedPairs]]:
        """Yield the prompts, a batch at a time, and which of all they are."""
        size = self.batch_size
        for index, batch in enumerate(self.runner.pairs.batches(size)):
            yield slice(index * size, index * size + len(batch)), batch

    def cost(self, true_effect_tokens: int) -> AttributionCost:
        """Return what was done so far."""
        return AttributionCost(
            self.passes, self.backward_passes, self.tokens, self.batch_size, true_effect_tokens
        )

    @torch.no_grad()
    def values(self, batch: EncodedPairs, run: Run, names: Sequence[str]) -> Values:
        """Return what stands at some hooks (without positions), in one forward pass."""
        values: dict[str, torch.Tensor] = {}
        self._forward(batch, run, [(name, _keeper(values)) for name in names])
        return values

    def trace(
        self,
        batch: EncodedPairs,
        run: Run,
        names: Sequence[str],
        embedded: Float[torch.Tensor, "prompt pos d_model"] | None = None,
    ) -> Trace:
        """Return values and slopes at some hooks, in one pass forward and one back.

        Args:
            batch: The prompts.
            run: Which of their tokens.
            names: Hooks without positions; not per-position ones.
            embedded: Embeddings to run from instead of the tokens' own.

        Raises:
            MetricError: The metric has no slope.
            NonFiniteError: A slope is NaN or infinite.
        """
        values: dict[str, torch.Tensor] = {}
        keep = _keeper(values)

        def start(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
            begun = value if embedded is None else embedded
            values[hook.name] = begun.detach().clone().requires_grad_()
            return values[hook.name]

        hooks = [("hook_embed", start)]
        hooks += [(name, keep) for name in dict.fromkeys(names) if name != "hook_embed"]
        with torch.enable_grad(), _frozen(self.model):
            logits = self._forward(batch, run, hooks)
            scores = self.metric(logits[:, -1], batch)
            require_slope(self.metric, scores)
            kept = list(values.values())
            found = torch.autograd.grad(scores.sum(), kept, allow_unused=True)
        self.backward_passes += 1
        slopes = {}
        for (name, value), slope in zip(values.items(), found, strict=True):
            slopes[name] = torch.zeros_like(value) if slope is None else slope
            if not bool(slopes[name].sum().isfinite()):
                raise NonFiniteError(
                    f"the slope of {self.metric.name} at {name} is NaN or infinite",
                    given=f"the {run} run of prompts {', '.join(batch.ids[:3])}, ...",
                    expected="finite slopes",
                )
        return Trace({name: value.detach() for name, value in values.items()}, slopes)

    def _forward(
        self, batch: EncodedPairs, run: Run, hooks: Sequence[tuple[str, Callable]]
    ) -> torch.Tensor:
        tokens = batch.clean_tokens if run == "clean" else batch.corrupted_tokens
        self.passes += 1
        self.tokens += tokens.numel()
        self.runner.count(tokens)
        mask = batch.attention_mask if batch.padded else None
        logits: torch.Tensor = self.model.run_with_hooks(
            tokens, attention_mask=mask, fwd_hooks=hooks
        )
        return logits


def require_slope(metric: Metric, scores: Float[torch.Tensor, " prompt"]) -> None:
    """Raise for a metric that does not change with the logits by degrees.

    Raises:
        MetricError: It has no gradient.
    """
    if not scores.requires_grad:
        raise MetricError(
            f"{metric.name} has no slope, so nothing can be attributed by it",
            given=metric.name,
            expected="a metric that changes with the logits by degrees: logit_difference, "
            "log_probability, probability_mass",
            next_step="patch the places themselves: mt.sweep",
        )


def _keeper(values: dict[str, torch.Tensor]) -> Callable:
    def keep(value: torch.Tensor, hook: HookPoint) -> None:
        values[hook.name] = value  # a hook's own copy, and what the model goes on with

    return keep


@contextmanager
def _frozen(model: HookedMamba) -> Iterator[None]:
    """Ask for no gradients of weights: they would be computed and thrown away."""
    wanted = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in wanted:
        weight.requires_grad = False
    try:
        yield
    finally:
        for weight in wanted:
            weight.requires_grad_()
