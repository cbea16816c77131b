"""Prints the digest of every weight of compressed-tensors folders, decompressed by the library itself.

    pip install compressed-tensors==0.20.0 safetensors numpy torch
    python read_compressed_tensors.py FOLDER...
"""

import hashlib
import json
import pathlib
import sys

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file


def weight(compressor, parts, scheme):
    if scheme.format != "nvfp4-pack-quantized":
        return compressor.decompress(parts, scheme)["weight"]
    # The library's own decompress computes NVFP4 in bfloat16; these are its steps in float32.
    packed = parts["weight_packed"]
    return dequantize(
        x_q=unpack_fp4_from_uint8(packed, packed.shape[0], 2 * packed.shape[1], dtype=torch.float32),
        scale=parts["weight_scale"].to(torch.float32),
        args=scheme.weights,
        global_scale=parts["weight_global_scale"],
        dtype=torch.float32,
    )


def main():
    for folder in map(pathlib.Path, sys.argv[1:]):
        table = json.loads((folder / "config.json").read_text())["quantization_config"]
        config = QuantizationConfig.model_validate(table)
        (scheme,) = config.config_groups.values()
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        layers = {}
        for name, tensor in load_file(folder / "model.safetensors").items():
            path, _, part = name.rpartition(".")
            if "_proj" in path:
                layers.setdefault(path, {})[part] = tensor
        for path, parts in sorted(layers.items()):
            values = weight(compressor, parts, scheme).detach().to(torch.float32).contiguous()
            digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
            print(f"{path}.weight {digest}")


if __name__ == "__main__":
    main()
