"""What a model in transformers and one in llama.cpp say of some tokens, how far apart they are, and the table of it."""

import json
import math
import pathlib
import subprocess

import torch


@torch.no_grad()
def logits(model, windows):
    """Of each window, without gradients."""
    return [model(window[None]).logits[0].float() for window in windows]


def perplexity(rows, windows):
    """Of all tokens but the first of each window, as Trimwick measures it."""
    losses = [torch.nn.functional.cross_entropy(row[:-1].double(), window[1:]) for row, window in zip(rows, windows)]
    return math.exp(sum(losses) / len(losses))


def divergence(ours, theirs):
    """Mean KL in nats of theirs from ours, at how many places the best token is the same, and by how much
    ours leads at the others."""
    total, same, places, lead = 0.0, 0, 0, 0.0
    for p, q in zip(ours, theirs):
        behind = p.max(-1).values - p.gather(-1, q.argmax(-1, keepdim=True))[:, 0]
        same += (behind == 0).sum().item()
        places += len(p)
        lead = max(lead, behind.max().item())
        p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
        total += (p.exp() * (p - q)).sum().item()
    return total / places, f"{same}/{places}" + (f", leads ≤ {lead:.2f}" if lead else "")


def other_bits(reference, state, dense):
    """How many weights of the reference, matrices rounded to `dense`, have other bits in a client."""
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dense]
    other = 0
    for name, ours in reference.state_dict().items():
        ours = ours.to(dtype).float() if ours.ndim > 1 else ours
        other += (ours.view(torch.int32) != state[name].contiguous().view(torch.int32)).sum().item()
    return other


def llama_cpp(clients, export, text, ids, run):
    """llama.cpp's logits after each of `ids`; its own ids of the text have to be the same."""
    (run / "text.txt").write_text(text)
    (run / "ids.json").write_text(json.dumps(ids.tolist()))
    script = pathlib.Path(__file__).with_name("llama_cpp.mjs")
    files = [export, run / "text.txt", run / "ids.json", run / "logits.f32"]
    done = subprocess.run(["node", script, clients, *files], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"llama.cpp: {done.stderr.strip()[-400:]}")
    if json.loads(done.stdout.splitlines()[-1]) != ids.tolist():
        raise RuntimeError("llama.cpp: other ids of the text")
    return [torch.frombuffer(bytearray((run / "logits.f32").read_bytes()), dtype=torch.float32).reshape(len(ids), -1)]


class Table:
    """Rows as they are found, and what failed."""

    def __init__(self):
        self.rows, self.failed = [], 0

    def add(self, *cells, ok=True):
        self.rows.append([str(cell) for cell in cells] + ["yes" if ok else "NO"])
        self.failed += not ok
        print(" | ".join(self.rows[-1]), flush=True)

    def write(self):
        heads = ["case", "target", "size", "client", "KL", "same best", "other bits", "perplexity: Trimwick / client", "ok"]
        for row in [heads, ["---"] * len(heads), *self.rows]:
            print("| " + " | ".join(row) + " |")
