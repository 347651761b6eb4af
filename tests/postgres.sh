#!/usr/bin/env bash
# Starts a PostgreSQL of its own in a temporary directory, says where it listens, and ends it when standard input ends.
#
#   tests/postgres.sh [--standby-of DIRECTORY PORT] [SETTING=VALUE...]
#
# Prints "DIRECTORY PORT": a Unix socket in that directory, and TCP on 127.0.0.1; user and database `s3o`, no password. Durability
# is off (`fsync=on` as a setting turns it on). The server must not run as root: then it runs as the user postgres.
# A standby is made of such a server, and streams from it under the name `standby`.
set -euo pipefail

fail() {
    printf 'tests/postgres.sh: %s\n' "$*" >&2
    exit 1
}

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1 || true)
[ -n "$bin" ] || bin=$(pg_config --bindir 2>/dev/null || true)
[ -x "$bin/initdb" ] || fail "PostgreSQL's server programs are missing: install the Debian package postgresql (tests/run does)"

as_user=()
if [ "$(id -u)" = 0 ]; then
    id postgres >/dev/null 2>&1 || fail "there is no user postgres, and the server must not run as root"
    # Nothing between us and the server, which tests stop and kill.
    as_user=(setpriv --reuid=postgres --regid=postgres --init-groups --)
fi

directory=$(mktemp -d)
server=
finish() {
    trap - EXIT
    if [ -n "$server" ]; then
        "${as_user[@]}" "$bin/pg_ctl" stop -D "$directory/data" -m immediate -s >/dev/null 2>&1 || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$directory"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP
[ ${#as_user[@]} = 0 ] || chown postgres "$directory"

make_primary() {
    "${as_user[@]}" "$bin/initdb" -D "$directory/data" -U s3o -A trust -E UTF8 --locale=C.UTF-8 --no-sync
}

# make_standby DIRECTORY PORT
make_standby() {
    "${as_user[@]}" "$bin/pg_basebackup" -D "$directory/data" --write-recovery-conf --checkpoint=fast --no-sync \
        --dbname "host=$1 port=$2 user=s3o application_name=standby"
}

making=(make_primary)
if [ "${1:-}" = --standby-of ]; then
    making=(make_standby "$2" "$3")
    shift 3
fi
"${making[@]}" >"$directory/making.log" 2>&1 </dev/null || { cat "$directory/making.log" >&2; fail "${making[0]} failed"; }

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' 2>/dev/null ||
    echo $((20000 + RANDOM % 10000)))
settings=(-c "fsync=off" -c "synchronous_commit=on" -c "full_page_writes=off" -c "max_connections=200")
for setting in "$@"; do
    settings+=(-c "$setting")
done
"${as_user[@]}" "$bin/postgres" -D "$directory/data" -k "$directory" -p "$port" -c listen_addresses=127.0.0.1 \
    "${settings[@]}" >"$directory/server.log" 2>&1 </dev/null &
server=$!

for _ in $(seq 300); do
    "$bin/pg_isready" -q -h "$directory" -p "$port" && break
    kill -0 "$server" 2>/dev/null || { cat "$directory/server.log" >&2; fail "the server ended at its start"; }
    sleep 0.05
done
[ "${making[0]}" = make_standby ] || "$bin/createdb" -h "$directory" -p "$port" -U s3o s3o || fail "the server does not answer"
echo "$directory $port"
# Until whoever started it ends, however that ends.
cat >/dev/null
