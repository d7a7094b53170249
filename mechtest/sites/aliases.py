"""Which other names do people use for our hooks?

Three vocabularies resolve to the same sites: TransformerLens's bridge (`blocks.0.mixer.conv1d
.hook_out`), its state-space words (`hook_ssm_state`), and module paths of Hugging Face and of the
original code (`backbone.layers.0.mixer.conv1d`), where a module means its output.

Differences worth knowing: TransformerLens's `hook_ssm_state` is a record made after the scan, so an
edit there stays at its position; here the name means `hook_h`, whose edit propagates. Its
`conv1d.hook_out` carries d_conv-1 extra rows; ours ends with the prompt.
"""

from __future__ import annotations

import re

# Inside `blocks.{l}.` (TransformerLens); values are names of `table.MAMBA1_HOOKS` or "state".
_BLOCK_ALIASES = {
    "hook_in": "hook_resid_pre",
    "hook_out": "hook_resid_post",
    "norm.hook_in": "hook_layer_input",
    "norm.hook_out": "hook_normalized_input",
    "hook_mixer_in": "hook_normalized_input",
    "hook_mixer_out": "hook_out_proj",
    "mixer.hook_in": "hook_normalized_input",
    "mixer.hook_out": "hook_out_proj",
    "mixer.hook_in_proj": "mixer.in_proj.hook_out",
    "mixer.in_proj.hook_in": "hook_normalized_input",
    "mixer.conv1d.hook_in": "hook_in_proj",
    "mixer.conv1d.hook_out": "hook_conv",
    "mixer.hook_conv": "hook_conv",
    "mixer.x_proj.hook_in": "hook_ssm_input",
    "mixer.hook_x_proj": "mixer.x_proj.hook_out",
    "hook_x_proj": "mixer.x_proj.hook_out",
    "mixer.dt_proj.hook_in": "hook_delta_1",
    "mixer.dt_proj.hook_out": "hook_delta_2",
    "mixer.hook_dt_proj": "hook_delta_2",
    "hook_dt_proj": "hook_delta_2",
    "mixer.hook_ssm_dt": "hook_delta_2",
    "hook_ssm_dt": "hook_delta_2",
    "mixer.out_proj.hook_in": "hook_after_skip",
    "mixer.out_proj.hook_out": "hook_out_proj",
    "mixer.hook_ssm_out": "hook_out_proj",
    "hook_ssm_out": "hook_out_proj",
    "mixer.hook_ssm_state": "hook_h",
    "hook_ssm_state": "hook_h",
    "mixer.hook_ssm_write": "hook_ssm_write",
}

_MODEL_ALIASES = {
    "embed.hook_out": "hook_embed",
    "ln_final.hook_out": "hook_norm",
    "unembed.hook_in": "hook_norm",
    "unembed.hook_out": "hook_logits",
    "hook_unembed": "hook_logits",
    "backbone.embeddings": "hook_embed",
    "backbone.embedding": "hook_embed",
    "backbone.norm_f": "hook_norm",
    "lm_head": "hook_logits",
}

# Inside `backbone.layers.{l}` (Hugging Face and original modules); "" is the layer itself.
_MODULE_ALIASES = {
    "": "hook_resid_post",
    "norm": "hook_normalized_input",
    "mixer": "hook_out_proj",
    "mixer.in_proj": "mixer.in_proj.hook_out",
    "mixer.conv1d": "hook_conv",
    "mixer.act": "hook_ssm_input",
    "mixer.x_proj": "mixer.x_proj.hook_out",
    "mixer.dt_proj": "hook_delta_2",
    "mixer.out_proj": "hook_out_proj",
}

_MODULE = re.compile(r"backbone\.layers\.(?P<layer>-?\d+|\*)(?:\.(?P<rest>.+))?")
_BLOCK = re.compile(r"blocks\.(?P<layer>-?\d+|\*)\.(?P<rest>.+)")


def canonical(name: str) -> str:
    """Return the MambaLens spelling of a hook name or module path; other names pass unchanged.

    Args:
        name: Without `@position`. A position suffix (`hook_ssm_state.3`) is kept.
    """
    if name in _MODEL_ALIASES:
        return _MODEL_ALIASES[name]
    if module := _MODULE.fullmatch(name):
        rest = _MODULE_ALIASES.get(module["rest"] or "")
        return f"blocks.{module['layer']}.{rest}" if rest else name
    if block := _BLOCK.fullmatch(name):
        stem, dot, suffix = block["rest"].rpartition(".")
        if dot and (suffix.isdecimal() or suffix == "*") and stem in _BLOCK_ALIASES:
            return f"blocks.{block['layer']}.{_BLOCK_ALIASES[stem]}.{suffix}"
        if block["rest"] in _BLOCK_ALIASES:
            return f"blocks.{block['layer']}.{_BLOCK_ALIASES[block['rest']]}"
    return name


def aliases_of(hook: str) -> tuple[str, ...]:
    """Return every other accepted name of a hook, for listings (`{l}` stands for the layer)."""
    found = [f"blocks.{{l}}.{alias}" for alias, name in _BLOCK_ALIASES.items() if name == hook]
    found += [
        "backbone.layers.{l}" + (f".{alias}" if alias else "")
        for alias, name in _MODULE_ALIASES.items()
        if name == hook
    ]
    found += [alias for alias, name in _MODEL_ALIASES.items() if name == hook]
    return tuple(found)
