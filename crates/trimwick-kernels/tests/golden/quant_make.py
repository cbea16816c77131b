"""Golden tensors for the quantization grids: what other libraries make of two small weights, on the CPU.

    pip install -r quant_requirements.txt   # nvidia-modelopt 0.47.0, torchao 0.18.0, compressed-tensors 0.20.0
    python quant_make.py                    # rewrites quant.safetensors beside this file

The file holds the inputs, f32:

    weight    [16, 256]  normal values, rows of different sizes, one outlier, a row of one sign, a row of 2:4 zeros
    awkward   [12, 256]  ties of integer and float grids, a constant row, powers of two, values down to 1e-30, large and
                         small blocks side by side, and blocks of nothing but zeros

and for each case `LIBRARY.WHAT` (the comments below say which function of the library):

    .codes    u8, one for each element: integers as two's complement, floats as their bits in the low bits of a byte
    .scales   f32, the effective scale of each block: what a code is multiplied by
    .zeros    f32, zero points (asymmetric cases)
    .y        f32, what the library dequantizes to; absent where it is, bit for bit, the product (code - zero) * scale in
              f32 (this script checks that)
    .global   f32 [1], the scale of the tensor (NVFP4)

`reference.WHAT` is made by this script alone, in numpy: exact rational arithmetic for scales (fractions.Fraction), a
search over every value of a code for rounding, f32 for the quotient x / s and the product q * s, as Trimwick defines
them. Which cases agree exactly, which do not, and why: golden_quant.rs.
"""

from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
import warnings

import numpy as np
import torch
from safetensors.numpy import save_file

warnings.filterwarnings("ignore")

from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from modelopt.torch.quantization import tensor_quant
from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor
from modelopt.torch.quantization.qtensor.int4_tensor import INT4QTensor
from modelopt.torch.quantization.qtensor.int8_tensor import INT8QTensor
from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor
from modelopt.torch.quantization.qtensor.mxfp8_tensor import MXFP8QTensor
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from torchao.prototype.mx_formats import mx_tensor, nvfp4_tensor
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.constants import DTYPE_FP6_E2M3, DTYPE_FP6_E3M2
from torchao.quantization import quant_primitives as ao

PINNED = {
    "compressed-tensors": "0.20.0",
    "numpy": "2.4.6",
    "nvidia-modelopt": "0.47.0",
    "torchao": "0.18.0",
}
for package, pinned in PINNED.items():
    assert version(package) == pinned, f"{package} {version(package)}, expected {pinned}"

HERE = Path(__file__).parent
COLS = 256
OUT: dict[str, np.ndarray] = {}


def weight() -> np.ndarray:
    rng = np.random.default_rng(20240917)
    w = rng.standard_normal((16, COLS)) * np.geomspace(0.002, 0.5, 16)[:, None]
    w[3, 100] = 40.0  # an outlier
    w[5] = np.abs(w[5])
    w[6] = -np.abs(w[6])
    w[8].reshape(-1, 4)[:, [0, 3]] = 0.0  # two of four
    return w.astype(np.float32)


