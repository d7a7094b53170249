"""Where is MambaLens wrong, mostly without a word, and what do we do there?

Every row is executed on a shared random model. MambaLens's outcome is only reported; ours is
checked: it has to be an error that says so, or the right answer.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from edits import changed_by
from mamba_lens.HookedMamba import convert_original_config_to_hooked_mamba_config
from peers import Pair

from mechtest import convert_original_config_to_hooked_mamba_config as our_config


class Case(NamedTuple):
    """One situation.

    Attributes:
        situation: What the user does.
        theirs: What MambaLens does.
        ours: What mechtest does.
        good: Ours raised, or was right.
    """

    situation: str
    theirs: str
    ours: str
    good: bool


def outcome(action: Callable[[], str]) -> str:
    """Return what happened: the action's own words, or the name of the error."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - the error is the finding
        return f"raises {type(error).__name__}"


def executed(pair: Pair, zoo: Pair) -> list[Case]:
    """Run every case.

    Args:
        pair: A random model.
        zoo: A trained model with its tokenizer.
    """
    tokens = pair.tokens(2, 9)
    return [
        misspelt_filter(pair, tokens),
        filter_as_string(pair, tokens),
        hooks_while_caching(pair, tokens),
        edit_in_place(pair, tokens),
        misshapen_edit(pair, tokens),
        hook_list(pair),
        start_at_layer(pair, tokens),
        ssm_cfg(),
        two_bos(zoo),
        left_padding(pair, tokens),
        fast_path(pair, tokens),
    ]


def misspelt_filter(pair: Pair, tokens: torch.Tensor) -> Case:
    """A filter that names no hook."""

    def run(model: Any) -> str:
        return f"{len(model.run_with_cache(tokens, names_filter=['blocks.0.hook_hh.3'])[1])} cached"

    ours = outcome(lambda: run(pair.ours))
    good = ours == "raises UnknownSiteError"
    situation = "run_with_cache(names_filter=['blocks.0.hook_hh.3'])"
    return Case(situation, outcome(lambda: run(pair.theirs)), ours, good)


def filter_as_string(pair: Pair, tokens: torch.Tensor) -> Case:
    """A filter given as one name."""

    def run(model: Any) -> str:
        return f"{len(model.run_with_cache(tokens, names_filter='blocks.0.hook_h.3')[1])} cached"

    ours = outcome(lambda: run(pair.ours))
    situation = "run_with_cache(names_filter='blocks.0.hook_h.3')"
    return Case(situation, outcome(lambda: run(pair.theirs)), ours, ours == "1 cached")


def hooks_while_caching(pair: Pair, tokens: torch.Tensor) -> Case:
    """Hooks given to run_with_cache."""

    def run(model: Any) -> str:
        clean = model(tokens)
        hooks = [("blocks.0.hook_h.3", changed_by(torch.zeros_like))]
        edited, _ = model.run_with_cache(tokens, fwd_hooks=hooks)
        return "edit dropped" if torch.equal(clean, edited) else "edit applied"

    ours = outcome(lambda: run(pair.ours))
    situation = "run_with_cache(fwd_hooks=[(hook_h.3, zero)])"
    return Case(situation, outcome(lambda: run(pair.theirs)), ours, ours == "edit applied")


def edit_in_place(pair: Pair, tokens: torch.Tensor) -> Case:
    """A hook in layer 1 that edits in place, while layer 0 is being cached."""

    def zero(resid: torch.Tensor) -> torch.Tensor:
        resid[:, 3] = 0
        return resid

    def run(model: Any) -> str:
        _, clean = model.run_with_cache(tokens)
        with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", changed_by(zero))]):
            _, cache = model.run_with_cache(tokens)
        same = torch.equal(clean["blocks.0.hook_resid_post"], cache["blocks.0.hook_resid_post"])
        return "layer 0 cached as it was" if same else "layer 0's cached values changed"

    ours = outcome(lambda: run(pair.ours))
    situation = "in-place edit in layer 1 while caching layer 0"
    good = ours == "layer 0 cached as it was"
    return Case(situation, outcome(lambda: run(pair.theirs)), ours, good)


def misshapen_edit(pair: Pair, tokens: torch.Tensor) -> Case:
    """A hook that returns one prompt's state for a batch of two."""

    def run(model: Any) -> str:
        hooks = [("blocks.0.hook_h.3", changed_by(lambda h: h[:1]))]
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
        return f"prompt 0's state in both prompts, logits {list(logits.shape)}"

    ours = outcome(lambda: run(pair.ours))
    situation = "hook returns [1, E, N] for a batch of 2"
    good = ours == "raises HookOutputError"
    return Case(situation, outcome(lambda: run(pair.theirs)), ours, good)


