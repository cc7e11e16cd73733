#!/usr/bin/env bash
# Downloads a Consul server into a folder, for the tests of the store `consul`: one static program from Debian 11's package.
#   get-consul.sh TARGET
# Does nothing if TARGET is complete. No later Debian has the package.
set -euo pipefail

version=1.8.7
target=${1:?usage: get-consul.sh TARGET}
[ "$(cat "$target/.complete" 2>/dev/null)" != "$version" ] || exit 0

umask 022
parent=$(dirname "$target")
mkdir -p "$parent"
parent=$(cd "$parent" && pwd)
# In the same folder as the target, so that the last step is a rename. An interrupted run leaves nothing that looks complete.
work=$(mktemp -d "$parent/.consul.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "fetching Consul $version"
# Uses its own package lists: the system's stay unchanged.
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bullseye main" >"$work/sources.list"
options=(-qq -o "Dir::Etc::SourceList=$work/sources.list" -o "Dir::Etc::SourceParts=/dev/null"
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "Acquire::Retries=5"
    -o "APT::Sandbox::User=root")
apt-get "${options[@]}" update
(cd "$work" && apt-get "${options[@]}" download consul)
dpkg -x "$work"/consul_*.deb "$work/package"
mkdir "$work/consul"
mv "$work/package/usr/bin/consul" "$work/consul/consul"
"$work/consul/consul" version >/dev/null
echo "$version" >"$work/consul/.complete"
rm -rf "$target"
mv "$work/consul" "$target"
