"""Does MambaLens see the same model as we do: every hook, every edit, every gradient?

Run as a script: prints tables, writes results/parity_mambalens.json, exits 1 if a gate is missed.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import readme_examples
import silent_errors
import torch
from edits import HookFunction, changed_by, taken_at, taken_from
from peers import Pair, random_pair, zoo_pair
from results import shown, table, write

from mechtest.checkpoints import from_native

GATE = {torch.float32: 1e-5, torch.float64: 1e-12}
N_POS = 17
CONFIGS: dict[str, dict[str, int]] = {
    "D16 N4 x2": {"d_model": 16, "n_layer": 2, "vocab_size": 40, "d_state": 4},
    "D24 N7 K3 x3": {"d_model": 24, "n_layer": 3, "vocab_size": 37, "d_state": 7, "d_conv": 3},
    "D17 N1 K2 E51 x1": {
        "d_model": 17, "n_layer": 1, "vocab_size": 11, "d_state": 1, "d_conv": 2, "expand": 3
    },
    "D33 N16 K5 R7 x4": {
        "d_model": 33, "n_layer": 4, "vocab_size": 64, "d_state": 16, "d_conv": 5, "dt_rank": 7
    },
    "D20 N3 K1 E31 x5": {
        "d_model": 20, "n_layer": 5, "vocab_size": 29, "d_state": 3, "d_conv": 1, "d_inner": 31
    },
    "D128 N16 x4": {"d_model": 128, "n_layer": 4, "vocab_size": 1024, "d_state": 16},
}  # fmt: skip
# Edited at every position; hook_h has a hook of its own for each of them.
EDITED = (
    "hook_h",
    "hook_resid_pre",
    "hook_layer_input",
    "hook_delta",
    "hook_A_bar",
    "hook_B_bar",
)
# Edited at every fourth position, and as a whole.
SAMPLED = (
    "hook_normalized_input",
    "hook_in_proj",
    "hook_conv",
    "hook_ssm_input",
    "hook_delta_1",
    "hook_delta_2",
    "hook_B",
    "hook_C",
    "hook_y",
    "hook_skip",
    "hook_resid_post",
)
WHOLE = ("hook_A", "hook_h_start")


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return max|ours - theirs| / max|theirs|; 0 where both are zero."""
    difference = float((ours.double() - theirs.double()).abs().max())
    return difference / max(float(theirs.abs().max()), 1e-30) if difference else 0.0


@torch.no_grad()
def check_hooks(pair: Pair, wide: Pair, batch: int = 2) -> dict[str, Any]:
    """Cache every hook in both: same names, same order, same shapes, same values.

    Args:
        pair: The models compared.
        wide: The same models in float64, to tell whose rounding a difference is.
        batch: Prompts.
    """
    tokens = pair.tokens(batch, N_POS)
    logits_ours, ours = pair.ours.run_with_cache(tokens)
    logits_theirs, theirs = pair.theirs.run_with_cache(tokens)
    plain = relative(pair.ours(tokens), pair.theirs(tokens))
    _, exact = wide.theirs.run_with_cache(tokens)
    names = list(theirs)
    missing = [name for name in names if name not in ours]
    common = [name for name in names if name in ours]
    apart = {name: relative(ours[name], theirs[name]) for name in common}
    worst = max(apart, key=lambda name: apart[name])
    split = from_native(pair.ours.native_state_dict(), pair.ours.cfg, "mambalens")
    same_weights = all(torch.equal(split[k], v) for k, v in pair.theirs.state_dict().items())
    return {
        "model": pair.name,
        "dtype": str(logits_ours.dtype).removeprefix("torch."),
        "hooks": len(names),
        "missing": missing,
        "same_order": [name for name in ours if name in theirs] == names,
        "same_shapes": all(ours[name].shape == theirs[name].shape for name in common),
        "same_weights": same_weights,
        "bitwise_equal_hooks": sum(torch.equal(ours[n], theirs[n]) for n in common),
        "worst_hook": worst,
        "largest_relative_difference": apart[worst],
        "ours_from_float64": max(relative(ours[n], exact[n]) for n in common),
        # 0 where this run is the float64 one.
        "theirs_from_float64": max(relative(theirs[n], exact[n]) for n in common),
        "logits": max(plain, relative(logits_ours, logits_theirs)),
        "gate": GATE[logits_ours.dtype],
    }


