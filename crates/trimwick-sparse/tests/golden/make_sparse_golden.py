"""Golden tensors for pruning: magnitude, Wanda and SparseGPT in plain numpy, float64 throughout.

    pip install -r requirements.txt      # numpy 2.4.6, safetensors 0.8.0
    python make_sparse_golden.py         # rewrites the .safetensors files beside this file

Each case is one file (w [out, in] and x [tokens, in] are f32; everything is computed from them in f64):

    weight, x                       what the algorithms are given
    magnitude_2_4.mask              u8 [out, in], 1 = kept; the 2 largest |w| of every 4 along the inputs
    magnitude_half.mask             the larger half of |w| over the whole matrix
    wanda_2_4.mask, wanda_half.mask |w| * ||x_c||_2 (arXiv 2306.11695); the half is taken in every row, as in the paper
    sparsegpt_2_4.mask, .weight     arXiv 2301.00774; .weight is f32, updated, and zero wherever the mask is 0
    sparsegpt_half.mask, .weight    the same, the half being taken over all rows of each block of 128 columns
    hessian_diag, u_diag            f64 [in]: the diagonal of the damped H and of U, the upper Cholesky factor of H^-1

Ties: the lowest index stays. SparseGPT as its authors published it: H = (2/n) x^T x over the n tokens; a dead input
(H_cc = 0) gets H_cc = 1 and zero weights; then H += .01 * mean(diag H) * I. Blocks of 128 columns, updates within the
block at once and to the right of it after each block. One difference: their unstructured threshold prunes one entry
more than the half of a block (`<=` the entry at that rank), here it is exactly the half.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
N, M, SPARSITY, DAMPING, BLOCK = 2, 4, 0.5, 0.01, 128


def smallest(scores: np.ndarray, count: int) -> np.ndarray:
    """Marks the `count` smallest scores of the last axis; among equal ones the highest index goes first."""
    order = np.argsort(scores[..., ::-1], axis=-1, kind="stable")[..., :count]
    marks = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(marks, scores.shape[-1] - 1 - order, True, axis=-1)
    return marks


def keep_n_of_m(scores: np.ndarray) -> np.ndarray:
    rows, cols = scores.shape
    return ~smallest(scores.reshape(rows, cols // M, M), M - N).reshape(rows, cols)


def keep_half(scores: np.ndarray) -> np.ndarray:
    """Keeps the larger half of all scores taken together."""
    return ~smallest(scores.reshape(-1), int(scores.size * SPARSITY)).reshape(scores.shape)


def hessian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The damped Hessian [in, in] and which inputs are dead."""
    h = 2.0 / x.shape[0] * x.T @ x
    dead = np.diag(h) == 0
    h[dead, dead] = 1.0
    return h + DAMPING * np.mean(np.diag(h)) * np.eye(h.shape[0]), dead


def upper_of_inverse(h: np.ndarray) -> np.ndarray:
    """U, upper triangular, with U^T U = H^-1."""
    return np.linalg.cholesky(np.linalg.inv(h)).T


def sparsegpt(weight: np.ndarray, x: np.ndarray, structured: bool) -> tuple[np.ndarray, np.ndarray]:
    h, dead = hessian(x)
    u = upper_of_inverse(h)
    w = weight.copy()
    w[:, dead] = 0.0
    keep = np.ones(w.shape, dtype=bool)
    for start in range(0, w.shape[1], BLOCK):
        stop = min(start + BLOCK, w.shape[1])
        d = np.diag(u)[start:stop]
        if not structured:
            keep[:, start:stop] = keep_half((w[:, start:stop] / d) ** 2)
        errors = np.zeros((w.shape[0], stop - start))
        for c in range(start, stop):
            if structured and c % M == 0:
                group = slice(c, c + M)
                keep[:, group] = keep_n_of_m((w[:, group] / np.diag(u)[group]) ** 2)
            error = np.where(keep[:, c], 0.0, w[:, c]) / u[c, c]
            # Column c itself ends at zero where it is pruned: w - (w / U_cc) * U_cc.
            w[:, c:stop] -= np.outer(error, u[c, c:stop])
            w[~keep[:, c], c] = 0.0
            errors[:, c - start] = error
        w[:, stop:] -= errors @ u[start:stop, stop:]
    return keep, w


def inputs(rng: np.random.Generator, tokens: int, width: int, dead: list[int]) -> np.ndarray:
    """Correlated inputs with a few loud channels, as a transformer's hidden states are."""
    mix = rng.normal(size=(width // 4, width)) / (width // 4) ** 0.5
    x = rng.normal(size=(tokens, width // 4)) @ mix + 0.5 * rng.normal(size=(tokens, width)) + 0.1 * rng.normal(size=width)
    x *= np.exp(0.5 * rng.normal(size=width))
    x[:, rng.choice(width, 3, replace=False)] *= 8.0
    x[:, dead] = 0.0
    return x.astype(np.float32)


def make(name: str, seed: int, out: int, width: int, tokens: int, dead: list[int], ties: bool) -> None:
    rng = np.random.default_rng(seed)
    x32 = inputs(rng, tokens, width, dead)
    w32 = (rng.standard_t(5, size=(out, width)) / width**0.5).astype(np.float32)
    if ties:
        w32[0, 0:4] = [0.25, -0.25, 0.25, 0.25]
        w32[1, 4:8] = [0.125, 0.5, -0.125, 0.125]
        w32[2, 8:12] = 0.0
    x, w = x32.astype(np.float64), w32.astype(np.float64)
    wanda = np.abs(w) * np.linalg.norm(x, axis=0)
    h, _ = hessian(x)

    masks = {
        "magnitude_2_4": keep_n_of_m(np.abs(w)),
        "magnitude_half": keep_half(np.abs(w)),
        "wanda_2_4": keep_n_of_m(wanda),
        "wanda_half": ~smallest(wanda, int(width * SPARSITY)),
    }
    updated = {}
    for kind, structured in (("sparsegpt_2_4", True), ("sparsegpt_half", False)):
        masks[kind], updated[kind] = sparsegpt(w, x, structured)
        assert np.all(updated[kind][~masks[kind]] == 0.0)
        error = np.linalg.norm(x @ (updated[kind] - w).T) / np.linalg.norm(x @ w.T)
        bare = np.linalg.norm(x @ (masks[kind] * w - w).T) / np.linalg.norm(x @ w.T)
        print(f"{name}: {kind} output error {error:.3f}, with the same mask and no update {bare:.3f}")
        assert error < bare
    for kind in ("magnitude_2_4", "wanda_2_4", "sparsegpt_2_4"):
        assert np.all(masks[kind].reshape(out, -1, M).sum(-1) == N)

    tensors = {"weight": w32, "x": x32, "hessian_diag": np.diag(h).copy(), "u_diag": np.diag(upper_of_inverse(h)).copy()}
    tensors |= {f"{kind}.mask": mask.astype(np.uint8) for kind, mask in masks.items()}
    tensors |= {f"{kind}.weight": value.astype(np.float32) for kind, value in updated.items()}
    save_file(tensors, HERE / f"{name}.safetensors")


if __name__ == "__main__":
    make("two_blocks", seed=1, out=48, width=256, tokens=288, dead=[], ties=True)
    make("three_blocks", seed=2, out=32, width=384, tokens=400, dead=[], ties=False)
    # Fewer tokens than inputs (only the damping makes H invertible), dead inputs, a last block that is not full.
    make("rank_deficient", seed=3, out=24, width=160, tokens=96, dead=[5, 17, 130], ties=False)
