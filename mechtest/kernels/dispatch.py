"""Which scan runs, given the hooks that must be seen and how much the caller insists on speed?

A path is a way to compute the recurrence and the hooks it can expose. The fastest path that serves
every hook asked for runs; a caller who insists on the fast one gets an error, never a lost hook.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mechtest.errors import SiteNotServedError


@dataclass(frozen=True, slots=True)
class ScanPath:
    """One way to run the scan.

    Attributes:
        name: As reports print it.
        devices: Device types it runs on.
        hides: Hooks whose tensors never exist on this path.
        materializes: True when A_bar and B_bar x are built for all positions at once.
    """

    name: str
    devices: frozenset[str]
    hides: frozenset[str]
    materializes: bool

    def serves(self, hooks: Collection[str]) -> bool:
        """Return whether every one of `hooks` can be exposed."""
        return not self.hides.intersection(hooks)


EVERY_DEVICE = frozenset({"cpu", "cuda", "mps"})
FUSED = ScanPath(
    "fused",
    EVERY_DEVICE,
    hides=frozenset({"hook_A_bar", "hook_B_bar", "hook_ssm_write"}),
    materializes=False,
)
"""The segment kernels; where they are not compiled for a device and dtype, STEPWISE is."""
STEPWISE = ScanPath(
    "stepwise",
    EVERY_DEVICE,
    hides=frozenset({"hook_A_bar", "hook_B_bar", "hook_ssm_write"}),
    materializes=False,
)
REFERENCE = ScanPath("reference", EVERY_DEVICE, hides=frozenset(), materializes=True)
SCAN_PATHS = (FUSED, STEPWISE, REFERENCE)
"""Fastest first; the last one serves everything."""


def choose_scan(
    hooks: Collection[str], device: str, fast: bool | None = None, *, compiled: bool = False
) -> ScanPath:
    """Return the path to run.

    Args:
        hooks: Hooks of this block that somebody listens to, as the table spells them.
        device: Device type of the tensors.
        fast: None lets the hooks decide; True insists on the fastest path of the device;
            False asks for the reference.
        compiled: Whether the segment kernels are compiled for this device and dtype.

    Raises:
        SiteNotServedError: `fast=True`, and that path hides a hook that was asked for.
    """
    known = SCAN_PATHS if compiled else SCAN_PATHS[1:]
    paths = [path for path in known if device in path.devices] or [REFERENCE]
    if fast is False:
        return REFERENCE
    if fast and not paths[0].serves(hooks):
        hidden = sorted(paths[0].hides.intersection(hooks))
        raise SiteNotServedError(
            f"the {paths[0].name!r} scan of fast_ssm=True never builds {', '.join(hidden)}",
            given=f"fast_ssm=True with a hook on {', '.join(hidden)}",
            expected="hooks outside " + ", ".join(sorted(paths[0].hides)),
            next_step="leave fast_ssm out: the path that serves every hook is then chosen",
        )
    return next(path for path in paths if path.serves(hooks))
