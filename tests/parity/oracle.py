"""Every intermediate value of a Mamba-1, from Hugging Face weights, in numpy float64.

Written from the paper and the released code alone: it shares no line, no library and no order of
operations with the package, so that an agreement to 1e-12 means something.
"""

import numpy as np


def _silu(v):
    return v / (1 + np.exp(-v))


def _rms(v, weight, eps):
    return v / np.sqrt(np.mean(v * v, axis=-1, keepdims=True) + eps) * weight


def mamba_oracle(weights, tokens, eps):
    """Return every hook's value by name for tokens [B, L]; `weights` are HF names -> float64."""
    w, out = weights, {}
    resid = out["hook_embed"] = w["backbone.embeddings.weight"][tokens]
    batch, length, _ = resid.shape
    n_layer = 1 + max(int(k.split(".")[2]) for k in w if k.startswith("backbone.layers."))
    for i in range(n_layer):
        p, m = f"blocks.{i}.", f"backbone.layers.{i}.mixer."
        out[p + "hook_resid_pre"] = out[p + "hook_layer_input"] = resid
        n = out[p + "hook_normalized_input"] = _rms(
            resid, w[f"backbone.layers.{i}.norm.weight"], eps
        )
        xz = n @ w[m + "in_proj.weight"].T + w.get(m + "in_proj.bias", 0.0)
        inner = xz.shape[-1] // 2
        x, z = xz[..., :inner], xz[..., inner:]
        out |= {p + "hook_in_proj": x, p + "hook_skip": z, p + "mixer.in_proj.hook_out": xz}
        taps, width = w[m + "conv1d.weight"][:, 0, :], w[m + "conv1d.weight"].shape[-1]
        padded = np.concatenate([np.zeros((batch, width - 1, inner)), x], axis=1)
        conv = np.stack(
            [np.einsum("bwe,ew->be", padded[:, t : t + width], taps) for t in range(length)], 1
        )
        conv = out[p + "hook_conv"] = conv + w.get(m + "conv1d.bias", 0.0)
        for t in range(length):
            out[p + f"hook_conv_state.{t}"] = padded[:, t + 1 : t + width]
        u = out[p + "hook_ssm_input"] = _silu(conv)
        A = out[p + "hook_A"] = -np.exp(w[m + "A_log"])
        n_state, rank = A.shape[1], w[m + "dt_proj.weight"].shape[1]
        proj = out[p + "mixer.x_proj.hook_out"] = u @ w[m + "x_proj.weight"].T
        low, B, C = np.split(proj, [rank, rank + n_state], axis=-1)
        raw = low @ w[m + "dt_proj.weight"].T + w[m + "dt_proj.bias"]
        delta = np.logaddexp(0.0, raw)
        out |= {p + "hook_delta_1": low, p + "hook_delta_2": raw, p + "hook_delta": delta}
        out |= {
            p + "hook_B": B,
            p + "hook_C": C,
            p + "hook_A_bar": np.exp(np.einsum("ble,en->blen", delta, A)),
        }
        out[p + "hook_B_bar"] = np.einsum("ble,bln->blen", delta, B)
        out[p + "hook_ssm_write"] = np.einsum("ble,bln,ble->blen", delta, B, u)
        h = out[p + "hook_h_start"] = np.zeros((batch, inner, n_state))
        y = np.zeros_like(u)
        for t in range(length):
            h = out[p + f"hook_h.{t}"] = (
                out[p + "hook_A_bar"][:, t] * h + out[p + "hook_ssm_write"][:, t]
            )
            y[:, t] = np.einsum("ben,bn->be", h, C[:, t])
        ssm = y + u * w[m + "D"]
        gated = ssm * _silu(z)
        added = gated @ w[m + "out_proj.weight"].T + w.get(m + "out_proj.bias", 0.0)
        resid = resid + added
        out |= {p + "hook_y": y, p + "hook_ssm_output": ssm, p + "hook_after_skip": gated}
        out |= {p + "hook_out_proj": added, p + "hook_resid_post": resid}
    out["hook_norm"] = _rms(resid, w["backbone.norm_f.weight"], eps)
    head = w.get("lm_head.weight", w["backbone.embeddings.weight"])
    out["hook_logits"] = out["hook_norm"] @ head.T
    return out
