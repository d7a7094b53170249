"""Fresh weights follow the released initialisation and every option of it."""

import math

import pytest
import torch
import torch.nn.functional as F

from mechtest.checkpoints import MambaCfg, MambaInitCfg
from mechtest.models import HookedMamba


def fresh(seed=0, initializer_config=None, **shape):
    shape = {"d_model": 64, "n_layer": 4, "vocab_size": 500, **shape}
    init = initializer_config or MambaInitCfg()
    return HookedMamba(MambaCfg(**shape, initializer_config=init), seed=seed)


def test_the_decay_starts_at_one_to_n_and_the_direct_path_at_one():
    block = fresh().blocks[2]
    assert torch.allclose(block.A_log.exp()[5], torch.arange(1.0, 17.0))
    assert (block.W_D == 1).all()


@pytest.mark.parametrize(("low", "high", "floor"), [(1e-3, 1e-1, 1e-4), (1e-2, 1.0, 0.05)])
def test_step_sizes_start_log_uniform_between_the_bounds(low, high, floor):
    model = fresh(initializer_config=MambaInitCfg(dt_min=low, dt_max=high, dt_init_floor=floor))
    dt = torch.cat([F.softplus(block.W_delta_2.bias.double()) for block in model.blocks])
    assert dt.min() >= max(low, floor) * 0.999
    assert dt.max() <= high * 1.001
    if floor <= low:
        middle = math.sqrt(low * high)
        assert (dt < middle).double().mean() == pytest.approx(0.5, abs=0.1)


def test_constant_and_random_step_size_projections():
    constant = fresh(initializer_config=MambaInitCfg(dt_init="constant", dt_scale=2.0))
    assert torch.allclose(constant.blocks[0].W_delta_2.weight, torch.tensor(4**-0.5 * 2.0))
    random = fresh().blocks[0].W_delta_2.weight
    assert random.abs().max() <= 4**-0.5
    assert random.std().item() == pytest.approx(4**-0.5 / math.sqrt(3), rel=0.15)


def test_residual_outputs_shrink_with_depth_unless_refused():
    scaled = fresh(n_layer=4).blocks[0].out_proj.weight.std()
    plain = fresh(n_layer=4, initializer_config=MambaInitCfg(rescale_prenorm_residual=False))
    two = fresh(n_layer=4, initializer_config=MambaInitCfg(n_residuals_per_layer=2))
    assert (scaled / plain.blocks[0].out_proj.weight.std()).item() == pytest.approx(1 / 2, rel=1e-4)
    assert (two.blocks[0].out_proj.weight.std() / scaled).item() == pytest.approx(2**-0.5, rel=1e-4)


def test_embeddings_have_the_range_asked_for_and_the_head_is_tied_or_its_own():
    tied = fresh(initializer_config=MambaInitCfg(initializer_range=0.5))
    assert tied.embedding.weight.std().item() == pytest.approx(0.5, rel=0.05)
    assert tied.lm_head.weight is tied.embedding.weight
    untied = fresh(tie_embeddings=False)
    assert not torch.equal(untied.lm_head.weight, untied.embedding.weight)


def test_a_seed_names_the_weights():
    weights = [fresh(seed=seed).state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["embedding.weight"], weights[2]["embedding.weight"])


def test_every_weight_is_finite_and_gradients_reach_it():
    model = fresh()
    model(torch.arange(6)[None], return_type="loss").backward()
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_fresh_model_predicts_about_uniformly():
    loss = fresh()(torch.randint(0, 500, (4, 20)), return_type="loss")
    assert loss.item() == pytest.approx(math.log(504), rel=0.05)
