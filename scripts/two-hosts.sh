#!/usr/bin/env bash
# two-hosts.sh - two machines and a cable, on this one: pull the plug on any
# lab.
#
# Usage:    scripts/two-hosts.sh up                     until Ctrl-C
#           in other terminals, while it is up:
#           scripts/two-hosts.sh run A|B COMMAND...     a program on one host
#           scripts/two-hosts.sh shell A|B              a shell on one host
#           scripts/two-hosts.sh unplug [A|B]           at that end, else at A
#           scripts/two-hosts.sh plug
#           scripts/two-hosts.sh status
#           (unplug, plug and status may be typed where `up` runs, too)
#           scripts/two-hosts.sh down                   as Ctrl-C in `up`
#
# Host A is 10.0.0.1, host B is 10.0.0.2; neither has any other network. For
# example:
#           scripts/two-hosts.sh run A cargo lab09 server 10.0.0.1
#           scripts/two-hosts.sh run B cargo lab09 client 10.0.0.1
#           scripts/two-hosts.sh run A scripts/states.sh 7777 --watch
#
# Needs:    unshare, nsenter, setpriv (package util-linux), ip (iproute2), and
#           user namespaces for ordinary accounts. No root. Nothing is written
#           to disk. All that runs on the hosts ends with `up`, also with
#           kill -9. Another account, or another copy of this kit, has two
#           hosts of its own.
#
# How to read it
#   + A: ip ...   the command as it was run on host A.
#   status        link up, link down (pulled at this end), or no carrier
#                 (pulled at the other end).
#   While the link of a host is down, its own routes are gone: UDP and a new
#   connect say ENETUNREACH. The other host has no carrier and keeps its route.
#   A process on a host is root there and nowhere else.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# What the two processes are called that keep the hosts: the way to find them.
name_a="two-hosts A $kit_root"
name_b="two-hosts B $kit_root"
address_a=10.0.0.1 address_b=10.0.0.2

# find_hosts -> `pid_a`, `pid_b`: of this account and this kit; false if down.
find_hosts() {
    local dir first
    pid_a='' pid_b=''
    for dir in /proc/[0-9]*; do
        [[ -O $dir ]] || continue
        { IFS= read -r -d '' first <"$dir/cmdline"; } 2>/dev/null || continue
        case $first in
        "$name_a") pid_a=${dir#/proc/} ;;
        "$name_b") pid_b=${dir#/proc/} ;;
        esac
    done
    [[ -n $pid_a && -n $pid_b ]]
}

need_hosts() {
    find_hosts || fail 'the two hosts are not up' "$0 up"
}

take_host() { # A|B -> `host`, `pid`; the hosts must be up
    host=${1-}
    [[ $host == [AB] ]] || usage "which host: A or B?"
    need_hosts
    if [[ $host == A ]]; then pid=$pid_a; else pid=$pid_b; fi
}

# on PID COMMAND...: enters the user, network, process and mount namespace.
on() {
    local pid=$1
    shift
    nsenter --preserve-credentials -t "$pid" -U -n -p -m "$@"
}

set_link() { # HOST PID up|down
    say "+ $1: ip link set eth0 $3"
    on "$2" ip link set eth0 "$3"
}

# Runs as process 1 of the hosts: lays the cable, then keeps host A.
# shellcheck disable=SC2016 # it is for that bash
holder='
    set -euo pipefail
    name_a=$1 name_b=$2 address_a=$3 address_b=$4
    # Without it ps and ss -p would show the processes of outside.
    mount -t proc proc /proc 2>/dev/null || true
    told() {
        echo "+ $1: ${*:2}"
        if [[ $1 == A ]]; then "${@:2}"; else nsenter -t "$there" -n "${@:2}"; fi
    }
    # Its number here, and the one that /proc has, be it of outside.
    exec {said}< <(exec unshare -n bash -c "
        read -r own _ </proc/self/stat; echo \$own
        exec -a \"\$0\" sleep infinity >/dev/null" "$name_b")
    b=$!
    read -r there <&"$said"
    told A ip link add eth0 type veth peer name eth0 netns "$b"
    for host in A B; do
        address=address_${host,}
        told "$host" ip link set lo up
        told "$host" ip addr add "${!address}/24" dev eth0
        told "$host" ip link set eth0 up
    done
    echo ready
    exec >/dev/null
    exec -a "$name_a" bash -c "while :; do sleep infinity & wait; done"
'

