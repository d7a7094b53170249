"""How is the digest of a large checkpoint remembered between processes?

sha256 takes seconds for half a gigabyte on a processor without instructions for it, and every
test worker loads the same files. A remembered digest is used only while path, size, inode,
modification time and change time of every weight file are what they were: the last of these is
set by the kernel at any write and by no program. Small checkpoints are always hashed.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["remembered_digest"]

_FROM_BYTES = 64 << 20
_VERSION = 1  # of what the digest is over; a change of `digest_weights` must raise it


def remembered_digest(
    weight_files: Sequence[Path], compute: Callable[[], str], *, tied: bool
) -> str:
    """Return the weight digest of these files, computing it only when it is not known.

    Args:
        weight_files: All files of the checkpoint.
        compute: Hashes the loaded weights.
        tied: Whether the head was dropped before hashing, which the files alone do not tell.
    """
    stats = [path.stat() for path in weight_files]
    if sum(stat.st_size for stat in stats) < _FROM_BYTES:
        return compute()
    facts = [(_VERSION, tied)] + [
        (str(path.resolve()), s.st_size, s.st_dev, s.st_ino, s.st_mtime_ns, s.st_ctime_ns)
        for path, s in zip(weight_files, stats, strict=True)
    ]
    place = _directory() / hashlib.sha256(repr(facts).encode()).hexdigest()
    known = _read(place)
    if known is not None:
        return known
    digest = compute()
    _write(place, digest)
    return digest


def _directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mechtest" / "digests"


def _read(place: Path) -> str | None:
    try:
        text = place.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


def _write(place: Path, digest: str) -> None:
    new = place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(digest + "\n", encoding="ascii")
        new.replace(place)
    except OSError:
        return  # a cache that cannot be written costs time, nothing else
