"""Which controls have been measured already, by any claim of this run?

Claims on the same site, of the same size and make-up, draw the same controls. What a block of them
moved is kept under a digest of everything it depends on: weights, prompts, metric, question,
intervention, and the family the controls are drawn from.
"""

from __future__ import annotations

from mechtest.assertions.question import Question
from mechtest.interventions import digest_of, digest_of_weights

__all__ = ["pool_key"]


def pool_key(question: Question, family: str, numbers: range) -> str | None:
    """Return what a block of controls is kept under; None where it must not be kept.

    Args:
        question: Model, prompts, metric, mode, intervention and circuit.
        family: Digest of the family controls are drawn from, their seed included.
        numbers: Which controls.
    """
    study = question.study
    if study.model.has_any_hooks:
        return None  # what a hook does is in no digest
    pairs = study.pairs
    try:
        asked = digest_of(question.intervention)
    except TypeError:
        return None  # an intervention of the user's own
    return digest_of(
        [
            digest_of_weights(study.model),
            [pairs.clean_tokens, pairs.corrupted_tokens, pairs.attention_mask],
            [pairs.answers.answer_ids, pairs.answers.foil_ids, pairs.role_positions],
            list(pairs.roles),
            pairs.order.tolist(),
            [study.metric.name, repr(study.metric)],
            # In mode `keep` all else of the claim's kind is ablated, so its sites matter too.
            [question.mode, *map(str, question.circuit.sites if question.mode == "keep" else ())],
            asked,
            [study.runner.engine, study.runner.batch_size, study.runner.memory],
            family,
            [numbers.start, numbers.stop],
        ]
    )
