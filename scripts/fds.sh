#!/usr/bin/env bash
# fds.sh - which files and sockets does this process hold?
#
# Usage:    scripts/fds.sh PID
#           scripts/fds.sh "$(pgrep -n lab07)"     the newest of that name
#
# Lists the open descriptors of the process. A link such as socket:[4711]
# names an inode; the same number stands in the kernel's socket tables, and
# that is how each socket gets its protocol, state and addresses here. Both
# commands stand above the table, after `+`.
#
# Needs:    ss (package iproute2) or netstat (package net-tools). Without
#           them it reads /proc/PID/net, which has the same addresses.
#           No root for your own processes.
#
# How to read it
#   FD       what the program passes to send, recv, close. 0, 1 and 2 are
#            standard input, output and error.
#   What     a file, pipe:[inode], anon_inode:[eventpoll], socket:[inode] ...
#   State    as in RFC 9293; UNCONN is a UDP socket without a fixed peer.
#   `in no table' is a TCP socket that neither listens nor is connected, a UDP
#   socket that is not bound, or one of another family, such as netlink.
# What you never see here: TIME-WAIT. Its inode is 0, only the kernel has it,
# even where a descriptor is still open: scripts/states.sh PORT shows it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

case ${1-} in
-h | --help) help ;;
'') usage 'which process? Say its PID' ;;
esac
[[ $# -eq 1 ]] || usage 'one PID, please'
[[ $1 =~ ^[1-9][0-9]{0,9}$ ]] || usage "'$1' is no PID"
pid=$1

[[ -d /proc/$pid ]] || fail "there is no process $pid" 'pgrep -a lab'
# EACCES where it belongs to someone else, and where it is a zombie.
if ! ls "/proc/$pid/fd" >/dev/null 2>&1; then
    name=$(cat "/proc/$pid/comm" 2>/dev/null) ||
        fail "there is no process $pid any more" 'pgrep -a lab'
    if grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null; then
        fail "process $pid ($name) has ended: a zombie has no descriptors" \
            "ps -o ppid= -p $pid   # its parent has not waited for it"
    fi
    fail "process $pid ($name) is not yours to look into (EACCES)" \
        "sudo $0 $pid"
fi

find_source
elsewhere=no
ours=$(readlink /proc/self/ns/net) || ours='?'
theirs=$(readlink "/proc/$pid/ns/net" 2>/dev/null) || theirs=$ours
if [[ $ours != "$theirs" ]]; then elsewhere=yes from=proc; fi

list="ls -l /proc/$pid/fd"
say "+ $list"
links=$(eval "$list" 2>/dev/null) || true # one may close while we look
case $from in
ss) command='ss -tuanxeH' ;;
netstat) command='netstat -tuanxopeW' ;;
proc) command="grep -s : /proc/$pid/net/{tcp{,6},udp{,6},unix}" ;;
esac
say "+ $command"
if [[ $elsewhere == yes ]]; then
    say "(process $pid lives in a network namespace of its own: $theirs)"
else
    tell_source
fi

declare -A socket=()
table=$(rows)
while IFS=$'\t' read -r proto state _ _ local_addr peer_addr _ _ inode; do
    [[ $inode =~ ^[1-9] ]] || continue
    printf -v "socket[$inode]" '%-6s %-12s %-15s %s' "$proto" "$state" \
        "$local_addr" "$peer_addr"
done <<<"$table"

lines=()
while read -r line; do
    # lrwx------ 1 user user 64 Nov 20 23:04 3 -> socket:[6363]
    [[ $line =~ ^[^\>]*\ ([0-9]+)\ -\>\ (.*)$ ]] || continue
    fd=${BASH_REMATCH[1]} what=${BASH_REMATCH[2]}
    if [[ $what =~ ^socket:\[([0-9]+)\]$ ]]; then
        inode=${BASH_REMATCH[1]}
        printf -v what '%-15s %s' "$what" "${socket[$inode]-in no table}"
    fi
    printf -v line '%4d %s' "$fd" "$what"
    lines+=("$line")
done <<<"$links"

printf -v out '%4s %-15s %-6s %-12s %-15s %s' FD What Proto State Local Peer
if ((${#lines[@]} > 0)); then
    sorted=$(printf '%s\n' "${lines[@]}" | LC_ALL=C sort -n)
    out+=$'\n'$sorted
fi
say "$out"
say ''
say "${#lines[@]} descriptors; 0, 1 and 2 are standard input, output and error"
say 'socket:[N]: N is its inode, and the socket tables have the same number'
if [[ $out == *' in no table'* ]]; then
    say 'in no table: TCP unconnected and not listening, UDP unbound, others'
fi
say 'never here: TIME-WAIT; its inode is 0, only the kernel has it'
