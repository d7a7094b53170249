"""Which values and keys of a parsed config.json are refused, and in which words?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mechtest.checkpoints.config import MambaCfg, MambaInitCfg
from mechtest.errors import ConfigError, UnsupportedArchitectureError, closest_names

__all__ = ["SUPPORTED", "build", "check_keys", "require", "section", "some_keys"]

SUPPORTED = (
    "Mamba-1: Hugging Face (model_type 'mamba') or state-spaces (d_model, n_layer) directories"
)


def build(fields: dict[str, Any], init: dict[str, Any], source: str) -> MambaCfg:
    """Build a configuration; errors gain the file's name."""
    try:
        return MambaCfg(**fields, initializer_config=MambaInitCfg(**init))
    except ConfigError as error:
        raise ConfigError(
            f"{source}: {error.what}", given=error.given, expected=error.expected
        ) from error


def section(raw: Mapping[str, Any], names: tuple[str, ...], source: str) -> Mapping[str, Any]:
    """Return the object under one of several spellings of a key ({} when absent)."""
    present = [name for name in names if raw.get(name) is not None]
    if len(present) > 1 and raw[present[0]] != raw[present[1]]:
        raise ConfigError(
            f"{source} has both {present[0]} and {present[1]}, and they differ",
            given=f"{present[0]}={raw[present[0]]}, {present[1]}={raw[present[1]]}",
            expected=f"{names[0]} alone",
        )
    section = raw[present[0]] if present else {}
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"{present[0]} in {source} is not an object", given=repr(section), expected="{...}"
        )
    return section


def check_keys(raw: Mapping[str, Any], known: Iterable[str], source: str) -> None:
    """Refuse keys nobody knows, with the nearest known ones."""
    accepted = list(dict.fromkeys(known))
    unknown = [key for key in raw if key not in accepted]
    if unknown:
        raise ConfigError(
            f"{source} has {'an unknown key' if len(unknown) == 1 else 'unknown keys'}: "
            f"{', '.join(unknown)}",
            given=", ".join(f"{key}={raw[key]!r}" for key in unknown),
            closest=[near for key in unknown for near in closest_names(key, accepted, 1)],
            expected=", ".join(accepted),
        )


def require(raw: Mapping[str, Any], source: str, **needed: object) -> None:
    """Refuse a key whose value asks for another computation."""
    for key, value in needed.items():
        if key in raw and raw[key] is not None and raw[key] != value:
            raise UnsupportedArchitectureError(
                f"{source} sets {key}={raw[key]!r}, which is not supported",
                given=f"{key}={raw[key]!r}",
                expected=f"{key}={value!r}",
            )


def some_keys(raw: Mapping[str, Any]) -> str:
    """Name the first keys of an object, for an error text."""
    keys = sorted(map(str, raw))
    return ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "") if keys else "(none)"
