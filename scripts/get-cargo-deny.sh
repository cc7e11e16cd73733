#!/usr/bin/env bash
# Compiles and installs cargo-deny if it is missing. It checks licences, sources, banned crates and advisories. This takes some
# minutes, so `make deps` and `make test-all` do it and `make test` does not.
set -euo pipefail
version=0.20.2

command -v cargo-deny >/dev/null && exit 0
echo "compiling cargo-deny $version, which takes some minutes"
# Without optimization it compiles in half the time, and its checks take a second either way.
cargo install --quiet --locked --debug --version "$version" cargo-deny
