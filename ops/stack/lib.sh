# shellcheck shell=bash
# What every script under ops/ shares: strict mode, paths, progress lines, ports, processes and waiting.
# Source it, do not run it:   . "$(dirname "$(readlink -f "$0")")/stack/lib.sh"

set -euo pipefail
umask 022

MARTLET_ROOT=$(dirname "$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")")
MARTLET_CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/martlet
# One clock for a script and those it calls, so that the times in a run follow each other.
export MARTLET_OPS_STARTED_AT=${MARTLET_OPS_STARTED_AT:-${EPOCHREALTIME/[^0-9]/}}

# ---- what the user reads -------------------------------------------------------------------------------------------

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' RED='' GREEN='' YELLOW='' PLAIN=''
fi

# Milliseconds since the script began.
elapsed_ms() {
    local now=${EPOCHREALTIME/[^0-9]/}
    echo $(((now - MARTLET_OPS_STARTED_AT) / 1000))
}

# 12345 → 12.3s
as_seconds() { printf '%d.%ds' $(($1 / 1000)) $((($1 % 1000) / 100)); }

progress() { printf '%s%7s%s %s\n' "$DIM" "$(as_seconds "$(elapsed_ms)")" "$PLAIN" "$*" >&2; }
step() { progress "$BOLD$*$PLAIN"; }
note() { progress "$*"; }
good() { progress "$GREEN$*$PLAIN"; }
warn() { progress "${YELLOW}warning:$PLAIN $*"; }

# fail MESSAGE [WHAT-TO-DO…]: says it and ends the script.
fail() {
    progress "${RED}error:$PLAIN $1"
    shift
    local hint
    for hint in "$@"; do printf '        %s\n' "$hint" >&2; done
    exit 1
}

# The help of a script is the comment block at its head, so that it cannot be forgotten.
print_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }

# wants_help "$@" && exit …: prints the help when any argument asks for it.
help_if_asked() {
    local argument
    for argument in "$@"; do
        case $argument in -h | --help | help)
            print_help
            exit 0
            ;;
        esac
    done
}

bad_usage() {
    print_help >&2
    echo >&2
    fail "$1"
}

# ---- preconditions -------------------------------------------------------------------------------------------------

have() { type -P "$1" >/dev/null; }

need_command() { have "$1" || fail "the command '$1' is missing" "run ops/stack/packages, or install $2"; }

need_root() {
    [ "$(id -u)" = 0 ] || fail "$1 needs root (Docker, iptables, mounts and network namespaces)" \
        "run it again as root: sudo -E $0"
}

# An absolute path without symlinks; the folder is made.
absolute_folder() {
    mkdir -p "$1"
    readlink -f "$1"
}

# A short name for a folder, stable and fit for paths: the parts' sockets live in /run/martlet/<id>, because the path of a
# Unix socket may have 107 bytes only and a state folder may be deeper than that.
folder_id() { printf '%s' "$(readlink -m "$1")" | sha256sum | cut -c1-12; }
run_folder() { echo "/run/martlet/$(folder_id "$1")"; }

# Bytes of randomness as lower-case hex.
random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# Writes stdin to a file that only its owner may read, whole or not at all.
write_secret() {
    local file=$1
    (umask 077 && cat >"$file.new" && mv "$file.new" "$file")
}

# ---- ports ---------------------------------------------------------------------------------------------------------