up() {
    local tool line holder_pid lines
    for tool in unshare nsenter setpriv; do
        have "$tool" || fail "$tool is not installed" 'sudo apt install util-linux'
    done
    have ip || fail 'ip is not installed' 'sudo apt install iproute2'
    if find_hosts; then fail "the two hosts are up already" "$0 down"; fi
    unshare -Urn ip link set lo up 2>/dev/null || forbidden

    # Each of the two dies with its parent: unshare with this script, process 1
    # of the hosts with unshare; and with process 1 all that runs there.
    exec {lines}< <(exec setpriv --pdeathsig KILL \
        unshare -Urnpmf --kill-child bash -c "$holder" bash \
        "$name_a" "$name_b" "$address_a" "$address_b" 2>&1)
    holder_pid=$!
    # shellcheck disable=SC2064 # the process id of now
    trap "kill -KILL $holder_pid 2>/dev/null || true" EXIT
    trap 'exit 0' INT TERM HUP
    while IFS= read -r line <&"$lines" && [[ $line != ready ]]; do
        say "$line"
    done
    [[ ${line-} == ready ]] || fail 'the hosts cannot be made; see above'
    until find_hosts; do # they take their names only now
        kill -0 "$holder_pid" 2>/dev/null || fail 'the hosts are gone again'
        sleep 0.02
    done
    say "the two hosts are up: A is $address_a, B is $address_b"
    say "in another terminal:  scripts/two-hosts.sh run A cargo lab12 server" \
        "$address_a"
    say "and in a third:       scripts/two-hosts.sh run B cargo lab12 client" \
        "$address_a"
    say "pull the cable:       scripts/two-hosts.sh unplug   and: plug"
    if [[ -t 0 ]]; then say 'here, too:            unplug, unplug B, plug, status'; fi
    say 'Ctrl-C ends both hosts and all that runs on them'
    while kill -0 "$holder_pid" 2>/dev/null; do
        # -t 0 only asks; a read that gives up in the middle could lose a line.
        if [[ -t 0 ]] && read -r -t 0; then
            if read -r line; then obey "$line"; fi
        else # the hosts end: end of file
            read -r -t 0.5 _ <&"$lines" || (($? > 128)) || break
        fi
    done
    trap - EXIT
    say 'both hosts are gone'
}

# What was typed where `up` runs.
obey() {
    local words
    read -ra words <<<"$1"
    case ${words[0]-} in
    '') ;;
    unplug | plug | status) ("$0" "${words[@]}") || true ;;
    *) say 'here: unplug, unplug B, plug or status; Ctrl-C ends both hosts' ;;
    esac
}

# Names the setting that forbids user namespaces.
forbidden() {
    local setting forbids allows
    for setting in kernel.apparmor_restrict_unprivileged_userns:1:0 \
        kernel.unprivileged_userns_clone:0:1 user.max_user_namespaces:0:1000 \
        user.max_net_namespaces:0:1000; do
        IFS=: read -r setting forbids allows <<<"$setting"
        if [[ $(cat "/proc/sys/${setting//.//}" 2>/dev/null) == "$forbids" ]]
        then
            fail "$setting=$forbids forbids it" \
                "sudo sysctl -w $setting=$allows"
        fi
    done
    fail 'this machine allows no user namespace' \
        'unshare -Urn ip link set lo up'
}

# run A|B COMMAND...: what it runs ends with it, also with kill -9. With -F
# nsenter starts no process of its own; sh does, and is not ended by the Ctrl-C
# that is for the program.
run() {
    take_host "${1-}"
    shift
    (($# > 0)) || usage 'run what?'
    # shellcheck disable=SC2016 # it is for that sh
    exec nsenter -F --preserve-credentials -t "$pid" -U -n -p -m sh -c '
        cd -- "$0"
        trap : INT
        setpriv --pdeathsig KILL "$@"
        exit $?
    ' "$PWD" "$@"
}

status() {
    local host pid address links
    need_hosts
    for host in A B; do
        pid=$pid_a address=$address_a
        if [[ $host == B ]]; then pid=$pid_b address=$address_b; fi
        links=$(on "$pid" ip -o link show eth0)
        case $links in
        *NO-CARRIER*) links='no carrier' ;;
        *[\<,]UP[,\>]*) links='link up' ;;
        *) links='link down' ;;
        esac
        say "$host  $address  $links"
    done
}

down() {
    need_hosts
    kill -KILL "$pid_a"
    while [[ -d /proc/$pid_a || -d /proc/$pid_b ]]; do sleep 0.02; done
    say 'both hosts are gone'
}

todo=${1-}
if (($# > 0)); then shift; fi
case $todo in
-h | --help) help ;;
up | down | plug | status)
    (($# == 0)) || usage "$todo takes no more words"
    ;;
esac
case $todo in
up) up ;;
run) run "$@" ;;
shell)
    (($# == 1)) || usage 'which host: A or B?'
    run "$1" env PS1="host $1 \$ " bash --norc
    ;;
unplug)
    (($# <= 1)) || usage 'at which end: A or B?'
    take_host "${1:-A}"
    set_link "$host" "$pid" down
    ;;
plug)
    need_hosts
    set_link A "$pid_a" up
    set_link B "$pid_b" up
    ;;
status) status ;;
down) down ;;
'') usage 'up, run, shell, unplug, plug, status or down?' ;;
*) usage "there is no $todo" ;;
esac
