"""Writes gguf_blocks.gguf: blocks of every type that is read, beside what ggml's Python reference makes of them.

    pip install gguf==0.19.0 numpy
    python gguf_blocks.py

Per type two tensors: T holds the blocks, T.expected (F32) their values by gguf.quants.dequantize. The first rows have
ordinary scales and random quanta; the others pair every scale a half can take to excess (zeros of both signs,
subnormals, the largest, infinities, NaN) with quanta of all zeros, all ones and random bits. The metadata holds a
value of every type, and serves as the sample of a foreign writer.
"""

import pathlib

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, quants

# type -> (values per block, bytes per block, where its half-precision scales stand)
TYPES = {
    "F16": (1, 2, [0]),
    "BF16": (1, 2, []),
    "Q4_0": (32, 18, [0]),
    "Q4_1": (32, 20, [0, 2]),
    "Q5_0": (32, 22, [0]),
    "Q5_1": (32, 24, [0, 2]),
    "Q8_0": (32, 34, [0]),
    "Q4_K": (256, 144, [0, 2]),
    "Q5_K": (256, 176, [0, 2]),
    "Q6_K": (256, 210, [208]),
    "MXFP4": (32, 17, []),
    "NVFP4": (64, 36, []),
}
# type -> how many bytes in front are scales of their own
BYTE_SCALES = {"MXFP4": 1, "NVFP4": 4}
EXTREMES = np.array(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00],
    dtype=np.uint16,
)


def halves(blocks, at, bits):
    blocks[:, at : at + 2] = np.ascontiguousarray(bits, dtype="<u2").view(np.uint8).reshape(-1, 2)


def ordinary(rng, count, size, scales):
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in scales:
        halves(blocks, at, rng.normal(0, 0.05, count).astype(np.float16).view(np.uint16))
    return blocks


def adversarial(rng, size, scales):
    out = []
    for fill in (0x00, 0xFF, None):
        for first in EXTREMES:
            for second in (EXTREMES if len(scales) > 1 else [0]):
                block = rng.integers(0, 256, (1, size), dtype=np.uint8)
                if fill is not None:
                    block[:] = fill
                for at, bits in zip(scales, (first, second)):
                    halves(block, at, [bits])
                out.append(block)
    return np.concatenate(out)


def blocks_of(rng, name):
    length, size, scales = TYPES[name]
    if length == 1:
        # Every 47th bit pattern, and the extremes.
        bits = np.concatenate([np.arange(0, 1 << 16, 47, dtype=np.uint16), EXTREMES])
        bits = bits[: len(bits) // 2 * 2]
        return bits.astype("<u2").view(np.uint8).reshape(2, -1)
    if name in BYTE_SCALES:
        # Every scale there is, with random quanta.
        scales = np.arange(256, dtype=np.uint8).reshape(-1, BYTE_SCALES[name])
        blocks = rng.integers(0, 256, (len(scales), size), dtype=np.uint8)
        blocks[:, : BYTE_SCALES[name]] = scales
        return blocks.reshape(-1, 2 * size)
    # With two scales there are 13² pairs: every fifth (a prime to 13) keeps all sorts and keeps the file small.
    hostile = adversarial(rng, size, scales)[:: (1 if len(scales) == 1 else 5 if length == 32 else 11)]
    blocks = np.concatenate([ordinary(rng, 12, size, scales), hostile])
    # Rows of two blocks.
    return blocks[: len(blocks) // 2 * 2].reshape(-1, 2 * size)


def main():
    rng = np.random.default_rng(20240607)
    path = pathlib.Path(__file__).with_name("gguf_blocks.gguf")
    writer = GGUFWriter(path, "test")
    writer.add_uint8("v.u8", 255)
    writer.add_int8("v.i8", -128)
    writer.add_uint16("v.u16", 65535)
    writer.add_int16("v.i16", -32768)
    writer.add_uint32("v.u32", 4294967295)
    writer.add_int32("v.i32", -2147483648)
    writer.add_float32("v.f32", 1.5)
    writer.add_bool("v.true", True)
    writer.add_bool("v.false", False)
    writer.add_string("v.string", "Grüße, 世界")
    writer.add_uint64("v.u64", 18446744073709551615)
    writer.add_int64("v.i64", -9223372036854775808)
    writer.add_float64("v.f64", -0.1)
    writer.add_array("v.strings", ["", "Ġthe", "\n"])
    writer.add_array("v.i32s", [-1, 0, 2147483647])
    writer.add_array("v.f32s", [0.25, -1000.0])
    writer.add_array("v.bools", [True, False])
    writer.add_key_value("v.u8s", b"\x00\x7f\xff", GGUFValueType.ARRAY, GGUFValueType.UINT8)
    for name in TYPES:
        dtype = GGMLQuantizationType[name]
        raw = blocks_of(rng, name)
        with np.errstate(all="ignore"):
            values = quants.dequantize(raw, dtype).astype(np.float32)
        writer.add_tensor(name, raw, raw_dtype=dtype)
        writer.add_tensor(name + ".expected", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
