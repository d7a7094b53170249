"""What is on disk: checkpoints of Mamba models, found, read, converted, compared and written.

Files only: nothing here runs a model. Names load on first use, so that a configuration can be
read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mechtest._lazy import lazy_names

if TYPE_CHECKING:
    from mechtest.checkpoints.config import MambaCfg as MambaCfg
    from mechtest.checkpoints.config import MambaInitCfg as MambaInitCfg
    from mechtest.checkpoints.conversion import check_state_dict as check_state_dict
    from mechtest.checkpoints.conversion import (
        convert_hooked_mamba_config_to_original_config as convert_hooked_mamba_config_to_original_config,  # noqa: E501
    )
    from mechtest.checkpoints.conversion import (
        convert_hooked_state_dict_to_original_state_dict as convert_hooked_state_dict_to_original_state_dict,  # noqa: E501
    )
    from mechtest.checkpoints.conversion import (
        convert_original_config_to_hooked_mamba_config as convert_original_config_to_hooked_mamba_config,  # noqa: E501
    )
    from mechtest.checkpoints.conversion import (
        convert_original_state_dict_to_hooked_state_dict as convert_original_state_dict_to_hooked_state_dict,  # noqa: E501
    )
    from mechtest.checkpoints.conversion import detect_layout as detect_layout
    from mechtest.checkpoints.conversion import expected_shapes as expected_shapes
    from mechtest.checkpoints.conversion import fit_vocab as fit_vocab
    from mechtest.checkpoints.conversion import from_native as from_native
    from mechtest.checkpoints.conversion import to_native as to_native
    from mechtest.checkpoints.families import CheckpointSource as CheckpointSource
    from mechtest.checkpoints.families import SuiteIndex as SuiteIndex
    from mechtest.checkpoints.fingerprint import Fingerprint as Fingerprint
    from mechtest.checkpoints.fingerprint import digest_weights as digest_weights
    from mechtest.checkpoints.formats import config_from_hf as config_from_hf
    from mechtest.checkpoints.formats import config_from_original as config_from_original
    from mechtest.checkpoints.formats import config_to_hf as config_to_hf
    from mechtest.checkpoints.formats import config_to_original as config_to_original
    from mechtest.checkpoints.formats import detect_format as detect_format
    from mechtest.checkpoints.load import LoadedCheckpoint as LoadedCheckpoint
    from mechtest.checkpoints.load import read_checkpoint as read_checkpoint
    from mechtest.checkpoints.location import CheckpointFiles as CheckpointFiles
    from mechtest.checkpoints.location import locate as locate
    from mechtest.checkpoints.save import save_hf as save_hf
    from mechtest.checkpoints.save import save_original as save_original
    from mechtest.checkpoints.weights import load_weights as load_weights

_MODULES = {
    "config": ("MambaCfg", "MambaInitCfg"),
    "conversion": (
        "check_state_dict",
        "convert_hooked_mamba_config_to_original_config",
        "convert_hooked_state_dict_to_original_state_dict",
        "convert_original_config_to_hooked_mamba_config",
        "convert_original_state_dict_to_hooked_state_dict",
        "detect_layout",
        "expected_shapes",
        "fit_vocab",
        "from_native",
        "to_native",
    ),
    "families": ("CheckpointSource", "SuiteIndex"),
    "fingerprint": ("Fingerprint", "digest_weights"),
    "formats": (
        "config_from_hf",
        "config_from_original",
        "config_to_hf",
        "config_to_original",
        "detect_format",
    ),
    "load": ("LoadedCheckpoint", "read_checkpoint"),
    "location": ("CheckpointFiles", "locate"),
    "save": ("save_hf", "save_original"),
    "weights": ("load_weights",),
}

__getattr__, __dir__ = lazy_names(
    __name__,
    {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names},
)
