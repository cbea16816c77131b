"""Prints architecture and vocabulary of a GGUF file, and the digest of every tensor's dequantized values.

    pip install gguf==0.19.0 numpy
    python read_gguf.py model.gguf
"""

import hashlib
import sys

import numpy as np
from gguf import GGUFReader, quants


def main():
    reader = GGUFReader(sys.argv[1])
    print(
        reader.get_field("general.architecture").contents(),
        len(reader.get_field("tokenizer.ggml.tokens").contents()),
        "tokens",
    )
    for tensor in sorted(reader.tensors, key=lambda tensor: tensor.name):
        values = quants.dequantize(tensor.data, tensor.tensor_type).astype("<f4")
        print(tensor.name, hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest())


if __name__ == "__main__":
    main()
