#!/usr/bin/env bash
# Puts a kube-apiserver into a folder, for the tests of the store `kubernetes`: built from Debian 12's source package
# with Debian's Go. No later Debian has the server's source, and no package registry has the program.
#   get-kube-apiserver.sh TARGET
# Does nothing if TARGET is complete. The first run takes about seven minutes of two processors, and 3 GB below TARGET's
# parent folder.
set -euo pipefail

version=1.20.2
go=1.19
target=${1:?usage: get-kube-apiserver.sh TARGET}
[ "$(cat "$target/.complete" 2>/dev/null)" != "$version" ] || exit 0

umask 022
parent=$(dirname "$target")
mkdir -p "$parent"
parent=$(cd "$parent" && pwd)
# Beside the target, so that the last step is a rename: an interrupted run leaves nothing that looks complete.
work=$(mktemp -d "$parent/.kube-apiserver.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

echo "fetching the source of Kubernetes $version and Go $go"
# A package list of its own: the system's stays as it is, and nothing is installed.
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages"
for kind in deb deb-src; do
    echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main"
done >"$work/sources.list"
options=(-qq -o "Dir::Etc::SourceList=$work/sources.list" -o "Dir::Etc::SourceParts=/dev/null"
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "Acquire::Retries=5"
    -o "APT::Sandbox::User=root")
apt-get "${options[@]}" update
(
    cd "$work/packages"
    apt-get "${options[@]}" download "golang-$go-go" "golang-$go-src"
    # apt-get has verified the archive's signature; the maintainer's key need not be here.
    apt-get "${options[@]}" source --download-only kubernetes
    dpkg-source --no-check -x kubernetes_*.dsc "$work/kubernetes" >/dev/null
    for package in golang-*.deb; do dpkg -x "$package" "$work/golang"; done
)

export GOROOT="$work/golang/usr/lib/go-$go" GOPATH="$work/gopath" GOCACHE="$work/gocache"
export GO111MODULE=off GOFLAGS=-p=2 GOTOOLCHAIN=local CGO_ENABLED=0
PATH="$GOROOT/bin:$PATH"
mkdir -p "$GOPATH/src/k8s.io" "$work/kube-apiserver"
ln -s "$work/kubernetes" "$GOPATH/src/k8s.io/kubernetes"
cd "$GOPATH/src/k8s.io/kubernetes"

# The API's description is the one generated source that the archive lacks. Kubernetes' own makefile finds the
# packages by their tag in the same way.
echo "generating the API's description"
nice -n 10 go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(grep -rl --include='*.go' '^// +k8s:openapi-gen=' pkg vendor/k8s.io/*/ |
    grep -v -e '^vendor/k8s.io/code-generator/' -e '^vendor/k8s.io/sample-' | xargs -n1 dirname |
    sed 's|^|k8s.io/kubernetes/|' | LC_ALL=C sort -u | paste -sd,)
nice -n 10 "$work/openapi-gen" --logtostderr --v 0 -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi \
    -O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations"

echo "building kube-apiserver: this takes long"
variables=k8s.io/kubernetes/vendor/k8s.io/component-base/version
nice -n 10 go build -trimpath -o "$work/kube-apiserver/kube-apiserver" -ldflags "-s -w \
    -X $variables.gitVersion=v$version -X $variables.gitMajor=1 -X $variables.gitMinor=20" ./cmd/kube-apiserver
"$work/kube-apiserver/kube-apiserver" --version
echo "$version" >"$work/kube-apiserver/.complete"
rm -rf "$target"
mv "$work/kube-apiserver" "$target"
