"""MambaLens's README examples run unchanged but for the import lines and the model path."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

EXAMPLES = Path(__file__).parent / "mambalens_readme"
MODEL = "fixtures/zoo/prose/seed0/step-02500"


class Plotly:
    """Stands where plotly.express stood, and keeps what would have been drawn."""

    def imshow(self, values, **settings):
        self.values, self.settings = values, settings
        return SimpleNamespace(show=lambda: None)


def run_example(name):
    """Run one example and return its namespace and what it plotted."""
    code = (EXAMPLES / f"{name}.txt").read_text()
    lines = [line for line in code.splitlines() if not re.match(r"(from|import) ", line)]
    changed = "\n".join(lines)
    changed, paths = re.subn(r'"state-spaces/mamba-370m", device=\'cuda\'', f'"{MODEL}"', changed)
    assert paths == 1
    plot = Plotly()
    imports = "from functools import partial\nimport torch\nimport mechtest as mamba_lens\n"
    imports += "from jaxtyping import Float\nfrom mechtest import HookPoint\n"
    # The README calls utils.to_numpy and draws with px without importing the former.
    namespace = {
        "px": plot,
        "tqdm": lambda layers: layers,
        "utils": SimpleNamespace(to_numpy=lambda tensor: tensor.detach().numpy()),
    }
    exec(compile(imports + changed, name, "exec"), namespace)
    return namespace, plot


@pytest.fixture(scope="module")
def hidden_state():
    return run_example("patch_hidden_state")


@pytest.fixture(scope="module")
def layer_input():
    return run_example("patch_layer_input")


def test_the_prompt_is_answered(hidden_state):
    """The clean run prefers Emma, the corrupted one Shelby, both by far."""
    namespace, _ = hidden_state
    assert namespace["max_logit_diff"] > 3
    assert namespace["min_logit_diff"] < -3


def test_the_maps_are_layer_by_position_with_token_labels(hidden_state, layer_input):
    for namespace, plot in (hidden_state, layer_input):
        assert plot.values.shape == (2, 16)
        assert plot.settings["x"][11] == " Shelby-> Emma_11"
        assert namespace["token_labels"][0].endswith("_0")


def test_nothing_before_the_changed_token_has_an_effect(hidden_state, layer_input):
    for _, plot in (hidden_state, layer_input):
        assert abs(plot.values[:, :11]).max() < 1e-5


def test_layer_inputs_carry_the_name_at_its_token_and_nowhere_else_in_layer_0(layer_input):
    """Layer 0's input is the whole change at the changed token, and nothing elsewhere."""
    _, plot = layer_input
    first = plot.values[0]
    assert first[11] == pytest.approx(1.0, abs=1e-5)
    assert abs(first[12:]).max() < 1e-5


def test_the_states_of_both_layers_carry_the_answer_at_the_end(hidden_state, layer_input):
    """Some layer's state at the last token moves the answer, as some layer's input there does."""
    _, states = hidden_state
    _, inputs = layer_input
    assert states.values[:, -1].max() > 0.5
    assert inputs.values[1, -1] == pytest.approx(states.values[0, -1], abs=0.35)


def test_the_maps_equal_direct_computation(hidden_state):
    """One cell of the map, recomputed without the README's code."""
    from mechtest.models import HookedMamba

    _, plot = hidden_state
    model = HookedMamba.from_pretrained(MODEL)
    clean, corrupted = (
        "Lately, Emma and Shelby had fun at school. Shelby gave an apple to",
        "Lately, Emma and Shelby had fun at school. Emma gave an apple to",
    )
    emma, shelby = model.to_single_token(" Emma"), model.to_single_token(" Shelby")

    def difference(logits):
        return (logits[0, -1, emma] - logits[0, -1, shelby]).item()

    with torch.no_grad():
        wrong, cache = model.run_with_cache(corrupted)
        right = model(clean)
        patched = model.run_with_hooks(
            clean, fwd_hooks=[("blocks.0.hook_h.14", lambda h, hook: cache[hook.name])]
        )
    low, high = difference(wrong), difference(right)
    expected = 1 - (difference(patched) - low) / (high - low)
    assert plot.values[0, 14] == pytest.approx(expected, abs=1e-5)


def test_models_from_a_config_and_back_as_in_the_readme():
    """Its sections on loading a config and state dict, on fresh models, and on porting back."""
    import mechtest as mamba_lens

    cfg = mamba_lens.MambaCfg(
        d_model=16,
        n_layer=3,
        vocab_size=29,
        d_state=8,
        d_conv=3,
        expand=2,
        initializer_config=mamba_lens.MambaInitCfg(
            initializer_range=0.02,
            rescale_prenorm_residual=True,
            n_residuals_per_layer=1,
            dt_init="random",
            dt_scale=1.0,
            dt_min=0.001,
            dt_max=0.1,
            dt_init_floor=1e-4,
        ),
    )
    fresh = mamba_lens.HookedMamba(cfg=cfg, device="cpu", initialize_params=True)
    cfg_dict = mamba_lens.convert_hooked_mamba_config_to_original_config(hooked_mamba_cfg=fresh.cfg)
    state_dict = mamba_lens.convert_hooked_state_dict_to_original_state_dict(
        cfg=fresh.cfg, state_dict=fresh.state_dict()
    )
    assert cfg_dict["ssm_cfg"]["d_state"] == 8  # what MambaLens itself loses on the way back
    assert "backbone.layers.2.mixer.x_proj.weight" in state_dict

    hooked_cfg = mamba_lens.convert_original_config_to_hooked_mamba_config(cfg_dict, device="cpu")
    hooked_state_dict = mamba_lens.convert_original_state_dict_to_hooked_state_dict(state_dict)
    assert "blocks.0.W_delta_1.weight" in hooked_state_dict
    model = mamba_lens.HookedMamba(cfg=hooked_cfg, device="cpu", tokenizer=None)
    model.load_state_dict(hooked_state_dict)
    tokens = torch.arange(7)[None]
    assert torch.equal(model(tokens), fresh(tokens))
