#!/usr/bin/env bash
# Installs the light clients that tests open our exports with, into FOLDER (target/clients): llama.cpp as node-llama-cpp's
# prebuilt program, and Python's gguf and onnxruntime. What cannot be installed is left out, and its tests print SKIP.
#
#     tests/clients/install.sh [FOLDER]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-"$here/../../target/clients"}
mkdir -p "$folder"

if command -v npm >/dev/null; then
    cp "$here/package.json" "$folder/"
    npm install --prefix "$folder" --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error ||
        echo "left out: node-llama-cpp"
else
    echo "left out: node-llama-cpp (no npm)"
fi

if command -v python3 >/dev/null && python3 -m venv "$folder/venv"; then
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" ||
        echo "left out: gguf, onnxruntime"
else
    echo "left out: gguf, onnxruntime (no python3 with venv)"
fi
