"""Prints every tensor of a GGUF file, by name, as the bits of its dequantized values.

    pip install gguf==0.19.0 numpy
    python read_gguf.py model.gguf
"""

import sys

import numpy as np
from gguf import GGUFReader, quants


def main():
    for tensor in sorted(GGUFReader(sys.argv[1]).tensors, key=lambda tensor: tensor.name):
        values = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        print(tensor.name, " ".join(f"{bits:08x}" for bits in values.reshape(-1).view(np.uint32)))


if __name__ == "__main__":
    main()
