"""SparseGPT 2:4 of SmolLM2-135M-Instruct in PyTorch and in Trimwick, in turns: seconds and perplexities.

    pip install -r requirements.txt
    benches/fetch/smollm2.sh && benches/fetch/sotu.sh && cargo build --release
    python benches/peers/sparsegpt.py [--data data] [--rounds 2] [--threads 2] [--windows 32] [--trimwick target/release/trimwick]

The PyTorch side is the algorithm as published (arXiv 2301.00774): for each block the Hessians of its linear layers over the
calibration windows, damped by 1 % of their mean diagonal; columns in blocks of 128, of every four columns the two with the least
w² / [H⁻¹]² go, their error moves to the columns behind; then the block's outputs, pruned, are the inputs of the next. Windows are
the first ones of 1900 to 2008 in the order of the text; Trimwick draws its own. Times are those of pruning alone, of the least
round; the share of the machine that was idle is printed beside each.
"""

import re
import subprocess
import tempfile
import time

import numpy as np
import torch
from machine import calibrated, idle, share
from smollm2_reference import CONTEXT, GGUF, report, texts, tokenizer_of, window_losses
from transformers import AutoModelForCausalLM

RECIPE = "configs/smollm2/sparse24_recover.toml"
BLOCK, DAMPING = 128, 0.01


class Stop(Exception):
    """Ends a forward pass at the first block."""


def first_inputs(model, windows):
    """What the first block is given for each window, and the arguments beside it."""
    caught, beside = [], {}

    def catch(_module, args, kwargs):
        caught.append(args[0])
        beside.update(kwargs)
        raise Stop

    hook = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for window in windows:
        try:
            model(window[None], use_cache=False)
        except Stop:
            pass
    hook.remove()
    return caught, beside


def through(block, hidden, beside):
    out = block(hidden, **beside)
    return out[0] if isinstance(out, tuple) else out


def prune(weight, hessian):
    """Prunes `[out, in]` in place, 2 of every 4 inputs."""
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    weight[:, dead] = 0
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    columns = weight.shape[1]
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        part, errors = weight[:, start:end].clone(), torch.zeros(weight.shape[0], end - start)
        corner = factor[start:end, start:end]
        gone = torch.zeros_like(part, dtype=torch.bool)
        for i in range(end - start):
            if i % 4 == 0:
                scores = part[:, i : i + 4] ** 2 / corner.diagonal()[i : i + 4] ** 2
                gone.scatter_(1, i + scores.topk(2, dim=1, largest=False).indices, True)
            column = part[:, i].clone()
            kept = torch.where(gone[:, i], 0.0, column)
            error = (column - kept) / corner[i, i]
            part[:, i:] -= error[:, None] * corner[i, i:][None]
            part[:, i] = kept
            errors[:, i] = error
        weight[:, start:end] = part
        weight[:, end:] -= errors @ factor[start:end, end:]


@torch.no_grad()
def sparsegpt(model, windows):
    hidden, beside = first_inputs(model, windows)
    for block in model.model.layers:
        layers = [m for m in block.modules() if isinstance(m, torch.nn.Linear)]
        hessians = [torch.zeros(m.in_features, m.in_features) for m in layers]
        seen = [0] * len(layers)

        def gather(at):
            def hook(_module, args, _out):
                x = args[0].reshape(-1, args[0].shape[-1])
                hessians[at].mul_(seen[at] / (seen[at] + len(x)))
                seen[at] += len(x)
                x = x * (2 / seen[at]) ** 0.5
                hessians[at].addmm_(x.T, x)

            return hook

        hooks = [m.register_forward_hook(gather(i)) for i, m in enumerate(layers)]
        for states in hidden:
            through(block, states, beside)
        for hook in hooks:
            hook.remove()
        for layer, hessian in zip(layers, hessians):
            prune(layer.weight.data, hessian)
        hidden = [through(block, states, beside) for states in hidden]


def timed(run):
    before, start = idle(), time.monotonic()
    found = run()
    seconds, after = time.monotonic() - start, idle()
    return found or seconds, share(before, after)


def ours(args, out):
    """Seconds that Trimwick says pruning took, and its perplexity."""
    command = [args.trimwick, "run", RECIPE, "train=", "distill=", "blockwise=", "compare.arms=[]", "--out", out]
    command.append(f"calibration.windows={args.windows}")
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = re.search(r"pruned in ([\d.]+) s", ran.stderr)
    perplexity = re.search(r"^pruned: .*perplexity ([\d.]+)", ran.stderr, re.M)
    return float(seconds[1]), float(perplexity[1])


def main():
    parser = calibrated(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = tokenizer_of(args.data / "smollm2" / GGUF)
    ids = lambda first, last: np.array(
        tokenizer.encode(texts(args.data / "sotu", first, last), add_special_tokens=False).ids
    )
    windows = torch.from_numpy(ids(1900, 2008)).split(CONTEXT)[: args.windows]
    held_out = ids(2009, 9999)
    best = {"torch": float("inf"), "trimwick": float("inf")}
    for turn in range(args.rounds):
        model = AutoModelForCausalLM.from_pretrained(args.data / "smollm2", gguf_file=GGUF, dtype=torch.float32).eval()
        seconds, free = timed(lambda: sparsegpt(model, windows))
        best["torch"] = min(best["torch"], seconds)
        print(f"torch: pruned in {seconds:.1f} s, {free:.0%} idle")
        if turn == 0:
            report("torch, pruned", window_losses(model, held_out), seconds)
        del model
        with tempfile.TemporaryDirectory() as out:
            (seconds, perplexity), free = timed(lambda: ours(args, f"{out}/run"))
        best["trimwick"] = min(best["trimwick"], seconds)
        print(f"trimwick: pruned in {seconds:.1f} s, perplexity {perplexity}, {free:.0%} idle", flush=True)
    print(f"torch takes {best['torch'] / best['trimwick']:.2f} times as long")


if __name__ == "__main__":
    main()