def hooks_agree(row: dict[str, Any]) -> bool:
    """Return whether one model's hooks pass."""
    exact = not row["missing"] and row["same_order"] and row["same_shapes"] and row["same_weights"]
    return exact and max(row["largest_relative_difference"], row["logits"]) <= row["gate"]


def edits(pair: Pair, hook: str, cache: Any) -> list[tuple[str, HookFunction]]:
    """Return (name, hook function) of one hook at every layer and position."""
    layers = range(pair.ours.cfg.n_layer)
    if hook in WHOLE:
        change = changed_by(lambda value: value * 0.5 + 0.1)
        return [(f"blocks.{layer}.{hook}", change) for layer in layers]
    if hook == "hook_h":
        names = [f"blocks.{layer}.hook_h.{p}" for layer in layers for p in range(N_POS)]
        return [(name, taken_from(cache)) for name in names]
    return [
        (f"blocks.{layer}.{hook}", taken_at(p, cache))
        for layer in layers
        for p in range(0, N_POS, 4 if hook in SAMPLED else 1)
    ]


@torch.no_grad()
def check_edits(pair: Pair) -> list[dict[str, Any]]:
    """Patch from another prompt's run at every layer and position; compare the logits."""
    clean, other = pair.tokens(1, N_POS, seed=1), pair.tokens(1, N_POS, seed=2)
    ours, theirs = pair.ours, pair.theirs
    cache_ours, cache_theirs = (model.run_with_cache(other)[1] for model in (ours, theirs))
    unedited = theirs(clean)
    rows = []
    for hook in (*EDITED, *SAMPLED, *WHOLE):
        apart, effects = [], []
        both = zip(edits(pair, hook, cache_ours), edits(pair, hook, cache_theirs), strict=True)
        for (name, edit_ours), (_, edit_theirs) in both:
            got = ours.run_with_hooks(clean, fwd_hooks=[(name, edit_ours)])
            expected = theirs.run_with_hooks(clean, fwd_hooks=[(name, edit_theirs)])
            apart.append(relative(got, expected))
            effects.append(relative(expected, unedited))
        rows.append(
            {
                "model": pair.name,
                "hook": hook,
                "runs": len(apart),
                "changed": sum(effect > 0 for effect in effects),
                "largest_effect": max(effects),
                "largest_relative_difference": max(apart),
                "gate": GATE[torch.float32],
            }
        )
    return rows


def gradients(model: Any, tokens: torch.Tensor, *, backward_hooks: bool) -> dict[str, torch.Tensor]:
    """Return the gradient of a logit difference at every hook_h and hook_resid_pre."""
    layers = range(model.cfg.n_layer if hasattr(model.cfg, "n_layer") else model.cfg.n_layers)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
    names += [f"blocks.{layer}.hook_h.{p}" for layer in layers for p in range(N_POS)]
    found: dict[str, Any] = {}

    def keep_value(value: torch.Tensor, hook: Any) -> None:
        value.retain_grad()
        found[hook.name] = value

    def keep_gradient(gradient: torch.Tensor, hook: Any) -> None:
        found[hook.name] = gradient.detach().clone()

    if backward_hooks:
        hooks = [(name, keep_gradient) for name in names]
        logits = model.run_with_hooks(tokens, bwd_hooks=hooks, reset_hooks_end=False)
    else:
        hooks = [(name, keep_value) for name in names]
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    (logits[0, -1, 3] - logits[0, -1, 5]).backward()
    model.reset_hooks()
    if not backward_hooks:
        found = {name: value.grad for name, value in found.items()}
    return found


def check_gradients(pair: Pair) -> list[dict[str, Any]]:
    """Compare gradients, taken once from the tensors and once by backward hooks."""
    tokens = pair.tokens(1, N_POS, seed=3)
    rows = []
    for backward_hooks in (False, True):
        ours = gradients(pair.ours, tokens, backward_hooks=backward_hooks)
        theirs = gradients(pair.theirs, tokens, backward_hooks=backward_hooks)
        apart = {name: relative(ours[name], theirs[name]) for name in theirs}
        worst = max(apart, key=lambda name: apart[name])
        rows.append(
            {
                "model": pair.name,
                "taken_by": "bwd_hooks" if backward_hooks else "retain_grad",
                "sites": len(apart),
                "missing": sorted(set(theirs) ^ set(ours)),
                "largest_gradient": max(float(g.abs().max()) for g in theirs.values()),
                "worst_site": worst,
                "largest_relative_difference": apart[worst],
                "gate": GATE[torch.float32],
            }
        )
    return rows


