"""A Mamba on one prompt, written down as sums over positions, with one layer changed by hand."""

import torch
import torch.nn.functional as F


class Layer:
    """One block on one prompt.

    `change(what, value, layer)` returns what stands in the place of `rows` "tap pos d_inner" (what
    each tap adds), `delta` "pos d_inner", `decay` (log A_bar, "pos d_inner d_state"), `alpha`
    "receiver sender d_inner" (the hidden attention), `y`, `gate` or `out` "pos d_inner". The layer
    it is given holds everything that came before.
    """

    def __init__(self, block, resid, change=None):
        change = change or (lambda what, value, layer: value)
        mixer, cfg = block.mixer, block.cfg
        normed = resid / torch.sqrt(resid.pow(2).mean(-1, keepdim=True) + cfg.norm_eps)
        normed = normed * block.norm.weight
        inner, z = (normed @ mixer.in_proj.weight.T).split(cfg.E, dim=-1)
        taps = mixer.conv1d.weight[:, 0].flip(1).T
        rows = torch.stack([shifted(inner, tap) * taps[tap] for tap in range(cfg.d_conv)])
        self.rows = change("rows", rows, self)
        self.x = F.silu(mixer.conv1d.bias + self.rows.sum(0))
        low_rank, self.B, self.C = (self.x @ mixer.x_proj.weight.T).split(
            [cfg.R, cfg.N, cfg.N], dim=-1
        )
        delta = F.softplus(low_rank @ mixer.dt_proj.weight.T + mixer.dt_proj.bias)
        self.delta = change("delta", delta, self)
        self.A = -torch.exp(mixer.A_log)
        self.decay = change("decay", self.delta[:, :, None] * self.A, self)
        self.alpha = change("alpha", attention(self, self.delta, self.decay), self)
        self.y = change("y", torch.einsum("ije,je->ie", self.alpha, self.x), self)
        self.gate = change("gate", F.silu(z), self)
        out = change("out", (self.y + mixer.D * self.x) * self.gate, self)
        self.after = resid + out @ mixer.out_proj.weight.T

    def state(self, position):
        """Return h after a position, "d_inner d_state": the sum of what was written and is left."""
        write = self.delta[:, :, None] * self.B[:, None] * self.x[:, :, None]
        left = [
            torch.exp(self.decay[j + 1 : position + 1].sum(0)) * write[j]
            for j in range(position + 1)
        ]
        return sum(left, torch.zeros_like(write[0]))


def attention(layer, delta, decay):
    """Return alpha_ij = C_i (A_bar_i ... A_bar_{j+1}) delta_j B_j, zero for j behind i."""
    total = decay.cumsum(0)
    kept = torch.exp((total[:, None] - total).clamp(max=0))  # "receiver sender d_inner d_state"
    into = delta[:, :, None] * layer.B[:, None]
    alpha = (layer.C[:, None, None] * kept * into).sum(-1)
    return alpha.permute(2, 0, 1).tril().permute(1, 2, 0)


def shifted(rows, count):
    """Return rows some tokens later, zeros before the first."""
    return torch.cat([torch.zeros_like(rows[:count]), rows[: len(rows) - count]])


def layer_of(model, tokens, number):
    """Return one layer of an unchanged run."""
    resid = model.embedding.weight[tokens]
    for block in list(model.blocks)[:number]:
        resid = Layer(block, resid).after
    return Layer(model.blocks[number], resid)


def last_logits(model, tokens, number, change):
    """Return the logits at the last position, with one layer changed."""
    resid = model.embedding.weight[tokens]
    for index, block in enumerate(model.blocks):
        resid = Layer(block, resid, change if index == number else None).after
    last = resid[-1]
    normed = last / torch.sqrt(last.pow(2).mean() + model.cfg.norm_eps)
    return model.lm_head.weight @ (normed * model.norm.weight)
