"""Golden tensors for SmoothQuant and AWQ from NVIDIA TensorRT Model Optimizer.

    pip install -r requirements-modelopt.txt   # nvidia-modelopt 0.47.0, torch 2.15.0, on the CPU
    python make_modelopt_golden.py             # rewrites modelopt.safetensors beside this file

One linear layer without a bias, weight [out, in] and inputs x [tokens, in] in two batches; every tensor is f32. What is
kept, in this repository's convention (the input is divided by the scale, ModelOpt's pre_quant_scale multiplies it):

    weight, x
    smooth_{alpha}.scale        SmoothQuant, int8 weights by row, int8 inputs by tensor, at alpha = 0, 0.5, 0.8, 1
    smooth_{alpha}.weight_amax  [out], of the scaled weight
    smooth_{alpha}.input_amax   [1], of the scaled input
    awq.scale                   awq_lite, int4 weights in groups of 32, the default steps of 0.1
    awq_w4a8.scale              the same with int8 inputs by tensor
    clip.amax                   awq_clip alone, [out, groups]; at most 64 tokens a batch, so that all are looked at
"""

from pathlib import Path

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).parent
ROWS, COLS, TOKENS, GROUP = 24, 96, 32, 32


def quantized(weight, batches, bits, block, act, algorithm):
    model = torch.nn.Sequential(torch.nn.Linear(COLS, ROWS, bias=False))
    model[0].weight.data = torch.from_numpy(weight.copy())
    w = {"num_bits": bits, "block_sizes": {-1: block, "type": "static"}} if block else {"num_bits": bits, "axis": 0}
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": w, "enable": True},
        ],
        "algorithm": algorithm,
    }
    if act:
        config["quant_cfg"].append({"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}, "enable": True})

    def forward(m):
        for x in batches:
            m(torch.from_numpy(x))

    with torch.no_grad():
        mtq.quantize(model, config, forward)
    return model[0]


def scale(layer):
    return (1.0 / layer.input_quantizer.pre_quant_scale.float()).reshape(-1).numpy().copy()


def main():
    rng = np.random.default_rng(5)
    mix = rng.normal(size=(12, COLS)) / 12**0.5
    x = rng.normal(size=(TOKENS, 12)) @ mix + 0.4 * rng.normal(size=(TOKENS, COLS))
    x *= np.exp(0.7 * rng.normal(size=COLS))
    x[:, rng.choice(COLS, 3, replace=False)] *= 12.0
    x = x.astype(np.float32)
    weight = (rng.standard_t(5, size=(ROWS, COLS)) / COLS**0.5).astype(np.float32)
    batches = [x[: TOKENS // 2], x[TOKENS // 2 :]]
    tensors = {"weight": weight, "x": x}
    for alpha in (0.0, 0.5, 0.8, 1.0):
        layer = quantized(weight, batches, 8, None, True, {"method": "smoothquant", "alpha": alpha})
        tensors[f"smooth_{alpha}.scale"] = scale(layer)
        tensors[f"smooth_{alpha}.weight_amax"] = layer.weight_quantizer.amax.reshape(-1).numpy().copy()
        tensors[f"smooth_{alpha}.input_amax"] = layer.input_quantizer.amax.reshape(-1).numpy().copy()
    tensors["awq.scale"] = scale(quantized(weight, batches, 4, GROUP, False, {"method": "awq_lite"}))
    tensors["awq_w4a8.scale"] = scale(quantized(weight, batches, 4, GROUP, True, {"method": "awq_lite"}))
    clip = {"method": "awq_clip", "max_tokens_per_batch": 64}
    layer = quantized(weight, batches, 4, GROUP, False, clip)
    tensors["clip.amax"] = layer.weight_quantizer.amax.reshape(ROWS, -1).numpy().copy()
    for name, value in tensors.items():
        print(name, value.shape, value.reshape(-1)[:4])
    # save_file writes the memory of an array, whatever its strides.
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, HERE / "modelopt.safetensors")


if __name__ == "__main__":
    main()
