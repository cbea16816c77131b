"""What no client reads without a GPU, or reads in another way, decoded from the descriptions of the layouts alone, in float32.

ModelOpt's tensors are those that TensorRT-LLM and vLLM document; the 2:4 container is Trimwick's own (docs/deploy.md). Nothing of
Trimwick is called, so that a mistake in its packing cannot hide in its unpacking.
"""

import json
import pathlib

import torch
from safetensors.torch import load_file

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def nibbles(packed):
    """The 4-bit codes of each byte along rows, the low one first."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)


def signed(codes, bits):
    """Two's complement of so many bits as floats."""
    return torch.where(codes >= 1 << (bits - 1), codes.int() - (1 << bits), codes.int()).float()


def scaled(values, scale):
    """Values times the scale of the tensor, of their row or of their group of columns."""
    scale = scale.float()
    if scale.ndim < 2:
        return values * scale.reshape(-1, 1)
    rows, groups = scale.shape
    return (values.reshape(rows, groups, -1) * scale[..., None]).reshape(values.shape)


def modelopt(parts, algorithm):
    """A weight of a ModelOpt folder."""
    codes, scale = parts["weight"], parts["weight_scale"]
    if algorithm == "NVFP4":
        return scaled(E2M1[nibbles(codes).long()], scale.float() * parts["weight_scale_2"])
    if algorithm.endswith("_AWQ"):
        # A byte holds two rows: the even one low.
        rows = torch.stack((codes & 15, codes >> 4), 1).flatten(0, 1)
        return scaled(signed(rows, 4), scale) * parts["pre_quant_scale"].float()
    return scaled(codes.float(), scale)


def container(parts, _):
    """A weight of the 2:4 container, zeros put back."""
    rows, columns = parts["weight_shape"].tolist()
    stored = parts["weight_values"]
    if "weight_bits" not in parts:
        values = stored.float()
    elif parts["weight_bits"].tolist() == [4, 1]:
        values = E2M1[nibbles(stored).long()]
    else:
        values = signed(nibbles(stored), 4)
    if "weight_meta" in parts:
        # Two places of two bits for each group of four.
        places = nibbles(parts["weight_meta"])[:, : columns // 4].long()
        places = torch.stack((places & 3, places >> 2), -1)
        values = torch.zeros(rows, columns // 4, 4).scatter_(2, places, values.reshape(rows, -1, 2)).reshape(rows, columns)
    scale = parts["weight_scale"].float()
    return scaled(values, scale * parts["weight_scale_2"] if "weight_scale_2" in parts else scale)


def nvfp4(parts, _):
    """A weight of a compressed-tensors folder of NVFP4, which the library itself computes in bfloat16."""
    return scaled(E2M1[nibbles(parts["weight_packed"]).long()], parts["weight_scale"].float() / parts["weight_global_scale"])


def decode(folder):
    """Every tensor of a folder by its name in transformers."""
    folder = pathlib.Path(folder)
    table = json.loads((folder / "config.json").read_text())["quantization_config"]
    read = {"modelopt": modelopt, "trimwick": container, "compressed-tensors": nvfp4}[table["quant_method"]]
    layers, tensors = {}, {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            path, _, part = name.rpartition(".")
            layers.setdefault(path, {})[part] = tensor
    for path, parts in layers.items():
        packed = "weight_scale" in parts
        tensors[f"{path}.weight"] = read(parts, table.get("quant_algo")) if packed else parts["weight"].float()
    return tensors


def gguf_tensors(file, heads):
    """Every tensor of a GGUF file whose NVFP4 weights have scales of tensors beside them, by its name in transformers.

    transformers stops at such a file: it takes the one number of `blk.0.attn_q.scale` for rows of a query projection. `heads` are
    those of queries and of keys, whose rows a file of the architecture llama keeps in another order.
    """
    import gguf

    parts = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj"}
    parts |= {f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"}
    parts |= {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    whole = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    tensors = {}
    for name, tensor in read.items():
        if name.endswith(".scale"):
            continue
        values = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        if (scale := name.replace(".weight", ".scale")) in read:
            values *= float(read[scale].data[0])
        if name not in whole:
            _, block, part, _ = name.split(".")
            if part in ("attn_q", "attn_k"):
                rows = values.reshape(heads[part == "attn_k"], -1, 2, values.shape[1])
                values = rows.swapaxes(1, 2).reshape(values.shape)
            whole[name] = f"model.layers.{block}.{parts[part]}.weight"
        tensors[whole[name]] = values
    return tensors