def hook_list(pair: Pair) -> Case:
    """The list of all hook names for a prompt of nine tokens."""

    def count(names: list[str]) -> str:
        return f"{sum('.hook_h.' in name for name in names)} hook_h names"

    tokens = pair.tokens(1, 9)
    theirs = outcome(lambda: count(pair.theirs.get_all_hook_names(tokens)))
    ours = outcome(lambda: count(pair.ours.resolver.all_names(9)))
    good = ours == f"{9 * pair.ours.cfg.n_layer} hook_h names"
    return Case("list every hook name for 9 tokens", theirs, ours, good)


def start_at_layer(pair: Pair, tokens: torch.Tensor) -> Case:
    """Continue from a cached residual stream."""

    def run(model: Any) -> str:
        logits, cache = model.run_with_cache(tokens)
        again = model(cache["blocks.1.hook_resid_pre"], start_at_layer=1)
        if again.shape != logits.shape:
            return f"returns {list(again.shape)}, not logits"
        return "the same logits" if torch.equal(again, logits) else "other logits"

    ours = outcome(lambda: run(pair.ours))
    situation = "forward(residual stream, start_at_layer=1)"
    return Case(situation, outcome(lambda: run(pair.theirs)), ours, ours == "the same logits")


def ssm_cfg() -> Case:
    """The shapes in an original config.json, under the key that state-spaces writes."""
    config = {
        "d_model": 16,
        "n_layer": 1,
        "vocab_size": 24,
        "ssm_cfg": {"d_state": 8, "d_conv": 2, "expand": 4},
    }

    def shown(cfg: Any) -> str:
        return f"d_state {cfg.d_state}, d_conv {cfg.d_conv}, expand {cfg.expand}"

    theirs = outcome(lambda: shown(convert_original_config_to_hooked_mamba_config(config, "cpu")))
    ours = outcome(lambda: shown(our_config(config)))
    good = ours == "d_state 8, d_conv 2, expand 4"
    return Case("config.json with ssm_cfg 8, 2, 4", theirs, ours, good)


def two_bos(zoo: Pair) -> Case:
    """A tokenizer that puts bos in front by itself, as loaded by default."""

    def run(model: Any) -> str:
        bos = model.tokenizer.bos_token_id
        return f"{int((model.to_tokens('Emma gave') == bos).sum())} bos"

    given, zoo.theirs.cfg.tokenizer_prepends_bos = zoo.theirs.cfg.tokenizer_prepends_bos, False
    try:
        theirs = outcome(lambda: run(zoo.theirs))
    finally:
        zoo.theirs.cfg.tokenizer_prepends_bos = given
    ours = outcome(lambda: run(zoo.ours))
    return Case("to_tokens with a tokenizer that adds bos itself", theirs, ours, ours == "1 bos")


def left_padding(pair: Pair, tokens: torch.Tensor) -> Case:
    """The last logits of a prompt, alone and behind three padding tokens."""
    padded = torch.cat([torch.zeros_like(tokens[:, :3]), tokens], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :3] = 0

    @torch.no_grad()
    def run(model: Any, **options: Any) -> float:
        return float((model(padded, **options)[:, -1] - model(tokens)[:, -1]).abs().max())

    theirs = outcome(lambda: f"last logits move by {run(pair.theirs):.2g} (no mask exists)")
    ours = outcome(lambda: f"last logits move by {run(pair.ours, attention_mask=mask):.2g}")
    good = run(pair.ours, attention_mask=mask) < 1e-4
    return Case("left-padded prompt", theirs, ours, good)


def fast_path(pair: Pair, tokens: torch.Tensor) -> Case:
    """A hook that the fused scan never computes, with fast_ssm=True.

    MambaLens's own code runs; only the CUDA module it imports is replaced, by a stand-in that
    returns tensors of the right shapes.
    """
    fired: list[torch.Tensor] = []

    def run(model: Any) -> str:
        fired.clear()
        printed = io.StringIO()
        hooks = [("blocks.0.hook_A_bar", changed_by(fired.append))]
        with contextlib.redirect_stdout(printed), torch.no_grad():
            model.run_with_hooks(tokens, fwd_hooks=hooks, fast_ssm=True)
        told = "a line is printed" if printed.getvalue() else "nothing is said"
        return f"runs; hook called {len(fired)} times, {told}"

    sys.modules["selective_scan_cuda"] = SimpleNamespace(  # type: ignore[assignment]
        fwd=lambda x, *_: (torch.zeros_like(x), torch.zeros(1), torch.zeros_like(x))
    )
    try:
        theirs = outcome(lambda: run(pair.theirs))
    finally:
        del sys.modules["selective_scan_cuda"]
    ours = outcome(lambda: run(pair.ours))
    good = ours == "raises SiteNotServedError"
    return Case("fast_ssm=True with a hook on hook_A_bar", theirs, ours, good)
