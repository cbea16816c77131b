"""Writes compressed_tensors.safetensors: a weight packed in every format by compressed-tensors, beside its values.

    pip install compressed-tensors==0.20.0 safetensors==0.8.0 numpy torch
    python make_packed_golden.py

Per case C the tensors C.<part> are what the library writes under a layer's path, and C.expected (F32) what it
dequantizes them to in float32. The weight is [80, 32], the shape of a projection of the golden model `llama2`.
"""

import pathlib

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import save_file

N, K = 80, 32
CASES = {
    "int8": ("int-quantized", dict(num_bits=8, type="int", symmetric=True, strategy="channel")),
    "int8_asym": ("int-quantized", dict(num_bits=8, type="int", symmetric=False, strategy="channel")),
    "fp8": ("float-quantized", dict(num_bits=8, type="float", symmetric=True, strategy="channel")),
    "int4": ("pack-quantized", dict(num_bits=4, type="int", symmetric=True, strategy="group", group_size=16)),
    "int4_asym": ("pack-quantized", dict(num_bits=4, type="int", symmetric=False, strategy="group", group_size=16)),
    "int3": ("pack-quantized", dict(num_bits=3, type="int", symmetric=True, strategy="group", group_size=16)),
    "nvfp4": ("nvfp4-pack-quantized", dict(num_bits=4, type="float", symmetric=True, strategy="tensor_group", group_size=16)),
    "mxfp4": ("mxfp4-pack-quantized", dict(num_bits=4, type="float", symmetric=True, strategy="group", group_size=32)),
    "mxfp8": ("mxfp8-quantized", dict(num_bits=8, type="float", symmetric=True, strategy="group", group_size=32)),
}


def scales(weight, args):
    """Scales (and zero points) of the largest magnitudes, as observers find them."""
    group = args.group_size or K
    blocks = weight.reshape(N, -1, group)
    if args.type == "float" and args.num_bits == 4 and group == 16:
        top = 6.0 * 448.0 / blocks.abs().max()
        scale = (blocks.abs().amax(-1) / 6.0 * top).to(torch.float8_e4m3fn).to(torch.float32)
        return {"weight_scale": scale, "weight_global_scale": top.reshape(1)}
    if group == 32 and args.type == "float" and args.strategy == "group":
        most = 6.0 if args.num_bits == 4 else 448.0
        return {"weight_scale": torch.exp2(torch.ceil(torch.log2(blocks.abs().amax(-1) / most)))}
    if not args.symmetric:
        low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
        scale = (high - low) / (2**args.num_bits - 1)
        zero = torch.round(-low / scale) - 2 ** (args.num_bits - 1)
        return {"weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    most = 448.0 if args.type == "float" else 2 ** (args.num_bits - 1) - 1
    return {"weight_scale": blocks.abs().amax(-1) / most}


def expected(parts, scheme, compressor):
    if scheme.format == "nvfp4-pack-quantized":
        # The library's own decompress computes FP4 in bfloat16; these are its steps in float32.
        packed = parts["weight_packed"]
        codes = unpack_fp4_from_uint8(packed, N, K, dtype=torch.float32)
        scale = parts["weight_scale"].to(torch.float32)
        return dequantize(codes, scale, args=scheme.weights, global_scale=parts["weight_global_scale"], dtype=torch.float32)
    return compressor.decompress(parts, scheme)["weight"].to(torch.float32)


def main():
    torch.manual_seed(20260711)
    out = {}
    for name, (form, args) in CASES.items():
        args = QuantizationArgs(**args)
        scheme = QuantizationScheme(targets=["Linear"], weights=args, format=form)
        compressor = BaseCompressor.get_value_from_registry(form)
        weight = torch.randn(N, K) * 0.05
        parts = compressor.compress({"weight": weight, **scales(weight, args)}, scheme)
        parts = {part: tensor.detach().contiguous() for part, tensor in parts.items()}
        values = expected(parts, scheme, compressor).detach().contiguous()
        assert (values - weight).abs().max() < 0.05, name
        out.update({f"{name}.{part}": tensor for part, tensor in parts.items()})
        out[f"{name}.expected"] = values
    path = pathlib.Path(__file__).with_name("compressed_tensors.safetensors")
    save_file(out, path)
    for key, tensor in sorted(out.items()):
        print(key, tensor.dtype, tuple(tensor.shape))


if __name__ == "__main__":
    main()
