"""Do MambaLens's README examples draw the same maps with both libraries?

The examples are read from the test suite and run in full. Import lines become names that are
already there, and the line that loads the model becomes a call that loads the fixture model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from peers import REPOSITORY, ZOO_MODEL, load_in_lens
from transformer_lens.hook_points import HookPoint as LensHookPoint

from mechtest import HookedMamba, HookPoint

EXAMPLES = REPOSITORY / "tests" / "parity" / "mambalens_readme"
NAMES = ("patch_hidden_state", "patch_layer_input")
LOAD = "mamba_lens.HookedMamba.from_pretrained(\"state-spaces/mamba-370m\", device='cuda')"


def run(name: str, load: Callable[[], Any], hook_point: type) -> dict[str, Any]:
    """Run one example and return all the variables it leaves behind."""
    text = (EXAMPLES / f"{name}.txt").read_text(encoding="utf-8")
    assert text.count(LOAD) == 1, name
    lines = text.replace(LOAD, "load()").splitlines()
    code = "\n".join(line for line in lines if not re.match(r"(from|import) ", line))
    drawn = SimpleNamespace(show=lambda: None)
    namespace = {
        "load": load,
        "torch": torch,
        "partial": partial,
        "Float": Float,
        "HookPoint": hook_point,
        "tqdm": lambda layers: layers,
        "px": SimpleNamespace(imshow=lambda *_, **__: drawn),
        "utils": SimpleNamespace(to_numpy=lambda tensor: tensor.detach().numpy()),
    }
    with torch.no_grad():
        exec(compile(code, name, "exec"), namespace)  # text from our own tests
    return namespace


def compare(name: str) -> dict[str, Any]:
    """Run one example with both libraries and compare tokens, labels and maps."""
    ours = run(name, lambda: HookedMamba.from_pretrained(ZOO_MODEL), HookPoint)
    theirs = run(name, lambda: load_in_lens(ZOO_MODEL), LensHookPoint)
    map_ours, map_theirs = (n["patching_result_logits"].double() for n in (ours, theirs))
    same_tokens = all(
        torch.equal(ours[key], theirs[key])
        for key in ("prompt_uncorrupted_tokens", "prompt_corrupted_tokens")
    )
    return {
        "example": name,
        "shape": list(map_ours.shape),
        "same_tokens": same_tokens,
        "same_labels": ours["token_labels"] == theirs["token_labels"],
        "clean_logit_difference": float(ours["max_logit_diff"]),
        "corrupted_logit_difference": float(ours["min_logit_diff"]),
        "largest_effect": float(map_theirs.abs().max()),
        "largest_difference": float((map_ours - map_theirs).abs().max()),
    }
