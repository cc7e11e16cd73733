#!/usr/bin/env bash
# Debian hosts on this machine for tests: each has its own root (an overlay), network, processes and systemd.
#   debian-hosts.sh root DIR               create the shared root, once: about 90 s and 900 MiB
#   debian-hosts.sh up WORK ROOT COUNT     start node1 to nodeCOUNT (10.78.0.11 and so on) on a network of their own
#   debian-hosts.sh in WORK NODE CMD...    run a command on a host, or on `lan`: this machine's files, their network
#   debian-hosts.sh crash WORK NODE        kill all its processes
#   debian-hosts.sh boot WORK NODE         start it again
#   debian-hosts.sh down WORK              stop and remove them
# Needs root, iproute2, debootstrap, overlayfs and a writable cgroup2. This machine's network is not touched: the hosts' bridge
# is in a network namespace too.
set -euo pipefail

die() { echo "debian-hosts.sh: $*" >&2 && exit 1; }

usage() { sed -n '3,8s/^#   //p' "$0" >&2 && exit 2; }

suite=${TAMADA_TEST_SUITE:-forky}
case $suite in
forky) version=18 vip_manager=vip-manager2 ;;
trixie) version=17 vip_manager=vip-manager2 ;;
bookworm) version=15 vip_manager=vip-manager ;;
*) die "unknown suite $suite: use forky, trixie or bookworm" ;;
esac

# ---- the root

packages="postgresql-$version postgresql-common etcd-server etcd-client haproxy $vip_manager patroni python3-psycopg2 python3-etcd"

