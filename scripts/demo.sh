#!/usr/bin/env bash
# A cluster of three members on this machine, to watch and to break. Starts etcd and three members on the loopback address, as
# the user postgres if root starts it. Ctrl-C stops everything and removes all files.
#   demo.sh           runs until Ctrl-C
#   demo.sh --check   kills the primary, waits for the failover and for the return of the former primary, and stops
# TAMADA_DEMO_PROGRAM is the program to show (default: target/release/tamada).
set -euo pipefail

mode=show
inside=
while [ $# -gt 0 ]; do
    case $1 in
    --check) mode=check ;;
    --inside) inside=$2 && shift ;;
    *) echo "demo.sh: unknown argument '$1': give --check or nothing" >&2 && exit 2 ;;
    esac
    shift
done

# ---- the folder, and who owns it

# PostgreSQL refuses to run as root, and the user postgres may not be able to read this folder. So the script copies itself and
# the program into a temporary folder and continues there.
if [ -z "$inside" ]; then
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    program=${TAMADA_DEMO_PROGRAM:-${CARGO_TARGET_DIR:-$here/../target}/release/tamada}
    [ -x "$program" ] || { echo "demo.sh: there is no $program; run 'cargo build --release' first" >&2 && exit 1; }
    inside=$(mktemp -d /tmp/tamada-demo.XXXXXX)
    cp "$program" "$inside/tamada"
    cp "${BASH_SOURCE[0]}" "$inside/demo.sh"
    arguments=(--inside "$inside")
    [ "$mode" = show ] || arguments+=("--$mode")
    user=()
    if [ "$(id -u)" -eq 0 ]; then
        chown -R postgres:postgres "$inside"
        user=(setpriv --reuid=postgres --regid=postgres --init-groups)
    fi
    exec env -i HOME="$inside" TERM="${TERM:-dumb}" LC_ALL=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
        "${user[@]}" bash "$inside/demo.sh" "${arguments[@]}"
fi

cd "$inside"
members=(pg1 pg2 pg3)
declare -A agent postgresql_port rest_port absent_since
etcd=
writer=
begin=$EPOCHREALTIME
interactive=
[ -t 1 ] && [ "$mode" = show ] && interactive=yes

fail() {
    echo "demo.sh: $*" >&2
    for log in "$inside"/*.log; do
        echo "==== $log" >&2
        tail -n 30 "$log" >&2
    done
    exit 1
}

# ---- the end

alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }

postmaster() { head -n 1 "$inside/$1/data/postmaster.pid" 2>/dev/null || true; }

# wait_while SECONDS COMMAND...: false if the command still succeeds after that.
wait_while() {
    local tries=$(($1 * 10))
    shift
    while "$@"; do
        [ $((tries -= 1)) -gt 0 ] || return 1
        sleep 0.1
    done
}

any_agent() {
    local member
    for member in "${members[@]}"; do
        if alive "${agent[$member]:-}"; then return 0; fi
    done
    return 1
}

# The folders of the guards' sockets: they outlive the guards.
guard_folders() {
    local file words
    for file in /proc/[0-9]*/cmdline; do
        mapfile -d '' -t words <"$file" || continue
        [[ "${words[*]}" != *" guard serve $inside/"* ]] || dirname "${words[4]}"
    done 2>/dev/null
}

clean_up() {
    local status=$? member folder folders
    trap '' INT TERM HUP
    [ -z "$interactive" ] || echo
    echo "stopping"
    mapfile -t folders < <(guard_folders)
    ! alive "$writer" || kill "$writer" 2>/dev/null || true
    for member in "${members[@]}"; do
        ! alive "${agent[$member]:-}" || kill -TERM "${agent[$member]}" 2>/dev/null || true
    done
    wait_while 30 any_agent || true
    for member in "${members[@]}"; do
        ! alive "${agent[$member]:-}" || kill -KILL "${agent[$member]}" 2>/dev/null || true
        # A killed agent leaves its server running.
        ! alive "$(postmaster "$member")" || kill -QUIT "$(postmaster "$member")" 2>/dev/null || true
    done
    for member in "${members[@]}"; do
        wait_while 10 alive "$(postmaster "$member")" || kill -KILL "$(postmaster "$member")" 2>/dev/null || true
    done
    ! alive "$etcd" || kill -KILL "$etcd" 2>/dev/null || true
    wait 2>/dev/null || true
    for folder in "${folders[@]}"; do
        [[ "$folder" != */tamada-* ]] || rm -rf "$folder"
    done
    rm -rf "$inside"
    echo "removed $inside"
    exit "$status"
}
trap clean_up EXIT
# Ctrl-C is the usual way to stop.
trap 'exit 0' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# ---- the start

bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
[ -x "$bin/initdb" ] || bin=$(dirname "$(command -v initdb || true)")
[ -x "$bin/initdb" ] || fail "no PostgreSQL here: run scripts/install-deps.sh"
command -v etcd >/dev/null || fail "no etcd here: run scripts/install-deps.sh"

