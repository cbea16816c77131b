"""What llama.cpp takes for a prompt and for tokens generated behind it, in turns with `trimwick bench`.

    tests/clients/install.sh && cargo build --release
    python benches/peers/llama_cpp.py model.gguf [--prompt 128] [--tokens 32] [--rounds 5] [--turns 3] [--threads 2]
        [--libraries target/clients/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64] [--trimwick target/release/trimwick]

llama.cpp is the prebuilt library of npm's node-llama-cpp with the variant for this processor, called through its C interface:
`llama_decode` of the whole prompt, then of one token after the other, each the likeliest of the logits before. Trimwick's
bench does the same with the same file. Each takes `--turns` turns as a process of its own; the best round of each counts, and
the share of the machine that was idle is printed beside each turn.
"""

import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path

from machine import arguments, idle, share


class Params(ctypes.Structure):
    """Parameters by value: longer than those of the library, which reads and writes what it knows of."""

    _fields_ = [("words", ctypes.c_uint32 * 256)]


class Batch(ctypes.Structure):
    """`llama_batch`: a count and six pointers."""

    _fields_ = [("tokens", ctypes.c_int32), ("pointers", ctypes.c_void_p * 6)]


def library(folder):
    """The library with the processor's kernels loaded, and the types of what is called."""
    load = lambda name: ctypes.CDLL(str(next(folder.glob(name))), mode=ctypes.RTLD_GLOBAL)  # noqa: E731
    load("libggml-base.so")
    ggml, llama = load("libggml.v*.so"), load("libllama.v*.so")
    ggml.ggml_backend_load_all_from_path(str(folder).encode())
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama.llama_log_set(silent, None)
    llama.silent = silent  # kept alive
    pointer = ctypes.c_void_p
    for name, result, arguments in [
        ("llama_model_default_params", Params, []),
        ("llama_context_default_params", Params, []),
        ("llama_model_load_from_file", pointer, [ctypes.c_char_p, Params]),
        ("llama_init_from_model", pointer, [pointer, Params]),
        ("llama_batch_get_one", Batch, [ctypes.POINTER(ctypes.c_int32), ctypes.c_int32]),
        ("llama_decode", ctypes.c_int32, [pointer, Batch]),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, ctypes.c_int32]),
        ("llama_get_memory", pointer, [pointer]),
        ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
        ("llama_model_get_vocab", pointer, [pointer]),
        ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
    ]:
        function = getattr(llama, name)
        function.restype, function.argtypes = result, arguments
    llama.llama_backend_init()
    return llama


def measure(args):
    """Tokens a second of the best round, and the continuation."""
    import numpy as np

    llama = library(args.libraries)
    model = llama.llama_model_load_from_file(str(args.model).encode(), llama.llama_model_default_params())
    assert model, f"llama.cpp does not open {args.model}"
    params = llama.llama_context_default_params()
    # n_ctx comes first, the two numbers of threads eighth and ninth: other defaults there would mean another layout.
    known = {1: 2048, 2: 512, 3: 1, 7: 4, 8: 4}
    assert all(params.words[i] == value for i, value in known.items()), f"another layout: {params.words[:10]}"
    params.words[0] = args.prompt + args.tokens + 8
    params.words[7] = params.words[8] = args.threads
    context = llama.llama_init_from_model(model, params)
    words = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def decode(ids):
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        failed = llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(ids)))
        assert not failed, f"llama_decode: {failed}"
        logits = llama.llama_get_logits_ith(context, -1)
        return int(np.ctypeslib.as_array(logits, (words,)).argmax())

    prompt = [100 + i * 7919 % (words - 200) for i in range(args.prompt)]
    best = {"prompt": 0.0, "generation": 0.0}
    for turn in range(args.rounds + 1):  # the first one warms up
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        begun = time.perf_counter()
        token = decode(prompt)
        read = time.perf_counter()
        for _ in range(args.tokens):
            token = decode([token])
        done = time.perf_counter()
        if turn:
            best["prompt"] = max(best["prompt"], args.prompt / (read - begun))
            best["generation"] = max(best["generation"], args.tokens / (done - read))
    print(json.dumps(best))


def main():
    parser = arguments(__doc__)
    parser.add_argument("model", type=Path)
    for name, value in [("prompt", 128), ("tokens", 32), ("rounds", 5), ("turns", 3)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    modules = Path("target/clients/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64")
    parser.add_argument("--libraries", type=Path, default=modules)
    parser.add_argument("--alone", action="store_true", help="measure llama.cpp in this process")
    args = parser.parse_args()
    if args.alone:
        measure(args)
        return
    counts = [f"--{name}={getattr(args, name)}" for name in ("prompt", "tokens", "rounds")]
    peer = [sys.executable, __file__, str(args.model), "--alone", f"--libraries={args.libraries}", f"--threads={args.threads}"]
    ours = [args.trimwick, "bench", str(args.model), "--json"]
    best = {}
    for turn in range(args.turns):
        for name, command in [("llama.cpp", peer), ("trimwick", ours)]:
            before = idle()
            out = subprocess.run(command + counts, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=600, check=True, text=True).stdout
            after = idle()
            found = json.loads(out)
            if name == "trimwick":
                row = found["models"][0]
                found = {"prompt": row["prompt_tokens_per_second"], "generation": row["generation_tokens_per_second"]}
            print(f"{name:10} prompt {found['prompt']:8.1f}, generation {found['generation']:7.1f} tokens/s; {share(before, after):.0%} idle")
            kept = best.setdefault(name, {"prompt": 0.0, "generation": 0.0})
            best[name] = {key: max(kept[key], found[key]) for key in kept}
    for key in ("prompt", "generation"):
        print(f"{key}: {best['trimwick'][key] / best['llama.cpp'][key]:.2f} times llama.cpp")


if __name__ == "__main__":
    main()