def passes(row: dict[str, Any]) -> bool:
    """Return whether an edit or gradient row passes."""
    return not row.get("missing") and row["largest_relative_difference"] <= row["gate"]


def readme_passes(row: dict[str, Any]) -> bool:
    """Return whether one README example came out the same."""
    same = row["same_tokens"] and row["same_labels"]
    return same and row["largest_effect"] > 0.1 and row["largest_difference"] <= 1e-5


def report(data: dict[str, Any], cases: list[silent_errors.Case]) -> None:
    """Print what was found."""
    print("\nEvery hook of MambaLens, cached in both\n")
    header = [
        "model",
        "dtype",
        "hooks",
        "bitwise",
        "same order",
        "worst hook",
        "max rel diff",
        "ours vs f64",
        "theirs vs f64",
    ]
    print(table(header, [
        [r["model"], r["dtype"], r["hooks"], r["bitwise_equal_hooks"], r["same_order"],
         r["worst_hook"], shown(r["largest_relative_difference"]),
         *(shown(r[f"{who}_from_float64"]) for who in ("ours", "theirs"))] for r in data["hooks"]
    ]))  # fmt: skip
    print("\nPatched runs: logits\n")
    header = ["model", "hook", "runs", "changed", "largest effect", "max rel diff"]
    print(table(header, [
        [r["model"], r["hook"], r["runs"], r["changed"], f"{r['largest_effect']:.2f}",
         shown(r["largest_relative_difference"])] for r in data["edits"]
    ]))  # fmt: skip
    print("\nGradients of a logit difference at hook_resid_pre and hook_h\n")
    header = ["model", "taken by", "sites", "worst site", "max rel diff"]
    print(table(header, [
        [r["model"], r["taken_by"], r["sites"], r["worst_site"],
         shown(r["largest_relative_difference"])] for r in data["gradients"]
    ]))  # fmt: skip
    print("\nThe README's examples\n")
    header = ["example", "map", "same tokens", "same labels", "largest effect", "max diff"]
    print(table(header, [
        [r["example"], "x".join(map(str, r["shape"])), r["same_tokens"], r["same_labels"],
         f"{r['largest_effect']:.3f}", shown(r["largest_difference"])] for r in data["readme"]
    ]))  # fmt: skip
    print("\nWhere MambaLens is wrong, mostly without a word\n")
    print(table(["situation", "MambaLens", "mechtest"], [case[:3] for case in cases]))


def main() -> int:
    """Run everything; return the exit status."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    pairs = [random_pair(name, seed, **shape) for seed, (name, shape) in enumerate(CONFIGS.items())]
    zoo = zoo_pair()
    cases = silent_errors.executed(pairs[0], zoo)
    data = {
        "hooks": [
            check_hooks(pair, wide)
            for narrow, wide in ((pair, pair.double()) for pair in (*pairs, zoo))
            for pair in (narrow, wide)
        ],
        "edits": [row for pair in (pairs[1], zoo) for row in check_edits(pair)],
        "gradients": [row for pair in (pairs[1], zoo) for row in check_gradients(pair)],
        "readme": [readme_examples.compare(name) for name in readme_examples.NAMES],
        "silent": [case._asdict() for case in cases],
    }
    missed = [f"hooks: {r['model']} {r['dtype']}" for r in data["hooks"] if not hooks_agree(r)]
    missed += [f"edit: {r['model']} {r['hook']}" for r in data["edits"] if not passes(r)]
    missed += [f"no effect: {r['hook']}" for r in data["edits"] if not r["changed"]]
    missed += [
        f"gradient: {r['model']} {r['taken_by']}" for r in data["gradients"] if not passes(r)
    ]
    missed += [f"README: {r['example']}" for r in data["readme"] if not readme_passes(r)]
    missed += [f"ours: {case.situation}: {case.ours}" for case in cases if not case.good]
    report(data, cases)
    write("parity_mambalens", {**data, "missed": missed})
    print("\nmissed: " + "; ".join(missed) if missed else "\nevery gate passed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
