"""Small random models in float64 on which a first order can be checked to the last digits."""

from dataclasses import replace

import torch

from mechtest.tasks import logit_difference
from tests.interventions.tiny_pairs import tiny_pairs
from tests.tiny import tiny_model


def wide_model(seed=0, **shape):
    return tiny_model(seed=seed, dtype="float64", **shape)


def looked_at(model, lengths, seed=0, *, differs=1):
    """Return random prompts that a tool may look at."""
    return replace(tiny_pairs(model, lengths, seed, differs=differs), side="discovery")


def metric_with(model, pairs, hooks):
    """Return the metric of each clean prompt with hooks on the model."""
    mask = pairs.attention_mask if pairs.padded else None
    with torch.no_grad():
        logits = model.run_with_hooks(pairs.clean_tokens, attention_mask=mask, fwd_hooks=hooks)
    return logit_difference(logits[:, -1], pairs)


def values_at(model, pairs, names, run="clean"):
    """Return what stands at some hooks, by name."""
    mask = pairs.attention_mask if pairs.padded else None
    tokens = pairs.clean_tokens if run == "clean" else pairs.corrupted_tokens
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, attention_mask=mask, names_filter=list(names))
    return {name: cache[name] for name in names}


def gap_of(model, pairs):
    clean = metric_with(model, pairs, [])
    mask = pairs.attention_mask if pairs.padded else None
    with torch.no_grad():
        logits = model(pairs.corrupted_tokens, attention_mask=mask)
    return float((clean - logit_difference(logits[:, -1], pairs)).mean())


def moved_part_of_the_way(model, pairs, name, position, share):
    """Return the metric with one position of a hook moved by a share of its way to the twin."""
    part = name if position is None else f"{name}@{position}"
    clean, twin = (values_at(model, pairs, [part], run)[part] for run in ("clean", "corrupted"))

    def edit(value, hook):
        return clean + share * (twin - clean)

    return metric_with(model, pairs, [(part, edit)])
