#!/bin/bash
# Ask the registry for the digest that each tag in images.toml stands for now, write it there, and render the files
# anew. Needs skopeo and a registry that can be reached; commit what it changes.
set -euo pipefail
cd "$(dirname "$0")"
sed -nE 's/.*tag = "([^"]+)".*/\1/p' images.toml | while read -r image; do
    digest=$(skopeo inspect --no-tags --format '{{.Digest}}' "docker://$image")
    sed -i -E "s|(tag = \"${image//./\\.}\", digest = )\"[^\"]+\"|\1\"$digest\"|" images.toml
    echo "$image@$digest"
done
python3 render.py
