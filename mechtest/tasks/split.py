"""Which half does a template belong to: the one to find a circuit on, or the one to test it on?

The side is a hash of the template's name and a salt, nothing else. So it does not move when prompts
or templates are added, does not depend on their order, and everybody computes the same one.
"""

import hashlib
from typing import Literal

__all__ = ["DEFAULT_SALT", "Side", "SplitSide", "side_of"]

DEFAULT_SALT = "mechtest-split-1"

SplitSide = Literal["discovery", "test"]
Side = Literal["all", "discovery", "test"]


def side_of(template: str, salt: str = DEFAULT_SALT) -> SplitSide:
    """Return the half a template falls in: the lowest bit of one hashed byte, 0 is discovery.

    Templates, not prompts, are dealt out: two prompts of one template share words, length and
    wording, and testing on the twin of what was fitted is testing on what was fitted
    (docs/decisions/0004-prompts-and-splits.md).
    """
    digest = hashlib.blake2b(f"{salt}|{template}".encode(), digest_size=8).digest()
    return "test" if digest[0] & 1 else "discovery"
