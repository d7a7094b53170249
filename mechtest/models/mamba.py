"""What is a Mamba-1 language model with a hook at every step of its computation?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import nn

from mechtest.checkpoints import (
    Fingerprint,
    MambaCfg,
    check_state_dict,
    read_checkpoint,
    to_native,
)
from mechtest.errors import ShapeError
from mechtest.models.block import MambaBlock
from mechtest.models.forward_inputs import ForwardInput
from mechtest.models.generation import TextModel
from mechtest.models.hook_points import HookPoint
from mechtest.models.initialization import initialize
from mechtest.models.layers import RMSNorm, at_least_float32
from mechtest.models.state import ModelState, RecurrentState
from mechtest.models.tokens import LazyTokenizer, PaddingSide, Tokens


class Output(NamedTuple):
    """Logits and loss, for `return_type="both"`."""

    logits: torch.Tensor
    loss: torch.Tensor


class HookedMamba(TextModel):
    """A Mamba-1 language model whose every intermediate value can be read and replaced.

    Hook names, order and shapes are MambaLens's (see `mechtest.sites.table`). A hook on
    `blocks.{l}.hook_h.{p}` changes the recurrence from position p on; with
    `blocks.{l}.hook_conv_state.{p}` it is all that layer l carries past p.

    Args:
        cfg: Shapes and constants.
        tokenizer: A Hugging Face tokenizer, a path or hub name of one, or None.
        initialize_params: Draw fresh weights (otherwise call `load_state_dict` next).
        device: Overrides `cfg.device`.
        seed: Seed of the fresh weights.

    Attributes:
        cfg: Configuration; `cfg.device` follows `.to()`.
        fingerprint: Digests of the files the weights came from, None for fresh weights.
    """

    def __init__(
        self,
        cfg: MambaCfg,
        tokenizer: Any = None,
        initialize_params: bool = True,
        device: str | torch.device | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.cfg = cfg if device is None else replace(cfg, device=str(device))
        self.fingerprint: Fingerprint | None = None
        self.source = "unnamed model"
        self.tokens = Tokens(tokenizer)
        dtype = getattr(torch, cfg.dtype)
        # On the meta device nothing is allocated; weights then come from a file or a generator.
        with torch.device("meta"):
            # Weight given: drawing one on the meta device imports torch's compiler (seconds).
            weight = torch.empty(cfg.d_vocab, cfg.d_model, dtype=dtype)
            self.embedding = nn.Embedding(cfg.d_vocab, cfg.d_model, _weight=weight)
            self.blocks = nn.ModuleList(MambaBlock(cfg, i) for i in range(cfg.n_layer))
            self.norm = RMSNorm(cfg.d_model, cfg.norm_eps)
            self.lm_head = nn.Linear(cfg.d_model, cfg.d_vocab, bias=False, dtype=dtype)
        self.hook_embed = HookPoint("hook_embed")
        self.hook_norm = HookPoint("hook_norm")
        self.hook_logits = HookPoint("hook_logits")
        points: dict[str, Any] = {"hook_embed": self.hook_embed}
        for index, block in enumerate(self._blocks):
            points |= {f"blocks.{index}.{name}": point for name, point in block.hooks.items()}
        points |= {"hook_norm": self.hook_norm, "hook_logits": self.hook_logits}
        self.setup_hooks(cfg.n_layer, points)
        self.to(dtype)
        if initialize_params:
            self.to_empty(device=self.cfg.device)
            generator = torch.Generator(device=self.cfg.device).manual_seed(seed)
            head = None if cfg.tie_embeddings else self.lm_head
            initialize(self.embedding, self._blocks, self.norm, head, self.cfg, generator)
        self.tie_weights()
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        revision: str | None = None,
        subfolder: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        tokenizer: Any = None,
    ) -> HookedMamba:
        """Load trained weights from a directory or a hub repository.

        Hugging Face directories (safetensors, sharded, or `.bin` without code in it) and original
        state-spaces directories are recognised by their config.json. On a CPU in the files' own
        dtype, weights stay in the memory-mapped file and are shared between processes.

        Args:
            path_or_repo: Directory, or name such as `state-spaces/mamba-130m-hf`.
            revision: Branch, tag or commit on the hub; refused for directories.
            subfolder: Directory inside it.
            dtype: float32 unless said otherwise, whatever the file holds.
            device: Where the model goes.
            tokenizer: Tokenizer, or path or hub name of one; default: the one beside the weights.

        Raises:
            CheckpointError: One of its subclasses, naming the file and the cause.
        """
        loaded = read_checkpoint(path_or_repo, revision=revision, subfolder=subfolder, dtype=dtype)
        model = cls(replace(loaded.cfg, device=str(device)), initialize_params=False)
        model.load_state_dict(loaded.state_dict, assign=True)
        model.fingerprint = loaded.fingerprint
        place = [str(path_or_repo), *([subfolder] if subfolder else [])]
        model.source = "/".join(place) + (f"@{revision}" if revision else "")
        if tokenizer is None and loaded.files.tokenizer_files:
            tokenizer = loaded.files.directory
        if isinstance(tokenizer, (str, Path)):
            tokenizer = LazyTokenizer(tokenizer)
        model.tokens = Tokens(tokenizer)
        return model

    @property
    def _blocks(self) -> list[MambaBlock]:
        return [block for block in self.blocks if isinstance(block, MambaBlock)]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.embedding.weight.device

    @property
    def last_scans(self) -> tuple[str, ...]:
        """Scan path each block took in the last forward pass ("" where it did not run)."""
        return tuple(block.last_scan for block in self._blocks)

    def native_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights under our names, each once (a tied head is left out)."""
        weights = dict(self.state_dict())
        if self.cfg.tie_embeddings:
            del weights["lm_head.weight"]
        return weights

    def tie_weights(self) -> None:
        """Share the embedding with the output head where the configuration says so."""
        if self.cfg.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    def _apply(self, fn: Any, recurse: bool = True) -> HookedMamba:
        super()._apply(fn, recurse)
        self.tie_weights()
        if self.device.type != "meta":
            self.cfg = replace(self.cfg, device=str(self.device))
        return self

    def load_state_dict(  # type: ignore[override]
        self, state_dict: dict[str, torch.Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights in any known naming: ours, Hugging Face's, the original, MambaLens's.

        Raises:
            WeightMismatchError: Tensors are missing, unexpected or misshapen.
        """
        native = to_native(dict(state_dict), self.cfg)
        check_state_dict(native, self.cfg)
        assign = assign or self.device.type == "meta"
        if assign:
            native = {name: value.to(self.cfg.device) for name, value in native.items()}
        result = super().load_state_dict(native, strict=False, assign=assign)
        self.tie_weights()
        del strict  # names and shapes were checked, with better messages, above
        return result

    # --- running ---------------------------------------------------------------------------------

    def forward(
        self,
        input: Any,  # noqa: A002 - MambaLens's name
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide = "left",
        start_at_layer: int | None = None,
        tokens: torch.Tensor | None = None,
        stop_at_layer: int | None = None,
        only_use_these_layers: Sequence[int] | None = None,
        attention_mask: torch.Tensor | None = None,
        fast_conv: bool | None = None,
        fast_ssm: bool | None = None,
        warn_disabled_hooks: bool = True,
    ) -> Any:
        """Run the model.

        Args:
            input: Tokens "batch pos" (or "pos"), one text, several texts, or with `start_at_layer`
                a residual stream "batch pos d_model".
            return_type: `logits`, `loss` (next-token cross-entropy in nats), `both` or None.
            loss_per_token: One loss a position instead of their mean.
            prepend_bos: See `to_tokens`.
            padding_side: For texts of different lengths.
            start_at_layer: `input` is the residual stream entering this layer.
            tokens: Tokens for the loss when `input` is a residual stream.
            stop_at_layer: Return the residual stream entering this layer instead; negative counts
                from the end.
            only_use_these_layers: Run these layers, in this order, instead of all.
            attention_mask: 1 at text, 0 at padding. Left padding is exact.
            fast_conv: MambaLens's switch; every convolution here serves every hook.
            fast_ssm: None picks the fastest scan that serves the hooks; True insists on the fastest
                and raises if a hook would be lost; False runs the reference. All give equal values.
            warn_disabled_hooks: MambaLens's; nothing is ever disabled here.

        Returns:
            Logits "batch pos d_vocab", a loss, both, the residual stream, or None.

        Raises:
            ShapeError: Not tokens, ids outside the vocabulary, no positions.
            PaddingError: Padding that would silently change the answer.
            SiteNotServedError: `fast_ssm=True` and a hook it cannot serve.
        """
        del fast_conv, warn_disabled_hooks
        if start_at_layer is None:
            given = self.inputs.read(input, attention_mask, prepend_bos, padding_side)
        else:
            given = self.inputs.read_residual(input, attention_mask, tokens)
        layers = self._layers_to_run(start_at_layer, stop_at_layer, only_use_these_layers)
        stops = stop_at_layer is not None
        partial = stops or start_at_layer is not None or only_use_these_layers is not None
        with self.hooked_pass(given.n_pos, partial=partial):
            resid = self._run_blocks(given, layers, None, fast_ssm)
            if stops:
                return resid
            logits = self._unembed(resid)
        return self._returned(logits, given, return_type, loss_per_token)

    def run_with_state(
        self,
        input: Any,  # noqa: A002 - as forward
        state: ModelState | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        fast_ssm: bool | None = None,
    ) -> tuple[Float[torch.Tensor, "batch pos d_vocab"], ModelState]:
        """Run the model from a state, and return the state it ends in.

        `run_with_state(prefix)` followed by `run_with_state(rest, state)` gives the logits of the
        whole prompt. Hook positions count from the first token of `input`.

        Args:
            input: Tokens or text; text after a state gets no bos.
            state: Where to start; None is the beginning of a text.
            attention_mask: As for `forward`.
            fast_ssm: As for `forward`.

        Raises:
            ShapeError: The state does not fit.
        """
        bos = False if state is not None else None
        given = self.inputs.read(input, attention_mask, bos)
        if state is not None:
            state.check(self.cfg.n_layer, given.batch)
        with self.hooked_pass(given.n_pos):
            end: list[RecurrentState] = []
            resid = self._run_blocks(given, range(self.cfg.n_layer), state, fast_ssm, end)
            logits = self._unembed(resid)
        return logits, ModelState(tuple(end))

    def _layers_to_run(
        self, start: int | None, stop: int | None, only: Sequence[int] | None
    ) -> Sequence[int]:
        n = self.cfg.n_layer
        if only is not None:
            wanted = list(only)
        else:
            first = 0 if start is None else start + n if start < 0 else start
            end = n if stop is None else stop + n if stop < 0 else stop
            wanted = list(range(first, end))
            if not (0 <= first <= n and 0 <= end <= n):
                wanted = [-n - 1]
        if any(not -n <= layer < n for layer in wanted):
            raise ShapeError(
                f"layers outside a model of {n}",
                given=f"start_at_layer={start}, stop_at_layer={stop}, only_use_these_layers={only}",
                expected=f"0 to {n}",
            )
        return wanted

    def _run_blocks(
        self,
        given: ForwardInput,
        layers: Sequence[int],
        state: ModelState | None,
        fast_ssm: bool | None,
        end: list[RecurrentState] | None = None,
    ) -> torch.Tensor:
        """Return the residual stream; states go into `end`, or are let go of at once."""
        resid = given.resid
        if resid is None:
            assert given.tokens is not None
            resid = self.hook_embed(self.embedding(given.tokens))
            # Sums of many layers: never rounded to a narrow dtype on the way.
            resid = resid.to(at_least_float32(resid.dtype))
        for layer in layers:
            resid, after = self._blocks[layer](
                resid,
                mask=given.mask,
                state=None if state is None else state[layer],
                fast_ssm=fast_ssm,
            )
            if end is not None:
                end.append(after)
        return resid

    def _unembed(self, resid: torch.Tensor) -> torch.Tensor:
        normed = self.hook_norm(self.norm(resid))
        return self.hook_logits(self.lm_head(normed.to(self.lm_head.weight.dtype)))

    def _returned(
        self, logits: torch.Tensor, given: ForwardInput, return_type: str | None, per_token: bool
    ) -> Any:
        if return_type == "logits":
            return logits
        if return_type is None:
            return None
        if return_type not in ("loss", "both"):
            raise ShapeError(
                f"return_type={return_type!r} is unknown",
                given=return_type,
                expected="'logits', 'loss', 'both' or None",
            )
        loss = self.loss_fn(logits, given.loss_tokens(), given.mask, per_token=per_token)
        return loss if return_type == "loss" else Output(logits, loss)

    @staticmethod
    def loss_fn(
        logits: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor | None = None,
        per_token: bool = False,
    ) -> torch.Tensor:
        """Return the next-token cross-entropy in nats.

        Args:
            logits: "batch pos d_vocab".
            tokens: "batch pos".
            mask: False at padding; targets and predictions there do not count.
            per_token: "batch pos-1" instead of the mean.
        """
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
        if mask is None:
            return losses if per_token else losses.mean()
        counts = mask[:, 1:] & mask[:, :-1]
        losses = losses * counts
        return losses if per_token else losses.sum() / counts.sum()
