#!/usr/bin/env bash
# Installs the missing packages that the build, the tests and the demo need on Debian or Ubuntu.
#   install-deps.sh           everything: for the build and for the tests
#   install-deps.sh build     only what `cargo build` needs
#   install-deps.sh demo      the same, PostgreSQL and etcd
#   install-deps.sh package   the same, and the tools that build packages
# Needs root or sudo. It starts no service, now or at boot, and creates no PostgreSQL cluster.
set -euo pipefail

packages=()

# want PACKAGE TEST...: PACKAGE is missing if the command TEST fails.
want() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || packages+=("$package")
}

any_file() { compgen -G "$1"; }

# For the linker and ring's C code, and for the etcd client, whose code is generated from .proto files that import Google's.
want gcc command -v cc
want libc6-dev any_file '/usr/include/stdlib.h'
want protobuf-compiler command -v protoc
want libprotobuf-dev any_file '/usr/include/google/protobuf/descriptor.proto'

case ${1:-all} in
build) ;;
package)
    want dpkg command -v dpkg-deb
    want rpm command -v rpmbuild
    want binutils command -v objdump
    want xz-utils command -v xz
    ;;
demo)
    want postgresql any_file '/usr/lib/postgresql/*/bin/initdb'
    want etcd-server command -v etcd
    ;;
all)
    want postgresql any_file '/usr/lib/postgresql/*/bin/initdb'
    want etcd-server command -v etcd
    want etcd-client command -v etcdctl
    want iproute2 command -v ip
    want procps command -v ps
    want prometheus command -v promtool
    want haproxy any_file '/usr/sbin/haproxy'
    want openssl command -v openssl
    # The tests start it with Debian's class path.
    want zookeeper any_file '/usr/share/java/zookeeper.jar'
    want ca-certificates any_file '/etc/ssl/certs/ca-certificates.crt'
    # Debian's interpreter: the user postgres cannot read one in a home folder.
    want python3-venv /usr/bin/python3 -c 'import ensurepip, venv'
    ;;
*)
    echo "install-deps.sh: unknown set of packages '$1': give 'build', 'demo', 'package' or nothing" >&2
    exit 2
    ;;
esac

[ ${#packages[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "install-deps.sh: no apt-get on this machine; install the equivalents of these Debian packages: ${packages[*]}" >&2
    exit 1
fi

if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps.sh: not root, and sudo is missing; as root run: apt-get install ${packages[*]}" >&2
        exit 1
    fi
    sudo "$0" "$@" && exit 0
    echo "install-deps.sh: sudo failed; as root run: apt-get install ${packages[*]}" >&2
    exit 1
fi

echo "installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
no_cluster=/etc/postgresql-common/createcluster.d/50-tamada.conf
own_policy=

restore() {
    rm -f "$log" "$no_cluster"
    rmdir "$(dirname "$no_cluster")" 2>/dev/null || true
    [ -z "$own_policy" ] || rm -f "$policy"
}
trap restore EXIT
trap 'exit 1' INT TERM HUP

# Debian starts a service when it is installed, and creates a cluster "main". The tests start their own servers, so neither is
# wanted. An existing policy belongs to the administrator and stays.
if [ ! -e "$policy" ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
mkdir -p "$(dirname "$no_cluster")"
echo "create_main_cluster = off" >"$no_cluster"

# Package servers sometimes fail for a moment, and another apt may hold the lock.
attempt() {
    local try
    for try in 1 2 3; do
        if apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >"$log" 2>&1 </dev/null; then
            return 0
        fi
        [ "$try" = 3 ] || sleep $((try * 5))
    done
    cat "$log" >&2
    echo "install-deps.sh: 'apt-get $*' failed three times; the output is above" >&2
    return 1
}

installed() { dpkg-query -W -f '${Package}\n' | sort -u; }

# Debian enables the services of a package. Packages that are installed here only for their programs must not run after a boot.
disable_services() {
    local unit
    command -v systemctl >/dev/null || return 0
    while read -r unit; do
        case $unit in
        *@.service | *@.timer) ;;
        *) systemctl --quiet disable "$unit" >/dev/null 2>&1 || true ;;
        esac
    done < <(xargs -r dpkg -L 2>/dev/null | grep -E '/systemd/system/[^/]+\.(service|timer|socket)$' | xargs -r -n 1 basename | sort -u)
}

before=$(installed)
attempt update
attempt install --no-install-recommends "${packages[@]}"
comm -13 <(echo "$before") <(installed) | disable_services
