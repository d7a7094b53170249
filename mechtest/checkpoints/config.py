"""Which numbers fix the shape and the initialisation of a Mamba-1 language model?

Pure Python: a configuration can be read, compared and printed without torch.

    our name        letter   Hugging Face field          state-spaces key
    --------------  -------  --------------------------  ---------------------------------
    d_model         D        hidden_size                 d_model
    n_layer                  num_hidden_layers           n_layer
    vocab_size               (not kept; see d_vocab)     vocab_size
    d_vocab         V        vocab_size                  vocab_size rounded up to
                                                         pad_vocab_size_multiple
    d_inner         E        intermediate_size           int(ssm_cfg.expand * d_model)
    expand                   expand                      ssm_cfg.expand
    d_state         N        state_size                  ssm_cfg.d_state
    dt_rank         R        time_step_rank              ssm_cfg.dt_rank
    d_conv          D_conv   conv_kernel                 ssm_cfg.d_conv
    bias                     use_bias                    ssm_cfg.bias
    conv_bias                use_conv_bias               ssm_cfg.conv_bias
    norm_eps                 layer_norm_epsilon          (fixed at 1e-5)
    tie_embeddings           tie_word_embeddings         tie_embeddings
    dt_init                  time_step_init_scheme       ssm_cfg.dt_init
    dt_scale                 time_step_scale             ssm_cfg.dt_scale
    dt_min, dt_max           time_step_min, _max         ssm_cfg.dt_min, dt_max
    dt_init_floor            time_step_floor             ssm_cfg.dt_init_floor

The letters are those of the Mamba paper and of MambaLens: B batch, L length, D residual width,
E inner width, N state size, R rank of Delta, D_conv convolution width, V rows of the embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

from mechtest.errors import ConfigError, UnsupportedArchitectureError

__all__ = ["MambaCfg", "MambaInitCfg"]


def _refuse(field_name: str, value: object, expected: str) -> ConfigError:
    return ConfigError(
        f"{field_name} of a Mamba configuration cannot be {value!r}",
        given=f"{field_name}={value!r} ({type(value).__name__})",
        expected=f"{field_name}: {expected}",
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_counts(owner: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(owner, name)
        if not _is_int(value) or value < 1:
            raise _refuse(name, value, "a whole number of at least 1")


def _check_flags(owner: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, bool):
            raise _refuse(name, value, "True or False")


def _check_positive(owner: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(owner, name)
        if not _is_number(value) or value <= 0:
            raise _refuse(name, value, "a finite number above 0")


@dataclass(frozen=True, kw_only=True)
class MambaInitCfg:
    """How fresh parameters are drawn (the paper's choices; no part of a trained model).

    Attributes:
        initializer_range: Standard deviation of the embedding rows.
        rescale_prenorm_residual: Divide `out_proj` by sqrt(n_residuals_per_layer * n_layer), so
            that the residual stream keeps its scale with depth.
        n_residuals_per_layer: Residual writes per block; 1 for Mamba, 2 with an MLP.
        dt_init: `dt_proj.weight` is "random" (uniform within +-std) or "constant" (std).
        dt_scale: std = dt_rank ** -0.5 * dt_scale.
        dt_min: Lower end of the log-uniform draw of the initial Delta.
        dt_max: Upper end of it.
        dt_init_floor: Delta is clamped to at least this before the inverse softplus.
    """

    initializer_range: float = 0.02
    rescale_prenorm_residual: bool = True
    n_residuals_per_layer: int = 1
    dt_init: str = "random"
    dt_scale: float = 1.0
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4

    def __post_init__(self) -> None:
        _check_positive(
            self, ("initializer_range", "dt_scale", "dt_min", "dt_max", "dt_init_floor")
        )
        _check_flags(self, ("rescale_prenorm_residual",))
        _check_counts(self, ("n_residuals_per_layer",))
        if self.dt_init not in ("random", "constant"):
            raise _refuse("dt_init", self.dt_init, "'random' or 'constant'")
        if self.dt_min > self.dt_max:
            raise _refuse("dt_min", self.dt_min, f"at most dt_max, which is {self.dt_max}")


@dataclass(frozen=True, kw_only=True)
class MambaCfg:
    """Shape and options of a Mamba-1 language model.

    `d_inner=None` and `dt_rank="auto"` are resolved on construction, so both fields read as whole
    numbers. `dataclasses.replace` therefore keeps the resolved values: pass `d_inner=None` or
    `dt_rank="auto"` along when changing `d_model` or `expand`.

    Attributes:
        d_model: Width of the residual stream (D).
        n_layer: Number of blocks.
        vocab_size: Size of the vocabulary, before padding.
        d_state: Numbers of state per inner channel (N).
        d_conv: Width of the causal convolution (D_conv).
        expand: Inner width over residual width, used only when `d_inner` is None.
        d_inner: Inner width (E); an explicit value wins over `expand * d_model`.
        dt_rank: Rank of the Delta projection (R); "auto" is ceil(d_model / 16).
        bias: Whether `in_proj` and `out_proj` have biases.
        conv_bias: Whether the convolution has one.
        norm_eps: Epsilon of every RMS norm.
        tie_embeddings: The unembedding is the embedding matrix.
        pad_vocab_size_multiple: The embedding has `vocab_size` rounded up to this many rows.
        rms_norm: Kept for the original format; only True is supported.
        residual_in_fp32: Kept for round trips; changes nothing in float32.
        fused_add_norm: Kept for round trips; the computation is the same either way.
        device: Where the parameters live.
        dtype: Their dtype, without the "torch." prefix.
        initializer_config: How fresh parameters are drawn.
        architecture: Only "mamba1".
        name: What reports call the model.

    Raises:
        ConfigError: A value no Mamba can have; the text names the field.
        UnsupportedArchitectureError: `rms_norm=False` or an architecture other than "mamba1".
    """

    d_model: int
    n_layer: int
    vocab_size: int
    d_state: int = 16
    d_conv: int = 4
    expand: float = 2
    # Declared as what they are after __post_init__, so that no reader has to narrow a union.
    d_inner: int = cast(int, None)
    dt_rank: int = cast(int, "auto")
    bias: bool = False
    conv_bias: bool = True
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    pad_vocab_size_multiple: int = 8
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    device: str = "cpu"
    dtype: str = "float32"
    initializer_config: MambaInitCfg = field(default_factory=MambaInitCfg)
    architecture: str = "mamba1"
    name: str = ""

    def __post_init__(self) -> None:
        _check_counts(
            self,
            ("d_model", "n_layer", "vocab_size", "d_state", "d_conv", "pad_vocab_size_multiple"),
        )
        _check_positive(self, ("expand", "norm_eps"))
        _check_flags(
            self,
            (
                "bias",
                "conv_bias",
                "tie_embeddings",
                "rms_norm",
                "residual_in_fp32",
                "fused_add_norm",
            ),
        )
        if not isinstance(self.initializer_config, MambaInitCfg):
            raise _refuse("initializer_config", self.initializer_config, "a MambaInitCfg")
        self._check_supported()
        self._resolve()

    def _check_supported(self) -> None:
        if not self.rms_norm:
            raise UnsupportedArchitectureError(
                "rms_norm=False asks for LayerNorm blocks, which are not supported",
                given="rms_norm=False",
                expected="rms_norm=True",
            )
        if self.architecture != "mamba1":
            raise UnsupportedArchitectureError(
                f"architecture {self.architecture!r} is not supported",
                given=f"architecture={self.architecture!r}",
                expected="architecture='mamba1'",
            )

    def _resolve(self) -> None:
        set_ = object.__setattr__  # the class is frozen; this runs before anyone sees it
        if self.d_inner is None:
            set_(self, "d_inner", int(self.expand * self.d_model))
        if cast(object, self.dt_rank) == "auto":
            set_(self, "dt_rank", math.ceil(self.d_model / 16))
        _check_counts(self, ("d_inner", "dt_rank"))
        # A torch.device or torch.dtype is accepted and kept by name: this file knows no torch.
        set_(self, "device", str(self.device))
        set_(self, "dtype", str(self.dtype).removeprefix("torch."))

    @property
    def d_vocab(self) -> int:
        """Rows of the embedding: `vocab_size` rounded up to `pad_vocab_size_multiple`."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple

    @property
    def n_layers(self) -> int:
        """Number of blocks, in TransformerLens's and MambaLens's spelling."""
        return self.n_layer

    @property
    def initializer_cfg(self) -> MambaInitCfg:
        """`initializer_config`, in the spelling of MambaLens's code."""
        return self.initializer_config

    @property
    def D(self) -> int:
        """Width of the residual stream."""
        return self.d_model

    @property
    def E(self) -> int:
        """Inner width."""
        return self.d_inner

    @property
    def N(self) -> int:
        """Numbers of state per inner channel."""
        return self.d_state

    @property
    def R(self) -> int:
        """Rank of the Delta projection."""
        return self.dt_rank

    @property
    def D_conv(self) -> int:
        """Width of the causal convolution."""
        return self.d_conv

    @property
    def V(self) -> int:
        """Rows of the embedding."""
        return self.d_vocab
