"""A training step in PyTorch, plain ("torch") or with ModelOpt's int8 quantizers ("modelopt"): one for each line on
standard input, its seconds on standard output. benches/train_step starts this and times it beside Trimwick.

    python benches/peers/train_step.py torch --tokens 512 --layers 30 < lines

transformers' Llama of SmolLM2-135M's shape, f32, eager attention off (scaled_dot_product_attention), AdamW (fused where
the build has it), gradients clipped to the norm 1.
"""

import argparse
import contextlib
import os
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=["torch", "modelopt"])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--layers", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(42)
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=args.layers, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192, rms_norm_eps=1e-5,
        rope_theta=100000, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float().train()
    ids = torch.tensor([[i * 7919 % 49152 for i in range(args.tokens)]])
    if args.contestant == "modelopt":
        import modelopt.torch.quantization as mtq

        # It prints what it registers; standard output is for seconds alone.
        with contextlib.redirect_stdout(sys.stderr):
            mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda m: m(ids))
        model.train()
    try:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    except (RuntimeError, TypeError):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, foreach=True)

    for _ in sys.stdin:
        begun = time.perf_counter()
        model(ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
