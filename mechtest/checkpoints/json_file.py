"""How is a JSON object read, so that a broken file is named with its fault?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mechtest.errors import CheckpointError, ConfigError

__all__ = ["read_json"]


def read_json(path: Path, error_class: type[CheckpointError] = ConfigError) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: As `error_class`: the file is unreadable, no JSON, or not an object.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise error_class(f"{path.name} cannot be read: {error}", given=str(path)) from error
    if not isinstance(raw, dict):
        raise error_class(
            f"{path.name} is not a JSON object", given=f"{type(raw).__name__} in {path}"
        )
    return raw
