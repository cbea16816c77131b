"""Golden tensors for GPTQ in plain numpy, float64 throughout.

    pip install -r requirements-gptq.txt   # numpy 2.4.6, safetensors 0.8.0
    python make_gptq_golden.py             # rewrites gptq.safetensors beside this file

w [out, in] and x [tokens, in] are f32; everything is computed from them in f64, scales and codes in f32. GPTQ as its
authors published it (arXiv 2210.17323): H = (2/n) x^T x; a dead input (H_cc = 0) gets H_cc = 1 and zero weights; then
H += .01 * mean(diag H) * I; U^T U = H^-1 with U upper triangular; columns are rounded one after the other, and each
column's error over U_cc times the row of U is taken from all columns to its right. The published code defers updates to
columns outside of a block; here each column is updated at once, which is the same up to rounding when groups begin
where blocks do.

    weight, x                       what the algorithm is given
    {case}.weight, {case}.scale     the result: weights on the grid, effective scales [out, groups]
    joint.mask                      u8 [out, in], 1 = kept

Cases: int4 in groups of 32 with bf16 scales, found when a group is reached; the same in activation order (descending
diagonal of H, scales found beforehand: `static_groups` in other implementations); int3 for each row with f32 scales;
NVFP4 (e2m1 in groups of 16, e4m3 scales under one f32 scale of the tensor); int4 with a 2:4 mask given by magnitude;
2:4 pruning and int4 rounding jointly (SparseGPT, arXiv 2301.00774, section 3.5). There a group's scale covers what stays
when per group of 4 the 2 smallest w^2/U_cc^2 go; with that scale those go whose loss costs least more than their rounding,
(w^2 - (w - q)^2)/U_cc^2, where the paper goes by the first cost again.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
DAMPING = 0.01
F32 = np.float32


def bf16(v):
    bits = np.asarray(v, dtype=F32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(F32)


def e4m3(v):
    """The nearest E4M3 number to positive v, saturating; at least the smallest."""
    v = np.minimum(np.asarray(v, dtype=np.float64), 448.0)
    exponent = np.maximum(np.floor(np.log2(np.maximum(v, 2.0**-20))), -6)
    step = 2.0 ** (exponent - 3)
    return np.maximum(np.round(v / step) * step, 2.0**-9).astype(F32)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def e2m1(v):
    """The nearest E2M1 number; ties to the even code."""
    d = np.abs(np.abs(v)[..., None] - E2M1)
    best = d.min(-1, keepdims=True)
    even = (d == best) & (np.arange(8) % 2 == 0)
    index = np.where(even.any(-1), even.argmax(-1), (d == best).argmax(-1))
    return np.sign(v) * E2M1[index]


class Int:
    def __init__(self, bits, group, rounded):
        self.max, self.group, self.rounded = 2 ** (bits - 1) - 1, group, rounded

    def prepare(self, w):
        pass

    def scale(self, amax):
        s = self.rounded(amax.astype(F32) / F32(self.max))
        return np.where(amax == 0, F32(1), s)

    def round(self, w, s):
        q = np.round(np.clip(w.astype(F32) / s, -self.max - 1, self.max))
        return (q.astype(F32) * s).astype(np.float64)


class Nvfp4:
    group = 16

    def prepare(self, w):
        self.g = F32(np.abs(w).max()) / F32(6 * 448)

    def scale(self, amax):
        s = (e4m3(amax.astype(F32) / (F32(6) * self.g)) * self.g).astype(F32)
        return np.where(amax == 0, self.g, s)

    def round(self, w, s):
        q = e2m1(np.clip(w.astype(F32) / s, -6, 6))
        return (q.astype(F32) * s).astype(np.float64)


def keep_two_of_four(cost):
    """Marks the 2 largest of each 4; of equal ones the lowest index stays."""
    rows, cols = cost.shape
    groups = cost.reshape(rows, cols // 4, 4)
    order = np.argsort(-groups, axis=-1, kind="stable")[..., :2]
    keep = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(keep, order, True, axis=-1)
    return keep.reshape(rows, cols)


def gptq(weight, x, grid, order=None, mask=None, joint=False):
    rows, cols = weight.shape
    h = 2.0 / x.shape[0] * x.T @ x
    dead = np.diag(h) == 0
    h[dead, dead] = 1.0
    h += DAMPING * np.mean(np.diag(h)) * np.eye(cols)
    static = order is not None
    order = np.arange(cols) if order is None else order
    h = h[order][:, order]
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    d = np.diag(u)

    w = weight.copy()
    if mask is not None:
        w *= mask
    grid.prepare(w)
    group = grid.group or cols
    scales = np.stack([grid.scale(np.abs(g).max(1)) for g in np.split(w, cols // group, axis=1)], axis=1)
    w[:, dead] = 0.0
    w = w[:, order]
    keep = np.ones(w.shape, dtype=bool) if mask is None else mask[:, order].copy()
    for c in range(cols):
        g = order[c] // group
        if not static and grid.group and c % group == 0:
            span = slice(c, c + group)
            if joint:
                keep[:, span] = keep_two_of_four((w[:, span] / d[span]) ** 2)
            scales[:, g] = grid.scale(np.abs(w[:, span] * keep[:, span]).max(1))
        if joint and c % 4 == 0:
            four = w[:, c : c + 4]
            rounding = four - grid.round(four, scales[:, g][:, None])
            keep[:, c : c + 4] = keep_two_of_four((four**2 - rounding**2) / d[c : c + 4] ** 2)
        q = np.where(keep[:, c], grid.round(w[:, c], scales[:, g]), 0.0)
        error = (w[:, c] - q) / d[c]
        w[:, c:] -= np.outer(error, u[c, c:])
        w[:, c] = q
    back = np.argsort(order)
    return w[:, back], scales.astype(F32), keep[:, back]


def main():
    rng = np.random.default_rng(11)
    rows, cols, tokens = 24, 160, 240
    mix = rng.normal(size=(cols // 4, cols)) / (cols // 4) ** 0.5
    x = rng.normal(size=(tokens, cols // 4)) @ mix + 0.5 * rng.normal(size=(tokens, cols))
    x *= np.exp(0.5 * rng.normal(size=cols))
    x[:, rng.choice(cols, 3, replace=False)] *= 8.0
    x[:, [7, 90]] = 0.0
    x32 = x.astype(F32)
    w32 = (rng.standard_t(5, size=(rows, cols)) / cols**0.5).astype(F32)
    x, w = x32.astype(np.float64), w32.astype(np.float64)

    by_diagonal = np.argsort(-np.diag(x.T @ x), kind="stable")
    mask = keep_two_of_four(np.abs(w))
    cases = {
        "int4": (Int(4, 32, bf16), {}),
        "int4_order": (Int(4, 32, bf16), {"order": by_diagonal}),
        "int3_channel": (Int(3, None, lambda s: s), {}),
        "nvfp4": (Nvfp4(), {}),
        "int4_masked": (Int(4, 32, bf16), {"mask": mask}),
        "joint": (Int(4, 32, bf16), {"joint": True}),
    }
    tensors = {"weight": w32, "x": x32, "int4_masked.mask": mask.astype(np.uint8)}
    for name, (grid, options) in cases.items():
        out, scales, keep = gptq(w, x, grid, **options)
        tensors[f"{name}.weight"], tensors[f"{name}.scale"] = out.astype(F32), scales
        if name == "joint":
            tensors["joint.mask"] = keep.astype(np.uint8)
        base = w * keep
        group = grid.group or cols
        nearest = np.concatenate([grid.round(g, grid.scale(np.abs(g).max(1))[:, None]) for g in np.split(base, cols // group, axis=1)], axis=1)
        error, plain = (np.linalg.norm(x @ (v - w).T) / np.linalg.norm(x @ w.T) for v in (out, nearest))
        print(f"{name}: output error {error:.4f}, rounded to nearest {plain:.4f}")
        assert error < plain
    # save_file writes the memory of an array, whatever its strides.
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, HERE / "gptq.safetensors")


if __name__ == "__main__":
    main()
