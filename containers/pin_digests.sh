#!/bin/bash
# Put the digest of each base image beside its tag in every Containerfile and definition: FROM image:tag@sha256:…
# Needs skopeo and a registry that can be reached; commit what it changes.
set -euo pipefail
cd "$(dirname "$0")"
for file in */Containerfile */*.def; do
    sed -nE 's/^(FROM|From:) +([^ @]+)(@[^ ]+)?( AS .*)?$/\2/p' "$file" | sort -u | while read -r image; do
        digest=$(skopeo inspect --no-tags --format '{{.Digest}}' "docker://$image")
        sed -i -E "s|^(FROM\|From:) +${image//./\\.}(@sha256:[0-9a-f]+)?|\1 $image@$digest|" "$file"
        echo "$file: $image@$digest"
    done
done
