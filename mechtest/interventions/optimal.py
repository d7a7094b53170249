"""With which constants in its place is a circuit missed least?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from mechtest.errors import NonFiniteError, ShapeError
from mechtest.interventions.circuit import Circuit
from mechtest.interventions.edits import Edit
from mechtest.interventions.fit import collect_activations
from mechtest.interventions.hooked import edit_hooks, planned_part
from mechtest.interventions.plan import PlannedEdit, plan_edits
from mechtest.interventions.run import Runner
from mechtest.interventions.spec import MeanAblation, OptimalAblation
from mechtest.models import HookPoint
from mechtest.tasks import EncodedPairs

__all__ = ["fit_optimal"]

STEPS = 40
"""Steps of the search; the loss hardly moves after twenty on the models that ship."""

TINY = 1e-12
"""Nats below which nothing is missed, whatever is put in."""

Constants = dict[str, torch.Tensor]


def fit_optimal(runner: Runner, circuit: Circuit, *, steps: int = STEPS) -> OptimalAblation:
    """Return the optimal ablation of a circuit.

    One constant a hook, the same for all prompts and positions, that makes the KL divergence from
    the untouched model's next-token distribution to the ablated one's smallest on average over
    prompts. Found by L-BFGS from the mean; the best constant met is returned, so that it is never
    worse than the mean. Only what the circuit edits (its positions, channels or subspace) matters.

    Args:
        runner: Model and (discovery) prompts; every prompt counts once.
        circuit: What is ablated, all at once.
        steps: Most steps.

    Raises:
        ShapeError: The prompts are the half that claims are tested on, no step, or a circuit of no
            activation with prompts.
        NonFiniteError: The loss is not a number.

    Sources: Li & Janson 2024, section 2 and appendix (constants by gradient descent).
    """
    if steps < 1:
        raise ShapeError("a search takes a step at least", given=f"steps={steps}")
    found = collect_activations(runner, circuit)
    start = {name: rows.mean(0) for name, rows in found.items()}
    spread = {name: max(float((rows - start[name]).std()), 1e-6) for name, rows in found.items()}
    search = _Search(runner, circuit, start, spread)
    return search.best(steps)


@dataclass(eq=False)
class _Search:
    """The loss of constants, and the best of those tried.

    Constants are written as the mean plus a multiple of the site's spread, so that one step size
    fits all sites.
    """

    runner: Runner
    circuit: Circuit
    start: Constants
    spread: Mapping[str, float]

    def best(self, steps: int) -> OptimalAblation:
        """Return the best constants met in so many steps."""
        offsets = {
            name: torch.zeros_like(value, requires_grad=True) for name, value in self.start.items()
        }
        losses: list[float] = []
        kept: list[Constants] = []

        def evaluate() -> float:
            loss, gradients = self._loss(offsets)
            # In units of the mean's loss: the search stops by absolute sizes.
            unit = max(losses[0] if losses else loss, TINY)
            for offset, gradient in zip(offsets.values(), gradients, strict=True):
                offset.grad = gradient / unit
            if not losses or loss < min(losses):
                kept[:] = [
                    {name: v.detach().clone() for name, v in self._constants(offsets).items()}
                ]
            losses.append(loss)
            return loss / unit

        optimizer = torch.optim.LBFGS(
            list(offsets.values()), max_iter=steps, line_search_fn="strong_wolfe"
        )
        optimizer.step(evaluate)
        return OptimalAblation(kept[0], loss=min(losses), loss_of_mean=losses[0])

    def _constants(self, offsets: Constants) -> Constants:
        return {
            name: self.start[name] + self.spread[name] * offset for name, offset in offsets.items()
        }

    def _loss(self, offsets: Constants) -> tuple[float, tuple[torch.Tensor, ...]]:
        """Return the mean loss and its gradients."""
        total = 0.0
        gradients = [torch.zeros_like(offset) for offset in offsets.values()]
        with torch.enable_grad():
            for logits, clean in self._batches(offsets):
                loss = _divergence(logits, clean) / len(self.runner.pairs)
                total += float(loss.detach())
                # What comes after the last place that is read, such as a window that later
                # tokens would have seen, changes nothing and has no gradient.
                parts = torch.autograd.grad(loss, list(offsets.values()), allow_unused=True)
                gradients = [
                    one if part is None else one + part
                    for one, part in zip(gradients, parts, strict=True)
                ]
        if not torch.isfinite(torch.tensor(total)):
            raise NonFiniteError(
                f"the loss of ablating {self.circuit.name} is {total}",
                given=total,
                expected="a finite divergence from the untouched model",
                next_step="check the model's logits, or use MeanAblation",
            )
        return total, tuple(gradients)

    def _batches(self, offsets: Constants) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield logits after ablating with some constants, and the untouched ones."""
        runner, size = self.runner, self.runner.batch_size
        clean = runner.logits("clean")
        plan = plan_edits(runner.model.resolver, self.circuit, runner.pairs)
        for index, batch in enumerate(runner.pairs.batches(size)):
            rows = slice(index * size, index * size + len(batch))
            runner.count(batch.clean_tokens)
            ablation = MeanAblation(self._constants(offsets))  # a graph of its own
            hooks = _hooks(plan, self.circuit, ablation, batch, rows.start)
            with runner.model.hooks(fwd_hooks=hooks):
                logits, _ = runner.model.run_with_state(
                    batch.clean_tokens, None, attention_mask=batch.attention_mask
                )
            yield logits[:, -1], clean[rows]


def _hooks(
    plan: Sequence[PlannedEdit], circuit: Circuit, ablation: MeanAblation, batch: EncodedPairs,
    first: int,
) -> list[tuple[str, Callable]]:  # fmt: skip
    """Return hooks that edit copies: gradients need the values that went before."""

    def on_a_copy(function: Callable) -> Callable:
        def edited(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
            return function(value.clone(), hook)

        return edited

    found = []
    order = torch.as_tensor(batch.order)
    for planned in plan:
        here = planned_part(planned, first, len(batch), 0)
        edit = Edit(planned.site, circuit, ablation)
        found += [(name, on_a_copy(fn)) for name, fn in edit_hooks(edit, here, {}, order, None)]
    return found


def _divergence(
    logits: Float[torch.Tensor, "prompt d_vocab"], clean: Float[torch.Tensor, "prompt d_vocab"]
) -> Float[torch.Tensor, ""]:
    """Return the KL divergence from the clean distribution, in nats, summed over prompts."""
    return torch.nn.functional.kl_div(
        logits.double().log_softmax(-1),
        clean.double().log_softmax(-1),
        log_target=True,
        reduction="sum",
    )
