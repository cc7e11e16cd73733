#!/usr/bin/env bash
# All checks and tests, for `make test` and the continuous integration. Every step runs even if an earlier step failed, and the
# last lines list the failed steps. Tests that run as root start PostgreSQL as the user postgres.
# With the argument `all` it also runs the slow tests, which are ignored otherwise: `make test-all`.
set -euo pipefail
which=${1:-}
case $which in
"" | all) ;;
*)
    echo "usage: $0 [all]" >&2
    exit 2
    ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

begin=$SECONDS
passed=()
failed=()
skipped=()

# step NAME COMMAND...
step() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    if "$@"; then
        passed+=("$name $((SECONDS - start)) s")
    else
        failed+=("$name")
    fi
}

# Without these steps, later steps fail in ways that hide the reason.
prepare() {
    printf '\n== %s\n' "$1"
    "${@:2}" && return 0
    printf '\nmake test: FAILED at the start: %s\n' "$1"
    exit 1
}

list() {
    local text
    printf -v text '%s, ' "$@"
    echo "${text%, }"
}

prepare "packages of the system" ./scripts/install-deps.sh

# The user postgres must be able to read the programs that it runs. It cannot below a private folder such as /root. Then the build
# goes to another folder, because this script must not change permissions.
target=${CARGO_TARGET_DIR:-$PWD/target}
mkdir -p "$target"
if [ "$(id -u)" -eq 0 ] && ! setpriv --reuid postgres --regid postgres --init-groups test -x "$target"; then
    CARGO_TARGET_DIR="/var/tmp/tamada-target-$(cksum <<<"$PWD" | cut -d' ' -f1)"
    export CARGO_TARGET_DIR
    echo "the user postgres cannot reach $target: building in $CARGO_TARGET_DIR"
    target=$CARGO_TARGET_DIR
    mkdir -p "$target"
fi

prepare "PostgreSQL 18" ./scripts/get-postgresql-18.sh "$target/pg18"
prepare "Patroni" ./scripts/get-patroni.sh "$target/patroni"
prepare "Consul" ./scripts/get-consul.sh "$target/consul"
if [ "$which" = all ] && [ "$(id -u)" -eq 0 ]; then
    prepare "a Debian for hosts" ./scripts/debian-hosts.sh root "$target/debian-forky"
fi
without=()
if [ "$which" = all ]; then
    prepare "cargo-deny" ./scripts/get-cargo-deny.sh
    # Built from source: a machine without Debian's archive does without.
    printf '\n== %s\n' "kube-apiserver"
    if ! ./scripts/get-kube-apiserver.sh "${TAMADA_TEST_KUBE_APISERVER:-$target/kube-apiserver}"; then
        skipped+=("the tests with a real kube-apiserver (it cannot be built here)")
        without=(real_server real_kubernetes)
    fi
fi
prepare "crates" cargo fetch --locked --quiet

: "${TAMADA_TEST_PG_BIN:=$(printf '%s:' /usr/lib/postgresql/*/bin)$target/pg18/bin}"
: "${TAMADA_TEST_PATRONI_BIN:=$target/patroni/bin}"
: "${TAMADA_TEST_CONSUL:=$target/consul}"
: "${TAMADA_TEST_KUBE_APISERVER:=$target/kube-apiserver}"
export TAMADA_TEST_PG_BIN TAMADA_TEST_PATRONI_BIN TAMADA_TEST_CONSUL TAMADA_TEST_KUBE_APISERVER
# The same tree gives the same result. Set PROPTEST_RNG_SEED and PROPTEST_CASES to test more.
: "${PROPTEST_RNG_SEED:=1}"
export PROPTEST_RNG_SEED
# Nothing is built twice here, and incremental compilation costs time and space.
[ -z "${CI:-}" ] || export CARGO_INCREMENTAL=0

step "format" cargo fmt --all --check
step "tidy" cargo xtask tidy
step "clippy" cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
if command -v cargo-deny >/dev/null; then
    checks=(bans licenses sources)
    # The list of advisories is not in the registry, and not every machine can fetch it.
    if timeout 120 cargo deny --locked fetch db >/dev/null 2>&1; then
        checks+=(advisories)
    else
        skipped+=("advisories (their list cannot be fetched here: https://github.com/rustsec/advisory-db)")
    fi
    step "cargo deny: $(list "${checks[@]}")" cargo deny --locked check "${checks[@]}"
else
    skipped+=("licences, sources, advisories (no cargo-deny here: make deps installs it)")
fi
long_ones=()
if command -v cargo-nextest >/dev/null; then
    [ "$which" != all ] || long_ones=(--run-ignored all)
    [ ${#without[@]} -eq 0 ] || long_ones+=(-E "not test(/$(IFS="|" && echo "${without[*]}")/)")
    step "tests" cargo nextest run --cargo-quiet --locked --workspace --profile ci "${long_ones[@]}"
else
    [ "$which" != all ] || long_ones=(-- --include-ignored)
    for name in "${without[@]}"; do long_ones+=(--skip "$name"); done
    step "tests" cargo test --quiet --locked --workspace --no-fail-fast "${long_ones[@]}"
fi

echo
[ ${#skipped[@]} -eq 0 ] || echo "make test: skipped: $(list "${skipped[@]}")"
[ ${#passed[@]} -eq 0 ] || echo "make test: passed: $(list "${passed[@]}")"
if [ ${#failed[@]} -gt 0 ]; then
    echo "make test: FAILED after $((SECONDS - begin)) s: $(list "${failed[@]}")"
    exit 1
fi
echo "make test: everything passed in $((SECONDS - begin)) s"
