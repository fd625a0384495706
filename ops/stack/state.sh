# shellcheck shell=bash
# What the commands that work on a running Martlet share: where a state folder keeps what. Source it after lib.sh.
#
#   STATE/ports            the ports, as shell assignments
#   STATE/settings         which parts are ours, and how to reach them, as shell assignments (0600)
#   STATE/env              what a user needs, as shell exports (0600)
#   STATE/services/*.env   what each service is started with (0600)
#   STATE/bin, daemon      the programs that run; copies, so that a build can go on beside them
#   STATE/postgres, docker, registry   the parts, where they are ours
#   STATE/run/*.pid        "PID STARTTIME" of each service
#   STATE/log/*.log
#   /run/martlet/<id>      where runner and proxy meet (MARTLET_HANDOVER_DIR)

STACK=$MARTLET_ROOT/ops/stack
SERVICES=(api runner proxy ssh-gateway)

default_state() { echo "${MARTLET_STATE:-$MARTLET_ROOT/.martlet}"; }

use_state() {
    STATE=$(readlink -m "$1")
    # shellcheck source=/dev/null
    [ ! -r "$STATE/ports" ] || . "$STATE/ports"
    # shellcheck source=/dev/null
    [ ! -r "$STATE/settings" ] || . "$STATE/settings"
}

need_state() {
    use_state "$1"
    [ -r "$STATE/settings" ] || fail "there is no Martlet in $STATE" "run ops/quickstart, or name its folder with --state"
}

service_pidfile() { echo "$STATE/run/$1.pid"; }
handover_folder() { run_folder "$STATE"; }
service_log() { echo "$STATE/log/$1.log"; }

# query SQL: one value out of the database, as its owner. The text goes in by stdin: it may hold a password.
query() { PGOPTIONS='-c client_min_messages=warning' run_psql "$DATABASE_URL" --no-psqlrc -XAtq -v ON_ERROR_STOP=1 <<<"$1"; }
