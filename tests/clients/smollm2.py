"""Exports of SmolLM2-135M in every format, opened by other programs and compared with the fake-quant model of the run.

    pip install torch transformers accelerate compressed-tensors==0.20.0 gguf==0.19.0
    tests/clients/install.sh                       # llama.cpp, if wanted
    cargo build --release && python tests/clients/smollm2.py [--only int4-g64] [--windows 2] [--keep]

Each case is a recipe without training: weights are rounded to the nearest point of a grid. `trimwick verify` reads every
export back; then a client opens it, and its next-token distributions over a held-out text stand beside those of `RUN/model`,
the plain floats of the run, both in transformers in float32 and both without quantized inputs: what is compared are the
weights of the file. Inputs on their grid are compared by the perplexity that transformers and the run find. A missing client
prints SKIP; a failure exits with 1.
"""

import argparse
import dataclasses
import importlib.util
import json
import pathlib
import os
import shutil
import subprocess
import sys
import warnings

os.environ.setdefault("TQDM_DISABLE", "1")  # read when torch first imports tqdm
for needed in ("torch", "transformers", "accelerate"):
    if not importlib.util.find_spec(needed):
        print(f"SKIP: no Python package {needed}")
        sys.exit(0)

import by_hand
import torch
import transformers
from measures import Table, divergence, llama_cpp, logits, other_bits, perplexity
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTEXT = 128
EXACT, HALF, LLAMA = 1e-9, 1e-3, 5e-3  # nats: the same bits, 16-bit floats, 8-bit inputs
INPUTS = 2e-2  # of a perplexity: a value on the edge of two codes may fall either way, and others follow


@dataclasses.dataclass
class Case:
    """A grid, and the targets that hold it by the type of what is not quantized."""

    name: str
    scheme: str | None
    targets: list
    prune: str | None = None
    dense: tuple = ("f32",)


GGUF, CT, MODELOPT, SPARSE = "gguf", "compressed-tensors", "modelopt", "sparse24"
CASES = [
    Case("plain", None, [GGUF], 'pattern = "unstructured"\nsparsity = 0.1', ("f32", "f16", "bf16")),
    Case("q8_0", "q8_0", [GGUF, CT]),
    Case("q4_0", "q4_0", [GGUF, CT]),
    Case("uint3-g32", "weight uint3 g32 bf16", [GGUF, CT]),  # zero point · scale fits half precision
    Case("int4-g32", "int4-g32", [GGUF, CT]),
    Case("int4-g64", "int4-g64", [GGUF, CT, MODELOPT]),  # 576 inputs are no multiple of 128
    Case("int8-weight", "int8-weight", [CT]),
    Case("int8-static", "int8-static", [CT, MODELOPT]),
    Case("fp8", "fp8", [CT, MODELOPT]),
    Case("nvfp4", "nvfp4", [GGUF, CT, MODELOPT]),
    Case("mxfp4", "mxfp4", [GGUF, CT]),
    Case("mxfp8", "mxfp8", [CT]),
    Case("2:4 int8", "int8-weight", [SPARSE, CT], 'pattern = "2:4"'),
    Case("2:4 int4", "int4-g32", [SPARSE, GGUF], 'pattern = "2:4"'),
]


def recipe(case, args):
    """The recipe of a case, but for what is exported."""
    lines = [
        f'[model]\nsource = "{args.model}"',
        f'[data]\neval = {{ files = ["{args.text}"] }}\ncontext = {CONTEXT}\neval_tokens = {args.windows * CONTEXT}',
        '[export]\ndtype = "f32"',
    ]
    if case.scheme in ("int8-static", "fp8", "nvfp4"):  # their inputs have static scales
        lines[1] += f'\ntrain = {{ files = ["{args.calibrate}"] }}'
        lines.append("[calibration]\nwindows = 2")
    if case.scheme:
        lines.append(f'[quantize]\nscheme = "{case.scheme}"')
    if case.prune:
        lines.append(f'[prune]\nmethod = "magnitude"\n{case.prune}')
    return "\n\n".join(lines) + "\n"


