"""What PyTorch transformers makes of SmolLM2-135M-Instruct: perplexity of the dense model and after magnitude 2:4.

    pip install -r requirements.txt
    benches/fetch/smollm2.sh && benches/fetch/sotu.sh
    python benches/peers/smollm2_reference.py [--data data] [--tokens DIR] [--threads 2]

The protocol: f32, the .txt files of the State of the Union addresses in the order of their names, held-out = years from
2009 on joined by a blank line, no special tokens, the first 12 288 tokens, windows of 512, tokens 2 ... 512 of each
scored from the ones before them, perplexity = exp(mean loss). Pruning keeps the two largest |w| of every four along the
inputs, in every linear layer of the decoder blocks.

Which of equal magnitudes stays is part of the result: weights that were 4-bit have many (in 15 % of the groups the
second and the third are equal), and the perplexity nearly doubles with that choice alone. So there are two
arms: the lowest index stays, which is Trimwick's rule, and whatever `torch.topk` picks on the CPU, which leaves the
choice to its implementation.

With --tokens it leaves there what a comparison needs: heldout and train (years 1900-2008) as .txt, as token ids in .npy
(u32) and .bin (u32, little-endian), and dense_window_losses.json with the mean loss of each of the 24 windows.
"""

import argparse
import json
import math
import time
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT, TOKENS = 512, 12_288


def tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer in the GGUF's metadata: byte-level BPE behind the pre-tokenizer `smollm` (single digits, then GPT-2's).

    Built here because transformers does not read `tokenizer.ggml.pre` and leaves the digits step out. On all of these
    texts its ids are the same nevertheless.
    """
    fields = gguf.GGUFReader(path).fields
    get = lambda key: fields[f"tokenizer.ggml.{key}"].contents()
    assert (get("model"), get("pre")) == ("gpt2", "smollm")
    vocab = {token: i for i, token in enumerate(get("tokens"))}
    merges = [tuple(merge.split(" ")) for merge in get("merges")]
    tokenizer = Tokenizer(BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def texts(folder: Path, first: int, last: int) -> str:
    files = sorted(p for p in folder.glob("*.txt") if first <= int(p.name[:4]) <= last)
    return "\n\n".join(p.read_bytes().decode() for p in files)


@torch.no_grad()
def window_losses(model: torch.nn.Module, ids: np.ndarray) -> list[float]:
    """Mean loss of each window of 512, in nats per scored token."""
    losses = []
    for window in torch.from_numpy(ids[:TOKENS].astype(np.int64)).split(CONTEXT):
        logits = model(window[None]).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1].double(), window[1:]).item())
    return losses


def lowest_index(magnitudes: torch.Tensor) -> torch.Tensor:
    """The two largest of each row; a stable descending sort leaves equal ones in the order of their indices."""
    return magnitudes.sort(dim=1, descending=True, stable=True).indices[:, :2]


def topk(magnitudes: torch.Tensor) -> torch.Tensor:
    return magnitudes.topk(2, dim=1).indices


def magnitude_2_4(weight: torch.Tensor, choose) -> torch.Tensor:
    groups = weight.reshape(-1, 4)
    kept = choose(groups.abs())
    return torch.where(torch.zeros_like(groups, dtype=torch.bool).scatter(1, kept, True), groups, 0.0).reshape(weight.shape)


def report(arm: str, losses: list[float], seconds: float) -> None:
    loss = sum(losses) / len(losses)
    print(f"{arm:18} loss {loss:.6f}  perplexity {math.exp(loss):.4f}  ({seconds:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="where the fetch scripts put things")
    parser.add_argument("--tokens", type=Path, help="also write texts, token ids and window losses into this folder")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = tokenizer_of(args.data / "smollm2" / GGUF)
    ids = {}
    for name, first, last in (("heldout", 2009, 9999), ("train", 1900, 2008)):
        text = texts(args.data / "sotu", first, last)
        ids[name] = np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype="<u4")
        assert tokenizer.decode(ids[name].tolist()) == text
        print(f"{name}: {len(text.encode())} bytes, {len(ids[name])} tokens")
        if args.tokens:
            args.tokens.mkdir(parents=True, exist_ok=True)
            (args.tokens / f"{name}.txt").write_bytes(text.encode())
            (args.tokens / f"{name}.bin").write_bytes(ids[name].tobytes())
            np.save(args.tokens / f"{name}.npy", ids[name])

    model = AutoModelForCausalLM.from_pretrained(args.data / "smollm2", gguf_file=GGUF, dtype=torch.float32).eval()
    start = time.monotonic()
    dense = window_losses(model, ids["heldout"])
    report("dense", dense, time.monotonic() - start)
    if args.tokens:
        (args.tokens / "dense_window_losses.json").write_text(json.dumps(dense, indent=1) + "\n")

    linears = [m for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    weights = [linear.weight.data for linear in linears]
    for arm, choose in (("2:4, lowest index", lowest_index), ("2:4, torch.topk", topk)):
        for linear, weight in zip(linears, weights):
            linear.weight.data = magnitude_2_4(weight, choose)
        start = time.monotonic()
        report(arm, window_losses(model, ids["heldout"]), time.monotonic() - start)


if __name__ == "__main__":
    main()
