#!/usr/bin/env bash
# Builds the container image from target/release/tamada with podman, buildah or docker, whichever is installed.
#   image.sh [TAG]          default tamada:latest
# POSTGRESQL=16 chooses the major version, BASE the image to build on.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=${1:-tamada:latest}
binary=target/release/tamada
builder=
for candidate in podman buildah docker; do
    if command -v "$candidate" >/dev/null; then
        builder=$candidate
        break
    fi
done
if [ -z "$builder" ]; then
    echo "cannot build the image: there is no podman, buildah or docker on this machine; install one of them (apt-get install podman)," \
        "or build packaging/kubernetes/Containerfile elsewhere, beside a copy of $binary" >&2
    exit 1
fi
[ -x "$binary" ] || { echo "cannot build the image: there is no $binary; run \"make release\" first" >&2; exit 1; }

# Copies only what the recipe needs, not all of target/.
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp "$binary" packaging/kubernetes/Containerfile "$context/"
arguments=()
[ -z "${POSTGRESQL:-}" ] || arguments+=(--build-arg "POSTGRESQL=$POSTGRESQL")
[ -z "${BASE:-}" ] || arguments+=(--build-arg "BASE=$BASE")
command=build
[ "$builder" != buildah ] || command=bud
"$builder" "$command" "${arguments[@]}" --tag "$tag" --file "$context/Containerfile" "$context"
echo "built $tag"