make_root() {
    local root=$1 mirror scripts=/usr/share/debootstrap/scripts
    [ ! -e "$root/.complete" ] || return 0
    command -v debootstrap >/dev/null || { apt-get update -q && apt-get install -y -q debootstrap; }
    [ -e "$scripts/$suite" ] || ln -s sid "$scripts/$suite"
    mirror=$(sed -nE 's/^URIs: *(http[^ ]*debian)\/? *$/\1/p; s/^deb +(\[[^]]*\] +)?(http[^ ]*debian)\/? .*/\2/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1 || true)
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include=ca-certificates,locales,iproute2,procps,curl,hostname,systemd,systemd-sysv \
        "$suite" "$root" "${mirror:-http://deb.debian.org/debian}"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    # Installed services must not start here.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    mount -t proc proc "$root/proc"
    # Local variables no longer exist when the script ends.
    # shellcheck disable=SC2064
    trap "umount '$root/proc'" EXIT
    DEBIAN_FRONTEND=noninteractive chroot "$root" sh -c "
        apt-get -o Acquire::Check-Valid-Until=false update -q
            apt-get install -y -q --no-install-recommends $packages"
    rm "$root/usr/sbin/policy-rc.d"
    touch "$root/.complete"
}

# ---- the hosts

cgroups=$(findmnt -n -o TARGET -t cgroup2 | head -n 1)

# Names of everything that belongs to the hosts in $work begin with this.
prefix() { cat "$work/prefix"; }

cgroup() { echo "$cgroups/$(prefix)-$1"; }

address() { echo "10.78.0.1${1#node}"; }

up() {
    local count=$1 i
    [ "$(id -u)" -eq 0 ] || die "only root can start hosts"
    [ -n "$cgroups" ] || die "cannot start systemd: this machine has no cgroup2 file system"
    [ -e "$root/.complete" ] || die "$root is incomplete: run '$0 root $root' first"
    mkdir -p "$work"
    echo "tamada$$" >"$work/prefix"
    realpath "$root" >"$work/lower"
    ip netns add "$(prefix)-lan"
    ip -n "$(prefix)-lan" link add name lan type bridge
    ip -n "$(prefix)-lan" addr add 10.78.0.1/24 dev lan
    ip -n "$(prefix)-lan" link set dev lan up
    ip -n "$(prefix)-lan" link set dev lo up
    for ((i = 1; i <= count; i++)); do
        connect "node$i"
        boot "node$i"
    done
    for ((i = 1; i <= count; i++)); do
        await_boot "node$i"
    done
}

connect() {
    local namespace
    namespace=$(prefix)-$1
    ip netns add "$namespace"
    ip -n "$namespace" link add name eth0 type veth peer name "$1" netns "$(prefix)-lan"
    ip -n "$(prefix)-lan" link set dev "$1" master lan
    ip -n "$(prefix)-lan" link set dev "$1" up
    ip -n "$namespace" addr add "$(address "$1")/24" dev eth0
    ip -n "$namespace" link set dev lo up
    ip -n "$namespace" link set dev eth0 up
    ip -n "$namespace" route add default via 10.78.0.1
}

# Removes all addresses of a crashed host, so that nothing answers for it.
disconnect() {
    ip -n "$(prefix)-lan" link delete dev "$1" 2>/dev/null || true
    ip netns delete "$(prefix)-$1" 2>/dev/null || true
}

boot() {
    local node=$1 folder=$work/$1
    mkdir -p "$folder/upper" "$folder/work" "$folder/root" "$(cgroup "$node")"
    (
        echo "$BASHPID" >"$(cgroup "$node")/cgroup.procs"
        exec ip netns exec "$(prefix)-$node" unshare --mount --uts --ipc --pid --cgroup --fork --mount-proc \
            bash "$0" init "$work" "$node"
    ) >"$folder/console" 2>&1 </dev/null &
}

# Process 1 of the host: mounts its file systems, then becomes systemd.
init() {
    local root=$work/$1/root device node
    mount --make-rprivate /
    mount -t overlay overlay -o "lowerdir=$(cat "$work/lower"),upperdir=$work/$1/upper,workdir=$work/$1/work" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    mkdir "$root/dev/pts" "$root/dev/shm"
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    hostname "$1"
    echo "$1" >"$root/etc/hostname"
    {
        echo "127.0.0.1 localhost"
        for node in node1 node2 node3 node4 node5; do
            echo "$(address "$node") $node"
        done
    } >"$root/etc/hosts"
    cd "$root"
    mkdir -p .old
    pivot_root . .old
    umount -l /.old
    exec env -i container=tamada-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --log-target=console --log-level=notice --show-status=no
}

# The process ID on this machine of the host's process 1.
init_process() {
    local process
    while read -r process; do
        if [ "$(sed -n 's/^NSpid:.*\t//p' "/proc/$process/status" 2>/dev/null)" = 1 ]; then
            echo "$process"
            return
        fi
    done < <(find "$(cgroup "$1")" -name cgroup.procs -exec cat {} + 2>/dev/null)
    return 1
}

await_boot() {
    local tries=300 state=
    while [ $((tries -= 1)) -gt 0 ]; do
        state=$(inside "$1" systemctl is-system-running 2>/dev/null) || true
        case $state in running | degraded) return ;; esac
        sleep 0.1
    done
    die "$1 does not start (state '$state'): see $work/$1/console"
}

inside() {
    local node=$1 process
    shift
    if [ "$node" = lan ]; then
        exec ip netns exec "$(prefix)-lan" "$@"
    fi
    process=$(init_process "$node") || die "$node does not run"
    nsenter --target "$process" --mount --uts --ipc --net --pid --root --wd \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=dumb "$@"
}

crash() {
    local group tries=100
    group=$(cgroup "$1")
    [ -d "$group" ] || return 0
    echo 1 >"$group/cgroup.kill"
    while ! find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do
        [ $((tries -= 1)) -gt 0 ] || die "cannot kill the processes of $1"
        sleep 0.1
    done
}

down() {
    local folder node
    [ -e "$work/prefix" ] || return 0
    for folder in "$work"/node*/; do
        node=$(basename "$folder")
        crash "$node"
        disconnect "$node"
    done
    ip netns delete "$(prefix)-lan" 2>/dev/null || true
    rm -rf "$work"
}

[ $# -ge 2 ] || usage
command=$1 work=$2
shift 2
case $command in
root) make_root "$work" ;;
up) root=$1 && up "$2" ;;
init) init "$1" ;;
in) inside "$@" ;;
crash) crash "$1" && disconnect "$1" ;;
boot) connect "$1" && boot "$1" && await_boot "$1" ;;
down) down ;;
*) usage ;;
esac