# Who listens on a TCP port of this machine, as "name (pid N)"; nothing when it is free.
port_holder() {
    ss -Hltnp "sport = :$1" 2>/dev/null | awk 'NR == 1 {
        if (match($0, /users:\(\("[^"]+",pid=[0-9]+/)) {
            split(substr($0, RSTART, RLENGTH), part, /[",=]/); print part[2] " (pid " part[5] ")"
        } else print "a process of another user"
    }'
}

is_port() { [[ $1 =~ ^[1-9][0-9]{0,4}$ ]] && [ "$1" -le 65535 ]; }

# need_free_port WHAT PORT OPTION: ends the script when the port cannot be had.
need_free_port() {
    local what=$1 port=$2 option=$3 holder
    is_port "$port" || fail "$what: '$port' is not a port (1 to 65535)" "give another with $option"
    holder=$(port_holder "$port")
    [ -z "$holder" ] || fail "port $port, wanted for $what, is held by $holder" "stop that, or give another with $option"
}

# A port that is free now, below the range from which the kernel hands out ports by itself. $1.. are ports to avoid.
free_port() {
    local port avoid=" $* "
    for _ in {1..200}; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if [[ $avoid != *" $port "* ]] && [ -z "$(port_holder $port)" ]; then
            echo $port
            return
        fi
    done
    fail "no free port found between 20000 and 32000"
}

# ---- psql ------------------------------------------------------------------------------------------------------------

# run_psql URL ARGUMENTS…: the password travels in the environment, because everybody may read a process's arguments.
run_psql() {
    local url=$1 password=${PGPASSWORD:-}
    shift
    if [[ $url =~ ^(postgres(ql)?://[^:/@]+):([^@]*)@(.*)$ ]]; then
        url=${BASH_REMATCH[1]}@${BASH_REMATCH[4]}
        password=$(printf '%b' "${BASH_REMATCH[3]//%/\\x}")
    fi
    PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-5} PGPASSWORD=$password psql "$url" "$@"
}

# ---- processes -----------------------------------------------------------------------------------------------------
# A pid file holds "PID STARTTIME": a pid that the kernel gave to another process since is never signalled.

process_start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

process_state() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1; }

# The pid of a pid file, if that very process is alive.
running_pid() {
    local pid started
    [ -r "$1" ] && read -r pid started <"$1" || return 1
    [ -n "$started" ] && [ "$(process_start_time "$pid")" = "$started" ] && [ "$(process_state "$pid")" != Z ] || return 1
    echo "$pid"
}

is_running() { running_pid "$1" >/dev/null; }

# A log that grew past 20 MB over the runs is set aside once.
rotate_log() {
    local size
    size=$(stat -c %s "$1" 2>/dev/null || echo 0)
    [ "$size" -lt $((20 * 1024 * 1024)) ] || mv -f "$1" "$1.1"
}

# start_process PIDFILE LOGFILE COMMAND…: in the background, in a session of its own, so that it outlives the terminal.
start_process() {
    local pidfile=$1 logfile=$2
    shift 2
    rotate_log "$logfile"
    rm -f "$pidfile"
    # The child writes its own pid and then becomes the command: there is no moment in which nobody knows the pid.
    # shellcheck disable=SC2016
    setsid --fork bash -c '
        for descriptor in /proc/self/fd/*; do
            descriptor=${descriptor##*/}
            [ "$descriptor" -le 2 ] || eval "exec $descriptor>&-" 2>/dev/null || true
        done
        started=$(sed "s/.*) //" /proc/$$/stat | cut -d" " -f20)
        echo "$$ $started" >"$0.new" && mv "$0.new" "$0"
        exec "$@"' "$pidfile" "$@" </dev/null >>"$logfile" 2>&1
    wait_until 10 "the pid file $pidfile" test -s "$pidfile"
}

# stop_process NAME PIDFILE SIGNAL SECONDS: asks, waits, and only then kills.
stop_process() {
    local name=$1 pidfile=$2 signal=$3 seconds=$4 pid
    if ! pid=$(running_pid "$pidfile"); then
        rm -f "$pidfile"
        return 0
    fi
    kill -s "$signal" "$pid" 2>/dev/null || true
    if ! poll_until "$seconds" not is_running "$pidfile"; then
        warn "$name (pid $pid) did not end within ${seconds}s of SIG$signal and is killed"
        kill -s KILL "$pid" 2>/dev/null || true
        poll_until 10 not is_running "$pidfile" || fail "$name (pid $pid) cannot be killed" "look at /proc/$pid/stack"
    fi
    rm -f "$pidfile"
}

# ---- waiting: always with a deadline ---------------------------------------------------------------------------------

not() { ! "$@"; }

# poll_until SECONDS COMMAND…: true as soon as the command is; false at the deadline.
poll_until() {
    local deadline=$((${EPOCHREALTIME/[^0-9]/} + $1 * 1000000))
    shift
    until "$@"; do
        [ "${EPOCHREALTIME/[^0-9]/}" -lt $deadline ] || return 1
        sleep 0.05
    done
}

# wait_until SECONDS WHAT COMMAND…: as above, but the end of patience is the end of the script.
wait_until() {
    local seconds=$1 what=$2
    shift 2
    poll_until "$seconds" "$@" || fail "waited ${seconds}s in vain for $what"
}

# wait_for_process SECONDS NAME PIDFILE LOGFILE COMMAND…: gives up at once, with the log's end, when the process dies.
wait_for_process() {
    local seconds=$1 name=$2 pidfile=$3 logfile=$4 deadline
    shift 4
    deadline=$((${EPOCHREALTIME/[^0-9]/} + seconds * 1000000))
    until "$@" >/dev/null 2>&1; do
        is_running "$pidfile" || show_log_and_fail "$name ended while starting" "$logfile"
        [ "${EPOCHREALTIME/[^0-9]/}" -lt $deadline ] || show_log_and_fail "$name was not ready within ${seconds}s" "$logfile"
        sleep 0.05
    done
}

show_log_and_fail() {
    printf '%s\n' "--- the end of $2" >&2
    tail -n 25 "$2" >&2 || true
    fail "$1" "the whole log: $2"
}
