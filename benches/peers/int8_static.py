"""SmolLM2-135M-Instruct with int8 weights and static int8 inputs by their largest values, in ModelOpt and in Trimwick.

    pip install -r requirements.txt nvidia-modelopt==0.47.0
    benches/fetch/smollm2.sh && benches/fetch/sotu.sh && cargo build --release
    python benches/peers/int8_static.py [--data data] [--threads 2] [--windows 32] [--trimwick target/release/trimwick]

Ranges of inputs hang on what was seen: both are calibrated on the same windows, the first ones of 1900 to 2008, which Trimwick
reads as a text of exactly their tokens. Perplexities are those of smollm2_reference.py's protocol, context 512.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from machine import calibrated
from smollm2_reference import CONTEXT, GGUF, report, texts, tokenizer_of, window_losses
from transformers import AutoModelForCausalLM

RECIPE = "configs/smollm2/ptq_int8_smoothquant.toml"


def main():
    args = calibrated(__doc__).parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = tokenizer_of(args.data / "smollm2" / GGUF)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    seen = encode(texts(args.data / "sotu", 1900, 2008))[: args.windows * CONTEXT]
    text = tokenizer.decode(seen)
    assert encode(text) == seen, "the windows' text has other tokens by itself: take another number of windows"
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "windows.txt").write_text(text)
        command = [args.trimwick, "run", RECIPE, "quantize.passes=[]", "quantize.smoothquant=", f"calibration.windows={args.windows}"]
        command += [f"data.train={json.dumps(str(file))}", "--out", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        summary = json.loads((Path(folder) / "run/summary.json").read_text())
    for arm in summary["arms"]:
        print(f"trimwick, {arm['name']}: perplexity {arm['perplexity']:.4f}", flush=True)

    model = AutoModelForCausalLM.from_pretrained(args.data / "smollm2", gguf_file=GGUF, dtype=torch.float32).eval()
    windows = torch.tensor(seen).split(CONTEXT)

    @torch.no_grad()
    def calibrate(model):
        for window in windows:
            model(window[None], use_cache=False)

    start = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr):
        mtq.quantize(model, mtq.INT8_DEFAULT_CFG, calibrate)
    held_out = np.array(encode(texts(args.data / "sotu", 2009, 9999)))
    report("ModelOpt", window_losses(model, held_out), time.monotonic() - start)


if __name__ == "__main__":
    main()
