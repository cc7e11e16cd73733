#!/usr/bin/env bash
# Compiles mdBook, which makes the book of docs/, into a folder. crates.io has only the sources, so this takes some minutes the
# first time.
#   get-mdbook.sh FOLDER     the program is FOLDER/bin/mdbook afterwards
set -euo pipefail

version=0.5.4
folder=${1:?usage: get-mdbook.sh FOLDER}

[ "$("$folder/bin/mdbook" --version 2>/dev/null)" != "mdbook v$version" ] || exit 0
echo "compiling mdbook $version, which takes some minutes"
# Without its web server and without watching files: these are most of its dependencies.
cargo install --quiet --locked --root "$folder" --version "$version" --no-default-features --features search mdbook