# The first port from $1 on that nobody listens on goes to $port.
find_port() {
    port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((port + 10))
    done
}

# Own session: Ctrl-C is for this script, which ends the others in order. They end with it if it is killed.
run() { exec setsid setpriv --pdeathsig TERM -- "$@"; }

find_port 22379
etcd_port=$port
find_port 22380
etcd_peer_port=$port
for i in 0 1 2; do
    find_port $((25431 + i))
    postgresql_port[${members[i]}]=$port
    find_port $((28008 + i))
    rest_port[${members[i]}]=$port
done

write_config() {
    mkdir -p "$inside/$1"
    cat >"$inside/$1.yml" <<YAML
scope: demo
name: $1

restapi:
  listen: 127.0.0.1:${rest_port[$1]}
  connect_address: 127.0.0.1:${rest_port[$1]}

etcd3:
  host: 127.0.0.1:$etcd_port

bootstrap:
  dcs:
    ttl: 6
    loop_wait: 1
    retry_timeout: 2
    postgresql:
      use_pg_rewind: true
  initdb:
  - encoding: UTF8
  - data-checksums
  - no-sync

postgresql:
  listen: 127.0.0.1:${postgresql_port[$1]}
  connect_address: 127.0.0.1:${postgresql_port[$1]}
  data_dir: $inside/$1/data
  bin_dir: $bin
  pgpass: $inside/$1/pgpass
  pg_hba:
  - local all all scram-sha-256
  - host all all 127.0.0.1/32 scram-sha-256
  - host replication all 127.0.0.1/32 scram-sha-256
  authentication:
    superuser: {username: postgres, password: demo}
    replication: {username: replicator, password: demo}
    rewind: {username: rewind_user, password: demo}
  basebackup:
  - checkpoint: fast
  - no-sync
  parameters:
    unix_socket_directories: $inside/$1
    shared_buffers: 32MB
YAML
}

start_member() {
    run "$inside/tamada" run "$inside/$1.yml" >>"$inside/$1.log" 2>&1 </dev/null &
    agent[$1]=$!
    # The shell must not print a message when it ends: the script prints an event.
    disown "$!"
}

# ---- a client that writes all the time and reports each outage

ports=${postgresql_port[pg1]},${postgresql_port[pg2]},${postgresql_port[pg3]}
conninfo="host=127.0.0.1,127.0.0.1,127.0.0.1 port=$ports user=postgres password=demo dbname=postgres"
conninfo+=" target_session_attrs=read-write"

event() { printf '%(%H:%M:%S)T  %s\n' -1 "$*" >>"$inside/events"; }

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

sql() { PGCONNECT_TIMEOUT=2 "$bin/psql" -XAtq -d "$conninfo" -c "$1" 2>/dev/null; }

write_rows() {
    local member='' now='' port last=$begin silence
    while :; do
        if port=$(sql "insert into demo default values returning current_setting('port')"); then
            silence=$(seconds_since "$last")
            for now in "${members[@]}"; do
                [ "${postgresql_port[$now]}" != "$port" ] || break
            done
            if [ -z "$member" ]; then
                event "$now takes writes, $silence s after the start"
            elif [ "$now" != "$member" ]; then
                event "the primary was $member and is $now: no writes for $silence s"
            elif [ "${silence%.*}" -ge 1 ]; then
                event "$now takes writes again, after $silence s"
            fi
            member=$now
            last=$EPOCHREALTIME
        else
            sql "create table if not exists demo (at timestamptz default now())" || true
        fi
        sleep 0.05
    done
}

# ---- the screen

leader() {
    local code member
    for member in "${members[@]}"; do
        code=
        if exec 3<>"/dev/tcp/127.0.0.1/${rest_port[$member]}"; then
            printf 'GET /primary HTTP/1.0\r\n\r\n' >&3
            read -r -t 1 _ code _ <&3 || true
            exec 3>&-
        fi 2>/dev/null
        if [ "$code" = 200 ]; then echo "$member" && return; fi
    done
}

table() { "$inside/tamada" ctl -c "$inside/pg1.yml" list 2>&1 || true; }

# Short commands for the user: connection strings and paths of configuration files are longer than a line.
write_commands() {
    printf '#!/bin/sh\nexec %s/psql "%s" "$@"\n' "$bin" "$conninfo" >"$inside/psql"
    printf '#!/bin/sh\nexec %s/tamada ctl -c %s/pg1.yml "$@"\n' "$inside" "$inside" >"$inside/ctl"
    chmod 755 "$inside/psql" "$inside/ctl"
}

