"""Which hooks does a Mamba-1 model have, in which order do they fire, and what is their shape?

Names, order and shapes are MambaLens's, exactly. Four sites are ours and marked `extra`: the
convolution window (without it a patch of `hook_h` is no cut), the term written into the state, and
the outputs of the two fused projections, which TransformerLens and Hugging Face users know.

| axis    | paper letter | Hugging Face field | meaning                               |
| ------- | ------------ | ------------------ | ------------------------------------- |
| batch   | B            | -                  | prompts                               |
| pos     | L            | -                  | tokens of a prompt                    |
| d_model | D            | hidden_size        | width of the residual stream          |
| d_inner | E            | intermediate_size  | channels inside a block               |
| d_state | N            | state_size         | recurrent states of a channel         |
| dt_rank | R            | time_step_rank     | rank of the step-size projection      |
| d_conv  | W            | conv_kernel        | taps of the convolution               |
| d_vocab | V            | vocab_size         | rows of the embedding, padded         |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BATCH_POS_INNER = ("batch", "pos", "d_inner")
BATCH_POS_MODEL = ("batch", "pos", "d_model")
BATCH_POS_STATE = ("batch", "pos", "d_state")
DISCRETIZED = ("batch", "pos", "d_inner", "d_state")
STATE = ("batch", "d_inner", "d_state")


@dataclass(frozen=True, slots=True)
class HookSpec:
    """One hook: its name inside a block (or the model), its axes, and what it holds.

    Attributes:
        name: As MambaLens spells it, without `blocks.{l}.` and without a position.
        axes: Axis names of the tensor a hook function sees.
        meaning: One line for listings.
        scope: `block` hooks exist once a layer, `model` hooks once.
        per_position: A separate hook fires at every position: `hook_h.7`.
        extra: Not part of MambaLens.
        fused: A second view of other hooks; left out when "every hook" is asked for.
    """

    name: str
    axes: tuple[str, ...]
    meaning: str
    scope: Literal["block", "model"] = "block"
    per_position: bool = False
    extra: bool = False
    fused: bool = False

    @property
    def position_axis(self) -> int | None:
        """Index of the `pos` axis, or None where the tensor has none."""
        return self.axes.index("pos") if "pos" in self.axes else None


MAMBA1_HOOKS: tuple[HookSpec, ...] = (
    HookSpec("hook_embed", BATCH_POS_MODEL, "token embeddings", scope="model"),
    HookSpec("hook_resid_pre", BATCH_POS_MODEL, "residual stream entering the block"),
    HookSpec("hook_layer_input", BATCH_POS_MODEL, "the same, for this block's mixer only"),
    HookSpec("hook_normalized_input", BATCH_POS_MODEL, "after RMSNorm and its weight"),
    HookSpec(
        "mixer.in_proj.hook_out",
        ("batch", "pos", "2*d_inner"),
        "hook_in_proj and hook_skip in one tensor",
        extra=True,
        fused=True,
    ),
    HookSpec("hook_skip", BATCH_POS_INNER, "gate, before silu (z)"),
    HookSpec("hook_in_proj", BATCH_POS_INNER, "input of the convolution"),
    HookSpec(
        "hook_conv_state",
        ("batch", "d_conv-1", "d_inner"),
        "convolution window after this position: the last d_conv-1 rows of hook_in_proj, "
        "oldest first",
        per_position=True,
        extra=True,
    ),
    HookSpec("hook_conv", BATCH_POS_INNER, "output of the convolution, before silu"),
    HookSpec("hook_ssm_input", BATCH_POS_INNER, "input of the state-space model (x)"),
    HookSpec("hook_A", ("d_inner", "d_state"), "-exp(A_log)"),
    HookSpec(
        "mixer.x_proj.hook_out",
        ("batch", "pos", "dt_rank+2*d_state"),
        "hook_delta_1, hook_B and hook_C in one tensor",
        extra=True,
        fused=True,
    ),
    HookSpec("hook_delta_1", ("batch", "pos", "dt_rank"), "step size, low rank"),
    HookSpec("hook_delta_2", BATCH_POS_INNER, "step size with bias, before softplus"),
    HookSpec("hook_B", BATCH_POS_STATE, "input matrix"),
    HookSpec("hook_C", BATCH_POS_STATE, "output matrix"),
    HookSpec("hook_delta", BATCH_POS_INNER, "step size"),
    HookSpec("hook_A_bar", DISCRETIZED, "decay: exp(delta * A)"),
    HookSpec("hook_B_bar", DISCRETIZED, "discretized input matrix: delta * B"),
    HookSpec("hook_ssm_write", DISCRETIZED, "term added to the state: B_bar * x", extra=True),
    HookSpec("hook_h_start", STATE, "state before the first position (zeros)"),
    HookSpec("hook_h", STATE, "recurrent state after this position", per_position=True),
    HookSpec("hook_y", BATCH_POS_INNER, "read-out of the state: h C"),
    HookSpec("hook_ssm_output", BATCH_POS_INNER, "y + D x"),
    HookSpec("hook_after_skip", BATCH_POS_INNER, "ssm_output * silu(skip)"),
    HookSpec("hook_out_proj", BATCH_POS_MODEL, "what the block adds to the residual stream"),
    HookSpec("hook_resid_post", BATCH_POS_MODEL, "residual stream leaving the block"),
    HookSpec("hook_norm", BATCH_POS_MODEL, "after the final RMSNorm", scope="model"),
    HookSpec("hook_logits", ("batch", "pos", "d_vocab"), "logits", scope="model"),
)

STATE_PARTS = ("hook_conv_state", "hook_h")
"""The two halves of the site `blocks.{l}.state@p`: all that layer l carries past position p."""

HOOKS_BY_NAME = {spec.name: spec for spec in MAMBA1_HOOKS}
BLOCK_HOOKS = tuple(spec for spec in MAMBA1_HOOKS if spec.scope == "block")
MODEL_HOOKS = tuple(spec for spec in MAMBA1_HOOKS if spec.scope == "model")
