"""Which random numbers belong to this draw, whoever makes it and whenever?

A generator is keyed by what it is for, so control 17 of a claim is the same in every worker, order
and batch size, and asking for one draw never moves another.
"""

from __future__ import annotations

import hashlib

import numpy as np

from mechtest.errors import SampleError

__all__ = ["derived_seed", "keyed_generator"]

Part = str | int


def keyed_generator(root_seed: int, claim: str, role: str, *index: Part) -> np.random.Generator:
    """Return the generator for one draw.

    Args:
        root_seed: Seed of the whole run; it is written in the lock.
        claim: Claim id: the node id with its parameters.
        role: What the numbers are for: `"control"`, `"sign flips"`, ...
        index: Which one of its role, for example the number of the control.

    Returns:
        A Philox generator whose 128-bit key is the blake2b digest of the parts. Parts are written
        with type and length, so ("a", "bc") and ("ab", "c"), or 1 and "1", have different keys.

    Sources: Salmon et al. 2011 (counter-based generators).

    Example:
        >>> int(keyed_generator(0, "t.py::test_a", "control", 3).integers(100))
        87
    """
    key = int.from_bytes(_digest(root_seed, claim, role, *index), "little")
    return np.random.Generator(np.random.Philox(key=key))


def derived_seed(root_seed: int, claim: str, role: str, *index: Part) -> int:
    """Return a seed in [0, 2**63) of the same key, for a generator of another library."""
    return int.from_bytes(_digest(root_seed, claim, role, *index), "little") >> 65


def _digest(*parts: Part) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, (str, int)):
            raise SampleError(
                "a key is made of texts and whole numbers",
                given=f"{part!r} ({type(part).__name__})",
            )
        text = str(part).encode()
        digest.update(f"{type(part).__name__}:{len(text)}:".encode() + text)
    return digest.digest()
