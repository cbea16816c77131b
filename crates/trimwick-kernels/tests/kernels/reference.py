"""Writes reference.txt: what PyTorch computes on inputs that the tests make again from a formula.

Run: python reference.py > reference.txt  (torch, transformers)
"""

import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv


def wave(n, phase, dtype=torch.float64):
    """sin(0.7·i + phase): the same inputs as `support::wave`."""
    i = torch.arange(n, dtype=torch.float64)
    return torch.sin(0.7 * i + phase).to(dtype)


def leaf(shape, phase):
    return wave(torch.Size(shape).numel(), phase).reshape(shape).requires_grad_()


def show(name, tensor):
    print(name, *(repr(v) for v in tensor.detach().double().flatten().tolist()))


def norms():
    x, w, b = leaf((3, 8), 0.1), leaf((8,), 0.2), leaf((8,), 0.3)
    y = F.layer_norm(x, (8,), w, b, 1e-5)
    y.backward(wave(24, 0.4).reshape(3, 8))
    for name, t in [("y", y), ("dx", x.grad), ("dw", w.grad), ("db", b.grad)]:
        show(f"layer_norm.{name}", t)
    x, w = leaf((3, 8), 0.1), leaf((8,), 0.2)
    y = F.rms_norm(x, (8,), w, 1e-5)
    y.backward(wave(24, 0.4).reshape(3, 8))
    for name, t in [("y", y), ("dx", x.grad), ("dw", w.grad)]:
        show(f"rms_norm.{name}", t)


def losses():
    s, t = leaf((4, 6), 0.1), wave(24, 0.9).reshape(4, 6)
    targets = torch.tensor([5, 0, -100, 2])
    loss = F.cross_entropy(3 * s, targets, ignore_index=-100, reduction="none")
    loss.backward(wave(4, 0.4))
    show("cross_entropy.loss", loss)
    show("cross_entropy.dlogits", s.grad / 3)
    s.grad = None
    log_q, p = F.log_softmax(s / 2.5, -1), F.softmax(t / 2.5, -1)
    loss = F.kl_div(log_q, p, reduction="none").sum(-1)
    loss.backward(wave(4, 0.4))
    show("kl.loss", loss)
    show("kl.dstudent", s.grad)


def rotary():
    b, t, h, d = 2, 3, 2, 4
    x = wave(b * t * h * d, 0.1).reshape(b, t, h, d).transpose(1, 2)
    angle = wave(t * d // 2, 0.5).reshape(t, d // 2)
    angle = torch.cat([angle, angle], -1)[None]
    y, _ = apply_rotary_pos_emb(x, x, angle.cos(), angle.sin())
    show("rope", y.transpose(1, 2))


def attention():
    b, tq, tk, h, hkv, d, window = 2, 3, 5, 4, 2, 4, 3
    q, k, v = leaf((b, tq, h, d), 0.1), leaf((b, tk, hkv, d), 0.2), leaf((b, tk, hkv, d), 0.3)
    for name, w in [("full", tk), ("window", window)]:
        pos = torch.arange(tq)[:, None] + tk - tq
        key = torch.arange(tk)[None]
        mask = (key <= pos) & (key > pos - w)
        heads = [repeat_kv(x.transpose(1, 2), h // hkv) for x in (k, v)]
        o = F.scaled_dot_product_attention(q.transpose(1, 2), *heads, attn_mask=mask).transpose(1, 2)
        grads = torch.autograd.grad(o, (q, k, v), wave(q.numel(), 0.4).reshape(q.shape))
        show(f"attention.{name}.out", o)
        for n, g in zip(("dq", "dk", "dv"), grads):
            show(f"attention.{name}.{n}", g)


def adamw():
    w = torch.nn.Parameter(wave(10, 0.1, torch.float32))
    opt = torch.optim.AdamW([w], lr=3e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
    for step in range(1, 6):
        w.grad = wave(10, step, torch.float32) * 0.5
        opt.step()
    state = opt.state[w]
    for name, t in [("w", w), ("m", state["exp_avg"]), ("v", state["exp_avg_sq"])]:
        show(f"adamw.{name}", t)


def swiglu():
    gate, up = leaf((12,), 0.1), leaf((12,), 0.2)
    y = F.silu(4 * gate) * up
    y.backward(wave(12, 0.4))
    for name, t in [("y", y), ("dgate", gate.grad / 4), ("dup", up.grad)]:
        show(f"swiglu.{name}", t)


for part in (norms, losses, rotary, attention, adamw, swiglu):
    part()
