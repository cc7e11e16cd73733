#!/usr/bin/env bash
# Installs Patroni into a virtual environment, for tests with members of both programs in one cluster.
#   get-patroni.sh TARGET
# Does nothing if TARGET is complete.
set -euo pipefail

version=4.1.5
package="patroni[etcd3,etcd,consul,zookeeper,kubernetes,psycopg3]==$version"
target=${1:?usage: get-patroni.sh TARGET}
# A virtual environment contains its own path, so a moved one is incomplete.
mkdir -p "$target"
target=$(cd "$target" && pwd)
wanted="$package $target"
[ "$(cat "$target/.complete" 2>/dev/null)" != "$wanted" ] || exit 0

umask 022
echo "fetching Patroni $version"
# Debian's interpreter: the user postgres cannot read one in a home folder.
/usr/bin/python3 -m venv --clear "$target"
"$target/bin/python" -m pip install -qq --disable-pip-version-check --no-input --retries 5 --no-cache-dir \
    "$package"
chmod -R a+rX "$target"
"$target/bin/patroni" --version >/dev/null
echo "$wanted" >"$target/.complete"
