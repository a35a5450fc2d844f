#!/bin/bash
# Resolve every requirements.in anew to its lock, with hashes, for Python 3.12 on Linux x86-64. Needs uv.
set -euo pipefail
cd "$(dirname "$0")"
options=(--python-version 3.12 --python-platform x86_64-unknown-linux-gnu --generate-hashes --no-header --no-annotate -q)
uv pip compile "${options[@]}" ../pyproject.toml --extra torch --extra hf --extra data --extra track \
    --constraint ../constraints.txt --output-file train-light/requirements.lock
uv pip compile "${options[@]}" train-heavy/requirements.in --output-file train-heavy/requirements.lock
uv pip compile "${options[@]}" train-heavy/build.in --constraint train-heavy/requirements.lock \
    --output-file train-heavy/build.lock
uv pip compile "${options[@]}" --no-deps train-heavy/flash-attn.in --output-file train-heavy/flash-attn.lock
uv pip compile "${options[@]}" infer/requirements.in --output-file infer/requirements.lock