def awkward() -> np.ndarray:
    rng = np.random.default_rng(77)
    x = np.zeros((12, COLS))
    i = np.arange(COLS)
    # Halves up to 127: ties of int8 with a scale of 1, in each block of any length with 127 in it.
    x[0] = (i % 64) * 0.5 * np.where(i % 3 == 0, -1, 1)
    x[0, ::16] = 127.0
    # Halves up to 7 and quarters up to 6: ties of int4 and E2M1.
    x[1] = (i % 15) * 0.5 * np.where(i % 5 == 0, -1, 1)
    x[1, ::16] = 7.0
    x[2] = (i % 25) * 0.25 * np.where(i % 7 == 0, -1, 1)
    x[2, ::16] = 6.0
    x[3] = 0.1
    x[4] = 2.0 ** rng.integers(-20, 20, COLS) * rng.choice([-1.0, 1.0], COLS)
    x[5] = rng.standard_normal(COLS) * 10.0 ** rng.uniform(-30, 0, COLS)
    # Blocks of 16 from tiny to large.
    x[6] = rng.standard_normal(COLS) * np.repeat(10.0 ** rng.uniform(-6, 3, COLS // 16), 16)
    # Sixteenths up to 448: ties of E4M3 with a scale of 1.
    ties = [448, 17, 19, 21, 2.125, 2.375, 1.0625, 2.0**-10, -3 * 2.0**-10, 27, -29, 0.5, 3.25, 208, -216, 232]
    x[7] = np.tile(ties, 16)
    # Half a row of zeros, of both signs; then a whole row.
    x[8] = rng.standard_normal(COLS)
    x[8, :128] = 0.0
    x[8, 64:96] = -0.0
    x[10] = rng.standard_normal(COLS) * 1e-4
    x[11] = rng.standard_normal(COLS) * 1e4
    return x.astype(np.float32)


INPUTS = {"weight": weight(), "awkward": awkward()}
OUT.update(INPUTS)


def t(name: str) -> torch.Tensor:
    return torch.from_numpy(INPUTS[name].copy())


def put(case: str, table: str, codes, scales, y, zeros=None, glob=None) -> None:
    def array(v, dtype):
        v = v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v)
        return np.ascontiguousarray(v.astype(dtype)).reshape(-1)

    codes, scales, y = array(codes, np.uint8), array(scales, np.float32), array(y, np.float32)
    OUT[f"{case}.codes"], OUT[f"{case}.scales"] = codes, scales
    steps = value(table, codes).astype(np.float32)
    blocks = steps.reshape(len(scales), -1)
    if zeros is not None:
        blocks = blocks - array(zeros, np.float32)[:, None]
    if not np.array_equal((blocks * scales[:, None]).reshape(-1), y):
        OUT[f"{case}.y"] = y
    if zeros is not None:
        OUT[f"{case}.zeros"] = array(zeros, np.float32)
    if glob is not None:
        OUT[f"{case}.global"] = array(glob, np.float32)


def signed(q: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers as two's complement in the low bits of a byte."""
    return (q.to(torch.int32) & (2**bits - 1)).to(torch.uint8)


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Codes of bytes that hold the even element in the low nibble."""
    packed = packed.view(torch.uint8)
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)



def modelopt(name: str) -> None:
    def case(what: str) -> str:
        return f"modelopt.{what}.{name}"

    # qtensor/int8_tensor.py: what `mtq.compress` and the export store. Zero rows are 0 / 0 there: they go in `weight` alone.
    if name == "weight":
        for what, axis, blocks in [("int8_tensor", None, None), ("int8_channel", 0, None), ("int8_g64", None, {-1: 64})]:
            q, s = INT8QTensor.quantize(t(name), axis=axis, block_sizes=blocks)
            y = q.dequantize(torch.float32, scale=s, block_sizes=blocks)
            put(case(what), "INT8", signed(q._quantized_data, 8), s, y)
    # qtensor/fp8_tensor.py.
    for what, axis in [("fp8_tensor", None), ("fp8_channel", 0)]:
        q, s = FP8QTensor.quantize(t(name), axis=axis)
        put(case(what), "E4M3", q._quantized_data.view(torch.uint8), s, q.dequantize(torch.float32, scale=s))
    # qtensor/int4_tensor.py: scales are 7 / amax there, and x is multiplied by them.
    for group in [32, 64, 128]:
        q, s = INT4QTensor.quantize(t(name), group)
        packed = q._quantized_data
        codes = torch.stack([packed >> 4, packed & 15], dim=-1).flatten(-2).to(torch.int32) - 8
        y = q.dequantize(torch.float32, scale=s, block_sizes={-1: group})
        put(case(f"int4_g{group}"), "INT4", signed(codes, 4), 1.0 / s, y)
    # tensor_quant.py, the fake quantizer of QAT on the CPU: x * (bound / amax), and divided by that.
    for what, bits, group in [("fake_int8_channel", 8, COLS), ("fake_int4_g32", 4, 32), ("fake_int4_g128", 4, 128)]:
        x = t(name).view(-1, group)
        amax = x.abs().amax(1, keepdim=True)
        y = tensor_quant._tensor_quant(x, amax, num_bits=bits, narrow_range=False)
        bound = torch.tensor(2.0 ** (bits - 1) - 1)  # a tensor, as there: `7.0 / x` would be x.reciprocal() * 7
        inverse = torch.where(amax > 0, bound / amax, torch.ones_like(amax))
        put(case(what), f"INT{bits}", signed((y * inverse).round(), bits), 1.0 / inverse, y)
    x = t(name)
    amax = x.abs().amax(1, keepdim=True)
    y = tensor_quant.fp8_eager(x, amax)
    inverse = torch.where(amax > 2.0**-24, 448.0 / amax, torch.full_like(amax, 448.0))
    put(case("fake_fp8_channel"), "E4M3", (y * inverse).to(torch.float8_e4m3fn).view(torch.uint8), 1.0 / inverse, y)
    # qtensor/nvfp4_tensor.py: the export path.
    q, s, s2 = NVFP4QTensor.quantize(t(name), 16)
    effective = s.to(torch.float32) * s2
    codes = nibbles(q._quantized_data)
    y = q.dequantize(torch.float32, fast=False, scale=s, double_scale=s2, block_sizes={-1: 16})
    put(case("nvfp4"), "E2M1", codes, effective, y, glob=s2.reshape(1))
    # qtensor/mxfp4_tensor.py and mxfp8_tensor.py.
    q, e = MXFP4QTensor.quantize(t(name), 32)
    y = q.dequantize(torch.float32, scale=e, block_sizes={-1: 32})
    put(case("mxfp4"), "E2M1", nibbles(q._quantized_data), torch.exp2(e.float() - 127), y)
    q, e = MXFP8QTensor.quantize(t(name))
    y = q.dequantize(torch.float32, scale=e)
    put(case("mxfp8"), "E4M3", q._quantized_data.view(torch.uint8), torch.exp2(e.float() - 127), y)



def torchao(name: str) -> None:
    def case(what: str) -> str:
        return f"torchao.{what}.{name}"

    x = t(name)
    # quant_primitives.py, as the fake quantizers of torchao.quantization.qat call it.
    for what, mapping, qmin, qmax, block in [
        ("int8_channel", ao.MappingType.SYMMETRIC, -127, 127, (1, COLS)),
        ("int8_wide_channel", ao.MappingType.SYMMETRIC, -128, 127, (1, COLS)),
        ("int8_tensor", ao.MappingType.SYMMETRIC, -127, 127, tuple(x.shape)),
        ("int4_g32", ao.MappingType.SYMMETRIC, -8, 7, (1, 32)),
        ("int4_g64", ao.MappingType.SYMMETRIC, -8, 7, (1, 64)),
        ("int4_g128", ao.MappingType.SYMMETRIC, -8, 7, (1, 128)),
        ("uint4_g32", ao.MappingType.ASYMMETRIC, 0, 15, (1, 32)),
        ("uint8_channel", ao.MappingType.ASYMMETRIC, 0, 255, (1, COLS)),
    ]:
        s, z = ao.choose_qparams_affine(
            x, mapping, block, torch.int32, qmin, qmax, scale_dtype=torch.float32, zero_point_dtype=torch.int32
        )
        q, y = ao._do_fake_quantize_affine(x, block, s, z, torch.int32, qmin, qmax)
        symmetric = qmin < 0
        bits = 4 if qmax < 16 else 8
        codes = signed(q, bits) if symmetric else q
        put(case(what), f"INT{bits}" if symmetric else "UINT8", codes, s, y, zeros=None if symmetric else z)
    for what, dtype, block in [
        ("fp8_tensor", torch.float8_e4m3fn, tuple(x.shape)),
        ("fp8_channel", torch.float8_e4m3fn, (1, COLS)),
        ("fp8_e5m2_channel", torch.float8_e5m2, (1, COLS)),
    ]:
        s = ao._choose_scale_float8(x, block, dtype)
        q = ao._quantize_affine_float8(x, s, dtype)
        table = "E5M2" if dtype == torch.float8_e5m2 else "E4M3"
        put(case(what), table, q.to(dtype).view(torch.uint8), s, ao._dequantize_affine_float8(q, s))
    # prototype/mx_formats: the rule of the specification (FLOOR), and the one of cuBLAS, which is ours (RCEIL).
    for what, table, dtype in [
        ("mxfp4", "E2M1", torch.float4_e2m1fn_x2),
        ("mxfp6_e2m3", "E2M3", DTYPE_FP6_E2M3),
        ("mxfp6_e3m2", "E3M2", DTYPE_FP6_E3M2),
        ("mxfp8", "E4M3", torch.float8_e4m3fn),
        ("mxfp8_e5m2", "E5M2", torch.float8_e5m2),
    ]:
        for rule, mode in [("ceil", ScaleCalculationMode.RCEIL), ("floor", ScaleCalculationMode.FLOOR)]:
            e, q = mx_tensor.to_mx(x, dtype, 32, mode)
            y = mx_tensor.to_dtype(q, e, dtype, 32, torch.float32)
            codes = nibbles(q) if what == "mxfp4" else q.view(torch.uint8)
            put(case(f"{what}_{rule}"), table, codes, mx_tensor.get_fp_scale(e), y)
    g = nvfp4_tensor.per_tensor_amax_to_scale(x.abs().amax())
    s, q = nvfp4_tensor.nvfp4_quantize(x, 16, g)
    codes = nibbles(q)
    effective = s.to(torch.float32) * g
    y = mx_tensor.f4_unpacked_to_f32(codes) * effective.repeat_interleave(16, dim=-1)
    put(case("nvfp4"), "E2M1", codes, effective, y, glob=g.reshape(1))



def compressed_tensors(name: str) -> None:
    def case(what: str) -> str:
        return f"compressed_tensors.{what}.{name}"

    x = t(name)

    def ranges(args: QuantizationArgs):
        group = args.group_size or (x.numel() if args.strategy == "tensor" else COLS)
        blocks = x.reshape(-1, group)
        shape = (1,) if args.strategy == "tensor" else (x.shape[0], COLS // group)
        return blocks.amin(1).view(shape), blocks.amax(1).view(shape)

    def run(what: str, bits: int, glob=None, **args) -> None:
        args = QuantizationArgs(num_bits=bits, **args)
        lo, hi = ranges(args)
        if glob is not None:
            glob = generate_gparam(x.amin(), x.amax())
        s, z = calculate_qparams(lo, hi, args, global_scale=glob)
        z = None if args.symmetric else z
        s = s.to(torch.float32)
        y = fake_quantize(x, s, z, args, global_scale=glob)
        q = quantize(x, s, z, args, global_scale=glob)
        effective = s if glob is None else s / glob
        if args.type == "int" and args.symmetric:
            put(case(what), f"INT{bits}", signed(q, bits), effective, y)
        elif args.type == "int":
            # Their codes begin at -2^(bits-1).
            half = 2 ** (bits - 1)
            put(case(what), "UINT8", q + half, effective, y, zeros=z.to(torch.int32) + half)
        else:
            table = {8: "E4M3", 6: "E2M3", 4: "E2M1"}[bits]
            put(case(what), table, nearest(TABLES[table], q.numpy())[1], effective, y, glob=None if glob is None else 1.0 / glob)

    run("int8_tensor", 8, type="int", symmetric=True, strategy="tensor")
    run("int8_channel", 8, type="int", symmetric=True, strategy="channel")
    for group in [32, 64, 128]:
        run(f"int4_g{group}", 4, type="int", symmetric=True, strategy="group", group_size=group)
    run("uint4_g32", 4, type="int", symmetric=False, strategy="group", group_size=32)
    run("uint8_channel", 8, type="int", symmetric=False, strategy="channel")
    run("fp8_tensor", 8, type="float", symmetric=True, strategy="tensor")
    run("fp8_channel", 8, type="float", symmetric=True, strategy="channel")
    mx = dict(type="float", symmetric=True, strategy="group", group_size=32, scale_dtype=torch.uint8)
    run("mxfp4", 4, **mx)
    run("mxfp6_e2m3", 6, **mx)
    run("mxfp8", 8, **mx)
    run("nvfp4", 4, glob=True, type="float", symmetric=True, strategy="tensor_group", group_size=16,
        scale_dtype=torch.float8_e4m3fn)



def float_table(exponent: int, mantissa: int, bias: int, special: int) -> dict[int, Fraction]:
    """Codes and values; `special` codes at the top are no numbers. Zero is code 0 alone."""
    values = {0: Fraction(0)}
    bits = exponent + mantissa
    for code in range(1, 2**bits - special):
        e, m = code >> mantissa, Fraction(code % 2**mantissa, 2**mantissa)
        value = m * Fraction(2) ** (1 - bias) if e == 0 else (1 + m) * Fraction(2) ** (e - bias)
        values[code], values[code | 1 << bits] = value, -value
    return values


TABLES = {
    "UINT8": {q: Fraction(q) for q in range(256)},
    "INT8": {q % 256: Fraction(q) for q in range(-128, 128)},
    "INT4": {q % 16: Fraction(q) for q in range(-8, 8)},
    "INT3": {q % 8: Fraction(q) for q in range(-4, 4)},
    "TERNARY": {q % 4: Fraction(q) for q in (-1, 0, 1)},
    "E2M1": float_table(2, 1, 1, 0),
    "E2M3": float_table(2, 3, 1, 0),
    "E3M2": float_table(3, 2, 3, 0),
    "E4M3": float_table(4, 3, 7, 1),
    "E5M2": float_table(5, 2, 15, 4),
}


def nearest(table: dict[int, Fraction], v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest values and their codes, by looking at every one; of two equally near the even code."""
    codes = np.array(sorted(table, key=lambda c: table[c]))
    values = np.array([float(table[c]) for c in codes])  # exact
    # Beyond the ends the nearest value is the end; within them distances are exact in f64 where they matter.
    clipped = np.clip(v.astype(np.float64).reshape(-1), values[0], values[-1])
    distance = np.abs(values - clipped[:, None])
    best = distance.min(1, keepdims=True)
    choice = np.where(distance == best, codes % 2, 2).argmin(1)
    return values[choice].reshape(v.shape), codes[choice].reshape(v.shape).astype(np.uint8)


def value(table: str, codes: np.ndarray) -> np.ndarray:
    """The values of codes; those of another writer's -0 and NaN too."""
    values = np.full(256, np.nan)
    for code, number in TABLES[table].items():
        values[code] = float(number)
        if number == 0 and table.startswith("E"):
            values[1 << max(TABLES[table]).bit_length() - 1] = -0.0
    return values[codes]


def round_scale(scale: float, fmt: str) -> np.float32:
    if fmt == "F16":
        # Neither infinite nor zero: it saturates at both ends of the format.
        return np.float32(np.float16(min(max(scale, 2.0**-24), 65504.0)))
    if fmt == "BF16":
        return np.float32(torch.tensor(scale, dtype=torch.float32).to(torch.bfloat16).item())
    return np.float32(scale)


def exponent(amax: np.float32, largest: Fraction, rule: str) -> int:
    """E8M0 without a logarithm: the least e with largest * 2^e >= amax, or the greatest powers of two of both."""
    amax = Fraction(float(amax))
    def floor_log2(v: Fraction) -> int:
        e = v.numerator.bit_length() - v.denominator.bit_length()
        return e if Fraction(2) ** e <= v else e - 1
    if rule == "floor":
        e = floor_log2(amax) - floor_log2(largest)
    else:
        e = floor_log2(amax / largest)
        e += largest * Fraction(2) ** e < amax
    return min(max(e, -127), 127)


def reference(name: str) -> None:
    for what, code, fmt, block in [
        ("int8_channel", "INT8", "F32", COLS),
        ("q8_0", "INT8", "F16", 32),
        ("q4_0", "INT4", "F16", 32),
        ("int4_bf16_g64", "INT4", "BF16", 64),
        ("int3_bf16_g64", "INT3", "BF16", 64),
        ("ternary_bf16_g128", "TERNARY", "BF16", 128),
        ("fp8_e5m2_channel", "E5M2", "F32", COLS),
        ("nvfp4", "E2M1", "NV", 16),
        *[(f"mx{what}_{rule}", code, rule, 32) for what, code in [
            ("fp4", "E2M1"), ("fp6_e2m3", "E2M3"), ("fp6_e3m2", "E3M2"), ("fp8", "E4M3"), ("int8", "INT8"),
        ] for rule in ("ceil", "floor")],
    ]:
        x = INPUTS[name].reshape(-1, block)
        table = TABLES[code]
        largest = max(table.values())
        glob = np.float32(np.abs(INPUTS[name]).max()) / np.float32(largest * 448)
        scales = []
        for amax in np.abs(x).max(1):
            if amax == 0:
                scales.append(glob if fmt == "NV" else np.float32(1))
            elif fmt in ("ceil", "floor"):
                scales.append(np.float32(2.0 ** exponent(amax, largest, fmt)))
            elif fmt == "NV":
                multiple = amax / (np.float32(largest) * glob)
                multiple = np.clip(multiple, np.float32(2**-9), np.float32(448))
                scales.append(np.float32(nearest(TABLES["E4M3"], np.array([multiple]))[0][0]) * glob)
            else:
                scales.append(round_scale(float(amax / np.float32(largest)), fmt))
        scales = np.array(scales, dtype=np.float32)
        values, codes = nearest(table, x / scales[:, None])
        y = values.astype(np.float32) * scales[:, None]
        put(f"reference.{what}.{name}", code, codes, scales, y, glob=[glob] if fmt == "NV" else None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in INPUTS:
        modelopt(name)
        torchao(name)
        compressed_tensors(name)
        reference(name)
    save_file(OUT, HERE / "quant.safetensors")
    print(len(OUT), "tensors,", (HERE / "quant.safetensors").stat().st_size, "bytes")
