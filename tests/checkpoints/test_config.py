import subprocess
import sys

import pytest

from mechtest.checkpoints import MambaCfg, MambaInitCfg
from mechtest.errors import ConfigError, UnsupportedArchitectureError
from tests.checkpoints.weights_by_hand import tiny_cfg


def test_derived_sizes_follow_the_paper():
    cfg = MambaCfg(d_model=768, n_layer=24, vocab_size=50277)
    assert (cfg.D, cfg.E, cfg.N, cfg.R, cfg.D_conv, cfg.V) == (768, 1536, 16, 48, 4, 50280)
    assert (cfg.d_inner, cfg.dt_rank, cfg.d_vocab, cfg.n_layers) == (1536, 48, 50280, 24)


@pytest.mark.parametrize(("d_model", "rank"), [(15, 1), (16, 1), (17, 2), (33, 3)])
def test_automatic_rank_is_a_sixteenth_rounded_up(d_model, rank):
    assert tiny_cfg(d_model=d_model).dt_rank == rank


def test_explicit_inner_width_wins_over_expand():
    assert tiny_cfg(d_model=8, expand=16, d_inner=24).E == 24
    assert tiny_cfg(d_model=5, expand=1.5, d_inner=None).E == 7


@pytest.mark.parametrize(
    ("vocab_size", "multiple", "rows"),
    [(50277, 8, 50280), (50277, 16, 50288), (8, 8, 8), (9, 1, 9)],
)
def test_vocabulary_is_padded_up(vocab_size, multiple, rows):
    assert tiny_cfg(vocab_size=vocab_size, pad_vocab_size_multiple=multiple).d_vocab == rows


def test_initialisation_defaults_are_numbers():
    # The peer's trailing commas made one-element tuples of these.
    init = MambaInitCfg()
    assert (init.initializer_range, init.rescale_prenorm_residual) == (0.02, True)
    assert (init.dt_min, init.dt_max, init.dt_init_floor, init.dt_scale) == (0.001, 0.1, 1e-4, 1.0)


def test_device_and_dtype_are_kept_by_name():
    class Named:
        def __str__(self):
            return "torch.float64"

    assert tiny_cfg(dtype=Named()).dtype == "float64"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d_model", 0),
        ("d_model", 8.0),
        ("d_model", True),
        ("n_layer", -1),
        ("vocab_size", "13"),
        ("d_state", None),
        ("d_inner", 0),
        ("dt_rank", "big"),
        ("dt_rank", 0),
        ("expand", float("nan")),
        ("expand", 0),
        ("norm_eps", 0.0),
        ("norm_eps", float("inf")),
        ("bias", 1),
        ("tie_embeddings", "yes"),
        ("pad_vocab_size_multiple", 0),
        ("initializer_config", {}),
    ],
)
def test_impossible_value_is_named(field, value):
    with pytest.raises(ConfigError, match=rf"MT204.*{field}(.|\n)*given(.|\n)*expected"):
        tiny_cfg(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("initializer_range", 0),
        ("dt_init", "uniform"),
        ("dt_min", 0.5),
        ("dt_max", float("inf")),
        ("rescale_prenorm_residual", 1),
        ("n_residuals_per_layer", 0),
        ("dt_init_floor", (1e-4,)),
    ],
)
def test_impossible_initialisation_is_named(field, value):
    with pytest.raises(ConfigError, match=field):
        MambaInitCfg(**{field: value})


def test_layer_norm_is_refused():
    with pytest.raises(UnsupportedArchitectureError, match="rms_norm=False"):
        tiny_cfg(rms_norm=False)


def test_other_architecture_is_refused():
    with pytest.raises(UnsupportedArchitectureError, match="mamba2"):
        tiny_cfg(architecture="mamba2")


def test_configuration_reads_without_torch():
    code = (
        "import sys; from mechtest.checkpoints import MambaCfg; "
        "MambaCfg(d_model=8, n_layer=1, vocab_size=5); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