def trimwick(args, *words):
    """Runs the program and gives what it prints."""
    done = subprocess.run([args.trimwick, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"trimwick {' '.join(map(str, words))}: {done.returncode}: {done.stdout}{done.stderr}".strip())
    return done.stdout


def load(folder, **options):
    """A model in transformers, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


def readers(export, target, run):
    """The clients of an export: for each what it is called, how near it has to come, and the model in float32."""
    if target == CT:
        lossy = "nvfp4" in (export / "config.json").read_text()
        model = load(export, quantization_config=CompressedTensorsConfig(dequantize=True))
        yield "transformers" + (", weights in bfloat16" if lossy else ""), HALF if lossy else EXACT, model
        if not lossy:
            return
    elif target == GGUF and b".attn_q.scale" not in export.read_bytes()[: 8 << 20]:
        yield "transformers", EXACT, load(export.parent, gguf_file=export.name)
        return
    model = load(run.folder / "model")
    heads = (model.config.num_attention_heads, model.config.num_key_value_heads)
    tensors = by_hand.gguf_tensors(export, heads) if target == GGUF else by_hand.decode(export)
    model.load_state_dict(tensors, strict=not model.config.tie_word_embeddings)
    # llama.cpp's order of factors, code · group · tensor, is not ours: the last bit of some products is another.
    yield ("gguf and its .scale by hand" if target == GGUF else "decoded by hand"), EXACT, model


@dataclasses.dataclass
class Run:
    """A finished run: its folder, its fake-quant model in float32, the windows and what the model says of them."""

    folder: pathlib.Path
    reference: torch.nn.Module
    windows: list
    ours: list
    text: str

    @classmethod
    def open(cls, folder, args):
        reference = load(folder / "model")
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "model/tokenizer.json"))
        tokens = args.windows * CONTEXT
        ids = torch.tensor(tokenizer.encode(args.text.read_text()[: 16 * tokens]))
        windows = list(ids[:tokens].split(CONTEXT))
        return cls(folder, reference, windows, logits(reference, windows), tokenizer.decode(windows[0]))


def compare(case, args, table):
    """Runs one case and compares every export of it."""
    folder = args.work / case.name.replace(":", "").replace(" ", "-")
    args.work.mkdir(parents=True, exist_ok=True)
    (file := folder.with_suffix(".toml")).write_text(recipe(case, args))
    run = None
    for dense in case.dense:
        targets = f"export.targets={json.dumps(case.targets)}"
        trimwick(args, "run", file, targets, f'export.dense="{dense}"', "--out", folder)
        run = run or Run.open(folder, args)
        for target in case.targets:
            name = f"{case.name}, {dense}" if len(case.dense) > 1 else case.name
            add = lambda *cells, ok: table.add(name, target, *cells, ok=ok)  # noqa: E731
            export = folder / "exports" / ("model.gguf" if target == GGUF else target)
            try:
                weights(run, target, dense, export, args, add)
                if target == CT and input_grid(export):
                    inputs(run, export, add)
                if target == GGUF and args.llama:
                    rounded(run, export, args, add)
            except Exception as error:  # the other exports are still worth a look
                add("", f"{type(error).__name__}: {error}", "", "", "", "", ok=False)
    if not args.keep:
        shutil.rmtree(folder)
        file.unlink()


def weights(run, target, dense, export, args, add):
    """Proves an export with `trimwick verify`, and compares its weights as clients read them."""
    trimwick(args, "verify", export, "--against", run.folder)
    size = sum(f.stat().st_size for f in ([export] if export.is_file() else export.glob("*.safetensors"))) / 1e6
    tokens = args.windows * CONTEXT
    measured = trimwick(args, "eval", export, "--text", args.text, "--context", CONTEXT, "--tokens", tokens, "--json")
    found = json.loads(measured)["perplexity"]
    for client, limit, model in readers(export, target, run):
        theirs = logits(model, run.windows)
        kl, same = divergence(run.ours, theirs)
        bits, measured = other_bits(run.reference, model.state_dict(), dense), perplexity(theirs, run.windows)
        ok = limit != EXACT or (bits == 0 or ".scale" in client) and abs(measured / found - 1) < 1e-5
        # Of floats rounded to 16 bits the divergence is the rounding's; their bits still have to be the rounded ones.
        ok &= kl < (limit if dense == "f32" else HALF)
        add(f"{size:.1f} MB", client, f"{kl:.1e}", same, bits, f"{found:.4f} / {measured:.4f}", ok=ok)


def input_grid(export):
    """What a compressed-tensors folder says of inputs."""
    table = json.loads((export / "config.json").read_text())["quantization_config"]
    return table["config_groups"]["group_0"]["input_activations"]


def inputs(run, export, add):
    """Compares the perplexity with inputs on their grid: the run's, and what transformers makes of the folder's words."""
    model = load(export)
    try:
        logits(model, [run.windows[0][:2]])
    except RuntimeError:
        pass  # the first forward unpacks 4-bit floats and MXFP8 as bfloat16, which no float32 input goes with
    for parameter in model.parameters():
        parameter.data = parameter.data.float() if parameter.is_floating_point() else parameter.data
    model.load_state_dict(run.reference.state_dict(), strict=False)  # the weights are compared elsewhere
    measured = perplexity(logits(model, run.windows), run.windows)
    arms = json.loads((run.folder / "summary.json").read_text())["arms"]
    found = next(arm["perplexity"] for arm in arms if arm["name"] == "quantized")
    ok = abs(measured / found - 1) < INPUTS
    add("", "transformers, inputs on their grid", "", "", "", f"{found:.4f} / {measured:.4f}", ok=ok)


def rounded(run, export, args, add):
    """Compares llama.cpp, which rounds inputs of quantized weights to 8 bits and keeps keys and values in half precision."""
    theirs = llama_cpp(args.clients, export.resolve(), run.text, run.windows[0], run.folder)
    kl, same = divergence(run.ours[:1], theirs)
    figures = [perplexity(rows, run.windows[:1]) for rows in (run.ours[:1], theirs)]
    add("", "llama.cpp", f"{kl:.1e}", same, "", f"{figures[0]:.4f} / {figures[1]:.4f}", ok=kl < LLAMA)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trimwick", type=pathlib.Path, default=ROOT / "target/release/trimwick")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--text", type=pathlib.Path, default=ROOT / "data/sotu/2009_barack_obama_d.txt")
    parser.add_argument("--calibrate", type=pathlib.Path, default=ROOT / "data/sotu/2008_george_w_bush_r.txt")
    parser.add_argument("--clients", type=pathlib.Path, default=ROOT / "target/clients", help="where install.sh put llama.cpp")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/smollm2_exports", help="about 2 GB while it runs")
    parser.add_argument("--windows", type=int, default=1, help=f"of {CONTEXT} tokens")
    parser.add_argument("--only", action="append", choices=[case.name for case in CASES], help="once for each case")
    parser.add_argument("--keep", action="store_true", help="leave the runs where they are")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="You passed `quantization_config`")
    args.llama = (args.clients / "node_modules/node-llama-cpp").is_dir() and shutil.which("node") is not None
    if not args.llama:
        print(f"SKIP llama.cpp: none in {args.clients} (tests/clients/install.sh)")
    lacking = {target for target, module in ((GGUF, "gguf"), (CT, "compressed_tensors")) if not importlib.util.find_spec(module)}
    table = Table()
    for case in [case for name in args.only for case in CASES if case.name == name] if args.only else CASES:
        for target in lacking.intersection(case.targets):
            print(f"SKIP {case.name} as {target}: its Python package is not installed")
        case.targets = [target for target in case.targets if target not in lacking]
        try:
            if case.targets:
                compare(case, args, table)
        except RuntimeError as error:  # a refusal of the run itself
            table.add(case.name, "", "", str(error), "", "", "", "", ok=False)
    table.write()
    sys.exit(bool(table.failed))


if __name__ == "__main__":
    main()