how_to() {
    local primary
    primary=$(leader)
    echo "Connect      $inside/psql"
    if [ -n "$primary" ]; then
        echo "Kill $primary     kill -9 ${agent[$primary]} $(postmaster "$primary")      (primary and agent; both come back)"
    else
        echo "Kill ...     there is no primary now"
    fi
    echo "Switch over  $inside/ctl switchover demo --force"
    echo "Why?         $inside/ctl why"
    echo "Logs         $inside/*.log"
}

# The columns of the table that fit on a small screen.
small_table() {
    local text
    text=$("$inside/ctl" list -f tsv 2>&1) || { echo "$text" && return; }
    awk -F '\t' '{ printf "%-7s %-16s %-8s %-18s %3s %8s\n", $2, $3, $4, $5, $6, NR == 1 ? "Lag (MB)" : $10 }' <<<"$text"
}

# The last change of the leader, and how long nobody could write.
last_change=
change_shown=
changes() {
    local lines
    lines=$(wc -l <"$inside/events")
    # "ctl why" needs the events of all members, so it is asked again until it prints something.
    if [ "$lines" != "$change_shown" ] || [ -z "$last_change" ]; then
        last_change=$("$inside/ctl" why 2>/dev/null | grep -E '^(failover|switchover|return|planned|manual)|no writes for' || true)
        change_shown=$lines
    fi
    fold -s -w 79 <<<"$last_change"
}

draw() {
    local text
    text=$(
        echo "Three PostgreSQL servers, one primary. Ctrl-C stops and removes everything."
        echo
        small_table
        echo
        how_to
        echo
        tail -n 5 "$inside/events"
        echo
        changes
    )
    # Must fit a terminal of 80 columns and 24 lines.
    text=$(cut -c 1-79 <<<"$text" | head -n 23)
    printf '\e[H%s\e[J' "${text//$'\n'/$'\e[K\n'}"
}

shown=0
last_shape=
# Prints what has changed since the last call.
print_changes() {
    local now shape lines
    lines=$(wc -l <"$inside/events")
    if [ "$lines" -gt "$shown" ]; then
        tail -n +$((shown + 1)) "$inside/events" | head -n $((lines - shown))
        shown=$lines
    fi
    # Without the WAL positions, which change with every write.
    now=$(table)
    shape=$(grep '^|' <<<"$now" | cut -d'|' -f1-6 || true)
    [ "$shape" = "$last_shape" ] || printf '%s\n' "$now"
    last_shape=$shape
}

# Instead of an init system: starts an agent again that ended some seconds ago.
revive() {
    local member
    for member in "${members[@]}"; do
        if alive "${agent[$member]}"; then
            absent_since[$member]=
        elif [ -z "${absent_since[$member]:-}" ]; then
            absent_since[$member]=$SECONDS
            event "$member: the agent has ended"
        elif [ $((SECONDS - absent_since[$member])) -ge 12 ]; then
            event "$member: the agent is started again"
            start_member "$member"
        fi
    done
}

show() {
    if [ -n "$interactive" ]; then draw; else print_changes; fi
}

# ---- the cluster

: >"$inside/events"
write_commands
run etcd --name demo --data-dir "$inside/etcd" --logger zap --log-level warn --initial-cluster-state new \
    --initial-cluster "demo=http://127.0.0.1:$etcd_peer_port" \
    --listen-peer-urls "http://127.0.0.1:$etcd_peer_port" \
    --initial-advertise-peer-urls "http://127.0.0.1:$etcd_peer_port" \
    --listen-client-urls "http://127.0.0.1:$etcd_port" \
    --advertise-client-urls "http://127.0.0.1:$etcd_port" >"$inside/etcd.log" 2>&1 </dev/null &
etcd=$!
for member in "${members[@]}"; do
    write_config "$member"
    start_member "$member"
done
write_rows &
writer=$!

if [ "$mode" = show ]; then
    [ -z "$interactive" ] || printf '\e[2J'
    while :; do
        show
        revive
        sleep 1
    done
fi

# wait_until WHAT SECONDS COMMAND...
wait_until() {
    local what=$1 end=$((SECONDS + $2))
    shift 2
    until "$@"; do
        print_changes
        [ "$SECONDS" -lt "$end" ] || fail "$what: not in time"
        revive
        sleep 0.5
    done
    print_changes
    echo "$what: yes"
}

healthy() {
    local text
    text=$(table)
    [ "$(grep -c '| Leader *| running ' <<<"$text")" = 1 ] && [ "$(grep -c '| Replica *| streaming ' <<<"$text")" = 2 ]
}

wait_until "one primary, two streaming replicas" 90 healthy
wait_until "the client writes" 20 grep -q 'takes writes' "$inside/events"
how_to
primary=$(leader)
echo "killing $primary"
kill -9 "${agent[$primary]}" "$(postmaster "$primary")"
wait_until "failover" 60 grep -q "the primary was $primary and is" "$inside/events"
"$inside/ctl" why
wait_until "$primary has come back as a replica" 60 healthy
[ "$(leader)" != "$primary" ] || fail "$primary is the primary again"
