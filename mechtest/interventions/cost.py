"""What will a plan cost: arithmetic, memory, and tokens through the model?

Counted from the plan alone. Floating-point operations are those of the matrix products and the
scan; a multiplication and an addition count as two.
"""

from __future__ import annotations

from dataclasses import dataclass

from mechtest.checkpoints import MambaCfg
from mechtest.interventions.jobs import Jobs

__all__ = ["Cost", "cost_of", "flops_of", "row_bytes", "state_bytes"]

FLOAT = 4
SCAN_FLOPS = 6
"""Of a state's update and read-out: a product in the exponent, one in the write, two fused."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What something costs.

    Attributes:
        flops: Floating-point operations.
        tokens: Tokens through the model; one through half of the layers counts half.
        bytes: Memory at its largest.
        passes: Passes through the model.
    """

    flops: float = 0.0
    tokens: float = 0.0
    bytes: int = 0
    passes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.tokens + other.tokens,
            max(self.bytes, other.bytes),
            self.passes + other.passes,
        )

    def __str__(self) -> str:
        return (
            f"{self.flops / 1e9:,.1f} GFLOP, {self.tokens:,.0f} tokens through the model "
            f"in {self.passes} passes, up to {self.bytes / 2**20:,.0f} MiB"
        )


def cost_of(jobs: Jobs, cfg: MambaCfg, read: int) -> Cost:
    """Return the cost of one pass.

    Args:
        jobs: What is computed.
        cfg: Shapes of the model.
        read: Logits read at each job's last position.
    """
    flops, rows_of_layers = 2.0 * len(jobs) * cfg.d_model * read, 0
    for layer in range(int(jobs.layer.min()) if len(jobs) else 0, cfg.n_layer):
        whole, behind, rows = (jobs.rows_in_flight(layer, stage) for stage in (0, 1, 2))
        last = layer == cfg.n_layer - 1
        flops += _layer_flops(cfg, (whole, behind, rows), len(jobs) if last else None)
        rows_of_layers += rows
    size = jobs.n_rows * row_bytes(cfg) + len(jobs) * state_bytes(cfg)
    return Cost(flops, rows_of_layers / cfg.n_layer, size, 1)


def flops_of(cfg: MambaCfg, layer: int, stage: int, rows: int, prompts: int, read: int) -> float:
    """Return the floating-point operations of one variant: what `cost_of` says of it alone.

    Args:
        cfg: Shapes of the model.
        layer: First layer computed.
        stage: Stage of entry there.
        rows: Tokens computed, of all prompts.
        prompts: Number of prompts.
        read: Logits read of each prompt.
    """
    whole, behind = (rows if stage <= entered else 0 for entered in (0, 1))
    flops = 2.0 * prompts * cfg.d_model * read
    first = (whole, behind, rows)
    between = cfg.n_layer - layer - 2
    if between < 0:  # it enters in the last layer
        return flops + _layer_flops(cfg, first, prompts)
    full = (rows, rows, rows)
    flops += _layer_flops(cfg, first, None) + between * _layer_flops(cfg, full, None)
    return flops + _layer_flops(cfg, full, prompts)


def _layer_flops(cfg: MambaCfg, rows: tuple[int, int, int], last: int | None) -> float:
    """Return the operations of one layer.

    Args:
        cfg: Shapes of the model.
        rows: Rows computed in each stage.
        last: In the last layer, the number of jobs: the gate and what follows it are needed at the
            last position only.
    """
    D, E, N, R = cfg.d_model, cfg.E, cfg.N, cfg.R
    whole, behind, recurred = rows
    gates, out = (whole, recurred) if last is None else (last, last)
    flops = 2.0 * D * E * (whole + gates) + 2.0 * out * E * D
    return flops + 2.0 * behind * E * (2 * R + 2 * N + cfg.d_conv) + SCAN_FLOPS * recurred * E * N


def row_bytes(cfg: MambaCfg) -> int:
    """Return the bytes a packed row takes while it is in flight."""
    return FLOAT * (3 * cfg.d_model + 6 * cfg.E + cfg.R + 4 * cfg.N)


def state_bytes(cfg: MambaCfg) -> int:
    """Return the bytes a job's states take while it is in flight."""
    return 3 * FLOAT * cfg.E * (cfg.N + cfg.d_conv)
