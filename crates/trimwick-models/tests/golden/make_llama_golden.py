"""Golden tensors for the Llama family: tiny random-weight models, their logits and their gradients.

    pip install -r requirements.txt      # torch 2.15.0, transformers 5.23.0, safetensors 0.8.0, numpy 2.4.6
    python make_llama_golden.py          # rewrites the folders beside this file

Each kind becomes a folder as users have them: `config.json`, `model.safetensors` (f32, tied heads left out), and
`golden.safetensors` with

    ids        i64 [2, 24]       token ids
    logits     f32 [2, 24, V]    of the model loaded back from that folder, eager attention
    loss       f32 []            mean next-token cross-entropy over the 2 x 23 predicted tokens
    grad.NAME  f32               gradient of `loss` with respect to every entry of `model.safetensors`

Weights are drawn far wider than an initialization would, and norm weights and biases away from 1 and 0, so that no
part of a model can be left out without the logits showing it. For what a kind is here to cover (`matters`), the
script itself checks that the logits move when that setting is taken away.

Configs are written as the hub has them (`rope_theta`, `rope_scaling`), except Qwen3's, which is in the form that
transformers 5 saves (`rope_parameters`, `layer_types`): readers meet both.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent
BATCH, TOKENS = 2, 24

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": 96,
}
QWEN = {
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "torch_dtype": "float32",
    "use_sliding_window": False,
    "vocab_size": 96,
}

# kind -> (seed, config.json, settings that must matter: key -> the value to put in its place)
KINDS = {
    # Multi-head attention, own output head. Early Llama 2 files have no num_key_value_heads and no rope_theta.
    "llama2": (
        1,
        {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "rope_theta")},
        {"rms_norm_eps": 1e-1},
    ),
    # Grouped queries, a head size that is not hidden / heads, and the frequency scaling of Llama 3.1. The eight
    # frequencies of a head have wavelengths 6.3, 20, 63, 199 ...; with 64 / 4 = 16 and 64 / 1 = 64 as the bounds, the
    # first is kept, two are interpolated and five are divided by the factor.
    "llama3": (
        2,
        LLAMA
        | {
            "head_dim": 16,
            "num_key_value_heads": 2,
            "eos_token_id": [2, 3, 4],
            "rope_scaling": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
                "rope_type": "llama3",
            },
            "vocab_size": 128,
        },
        {"rope_scaling": None},
    ),
    # Tied head, three query heads to a key head, the rotary base of SmolLM2.
    "smollm2": (
        3,
        LLAMA
        | {
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "rope_interleaved": False,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
        },
        {"rope_theta": 10000.0},
    ),
    # One key head for all query heads.
    "tinyllama": (4, LLAMA | {"num_key_value_heads": 1, "pretraining_tp": 1}, {}),
    # A window of 8 keys on 24 tokens.
    "mistral": (
        5,
        {k: v for k, v in LLAMA.items() if k != "rope_scaling"}
        | {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "num_key_value_heads": 2,
            "sliding_window": 8,
        },
        {"sliding_window": None},
    ),
    # Biases on q, k and v. The window of 8 stands in the file but is switched off, as in the files of the hub.
    "qwen2": (
        6,
        QWEN
        | {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "max_window_layers": 0,
            "sliding_window": 8,
            "tie_word_embeddings": False,
        },
        {"use_sliding_window": True},
    ),
    # Norms on the heads of q and k, a head size that is not hidden / heads, tied head.
    "qwen3": (
        7,
        QWEN
        | {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": 16,
            "max_window_layers": 2,
            "sliding_window": None,
            "tie_word_embeddings": True,
        },
        {"rope_theta": 10000.0},
    ),
}


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Fills every parameter: norm weights in [0.5, 1.5), biases with deviation 0.5, matrices with 1.5 / sqrt(in)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.copy_(torch.rand(p.shape, generator=generator) + 0.5)
            elif p.dim() == 1:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
            elif "embed_tokens" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
            else:
                p.copy_(torch.randn(p.shape, generator=generator) * 1.5 / p.shape[1] ** 0.5)


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def write_config(folder: Path, config: dict) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def make(kind: str, seed: int, config: dict, matters: dict) -> None:
    folder = HERE / kind
    folder.mkdir(exist_ok=True)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    randomize(model, seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    ids = torch.randint(0, config["vocab_size"], (BATCH, TOKENS), generator=torch.Generator().manual_seed(100 + seed))
    for key, value in matters.items():
        write_config(folder, config)
        with torch.no_grad():
            before = load(folder)(ids).logits
            write_config(folder, config | {key: value})
            moved = (load(folder)(ids).logits - before).abs().max().item()
        print(f"{kind:10} without its {key}: logits move by up to {moved:.3f}")
        assert moved > 0.05, f"{kind}: {key} does not matter"
    if config["model_type"] == "qwen3":
        AutoConfig.for_model(**config).save_pretrained(folder)
    else:
        write_config(folder, config)

    model = load(folder)
    logits = model(ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    golden = {"ids": ids, "logits": logits.detach(), "loss": loss.detach()}
    golden |= {f"grad.{name}": p.grad for name, p in model.named_parameters()}
    saved = set(load_file(folder / "model.safetensors"))
    assert saved == {name for name, _ in model.named_parameters()}, saved
    assert all(g.abs().max() > 0 for name, g in golden.items() if name.startswith("grad."))
    save_file({name: t.contiguous() for name, t in golden.items()}, folder / "golden.safetensors")
    size = (folder / "model.safetensors").stat().st_size
    print(f"{kind:10} loss {loss.item():.4f}  logits deviate by {logits.std().item():.2f}  weights {size} bytes")
    assert size < 150_000


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind, (seed, config, matters) in KINDS.items():
        make(kind, seed, config, matters)
