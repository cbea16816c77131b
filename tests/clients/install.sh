#!/usr/bin/env bash
# Installs what tests open our exports and reports with: into FOLDER (target/clients) llama.cpp as node-llama-cpp's
# prebuilt program and Python's gguf and onnxruntime, and as a package of Debian a browser. What cannot be installed is
# left out, and its tests print SKIP.
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

# The browser that draws reports.
if ! command -v chromium-headless-shell chromium google-chrome >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        { apt-get update -q && apt-get install -y -q --no-install-recommends chromium-headless-shell; } >/dev/null 2>&1 ||
            echo "left out: chromium-headless-shell"
    else
        echo "left out: chromium-headless-shell (no apt-get, or not root)"
    fi
fi
