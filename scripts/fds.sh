#!/usr/bin/env bash
# fds.sh - which files and sockets does this process hold?
#
# Usage:    scripts/fds.sh PID [--watch]           --watch: every second
#           scripts/fds.sh "$(pgrep -n lab07)"     the newest of that name
#           scripts/fds.sh --below PID [--watch]   what PID has started
#
# Lists the open descriptors of the process. A link such as socket:[4711]
# names an inode; the same number stands in the kernel's socket tables, and
# that is how each socket gets its protocol, state and addresses here. Both
# commands stand above the table, after `+`. With --below PID each program is
# listed that PID has started, such as those in a shell; PID may be several,
# commas between them.
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

pid='' pids='' watch=no
while (($#)); do
    case $1 in
    -h | --help) help ;;
    --watch) watch=yes ;;
    --below)
        is_pids "${2-}" || usage "--below '${2-}': that is no PID"
        pids=$2
        shift
        ;;
    -*) usage "there is no option $1" ;;
    *)
        [[ -z $pid ]] || usage "one PID, please: $pid or $1"
        [[ $1 =~ ^[1-9][0-9]{0,9}$ ]] || usage "'$1' is no PID"
        pid=$1
        ;;
    esac
    shift
done
[[ -n $pid || -n $pids ]] || usage 'which process? Say its PID'
[[ -z $pid || -z $pids ]] || usage "PID or --below PID, not both"

# Says why process `pid` cannot be looked into, and ends.
refuse() {
    local name
    [[ -d /proc/$pid ]] || fail "there is no process $pid" 'pgrep -a lab'
    name=$(cat "/proc/$pid/comm" 2>/dev/null) ||
        fail "there is no process $pid any more" 'pgrep -a lab'
    if grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null; then
        fail "process $pid ($name) has ended: a zombie has no descriptors" \
            "ps -o ppid= -p $pid   # its parent has not waited for it"
    fi
    fail "process $pid ($name) is not yours to look into (EACCES)" \
        "sudo $0 $pid"
}

# The descriptors of process `pid`: a line each, number and what it is; and
# for a socket what the tables have of it.
descriptors() {
    local list links line fd what inode elsewhere=no ours theirs
    local command lines=() in_table='' from=$from words rest
    local -A socket=()
    list="ls -l /proc/$pid/fd"
    say "+ $list"
    links=$(eval "$list" 2>/dev/null) || true # one may close while we look
    ours=$(readlink /proc/self/ns/net) || ours='?'
    theirs=$(readlink "/proc/$pid/ns/net" 2>/dev/null) || theirs=$ours
    if [[ $ours != "$theirs" ]]; then elsewhere=yes from=proc; fi
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
    words='' rest=$links # the inodes
    while [[ $rest =~ socket:\[([0-9]+)\](.*) ]]; do
        words+="|${BASH_REMATCH[1]}" rest=${BASH_REMATCH[2]}
    done
    if [[ -n $words ]]; then in_table=$(rows_with "${words#|}"); fi
    while IFS=$'\t' read -r proto state _ _ local_addr peer_addr _ _ inode; do
        [[ $inode =~ ^[1-9] ]] || continue # no table was read, or nobody's
        if [[ $narrow == yes ]]; then
            printf -v "socket[$inode]" '\n     %s %s %s > %s' "$proto" \
                "${state/ESTABLISHED/ESTAB}" "$local_addr" "$peer_addr"
        else
            printf -v "socket[$inode]" '%-6s %-12s %-15s %s' "$proto" \
                "$state" "$local_addr" "$peer_addr"
        fi
    done <<<"$in_table"

    while read -r line; do
        # lrwx------ 1 user user 64 Nov 20 23:04 3 -> socket:[6363]
        [[ $line =~ ^[^\>]*\ ([0-9]+)\ -\>\ (.*)$ ]] || continue
        fd=${BASH_REMATCH[1]} what=${BASH_REMATCH[2]}
        if [[ $what =~ ^socket:\[([0-9]+)\]$ ]]; then
            inode=${BASH_REMATCH[1]}
            printf -v what '%-15s %s' "$what" "${socket[$inode]-in no table}"
        elif ((width > 5 && ${#what} > width - 5)); then # a path: its end
            what=...${what: -(width - 8)}
        fi
        printf -v lines[fd] '%4d %s' "$fd" "$what" # in the order of numbers
    done <<<"$links"
    if [[ $narrow == yes ]]; then
        say '  FD What'
    else
        printf -v line '%4s %-15s %-6s %-12s %-15s %s' FD What Proto State \
            Local Peer
        say "$line"
    fi
    if ((${#lines[@]} > 0)); then say "$(printf '%s\n' "${lines[@]}")"; fi
    count=${#lines[@]}
}

legend() {
    if [[ $narrow == yes ]]; then
        say '0, 1, 2: standard input, output, error
socket:[N]: its inode, also in ss -e
in no table: neither bound (UDP) nor
connected or listening (TCP), or others'
        return
    fi
    if [[ -n $1 ]]; then say "$1 descriptors; 0, 1 and 2 are standard input," \
        'output and error'; fi
    say 'socket:[N]: N is its inode, and the socket tables have the same number'
    say 'in no table: TCP unconnected and not listening, or in TIME-WAIT; UDP
             unbound; others'
    say 'never here: TIME-WAIT; its inode is 0, only the kernel has it'
}

look() {
    if [[ -n $pids ]]; then
        find_below "$pids"
    elif ! ls "/proc/$pid/fd" >/dev/null 2>&1; then
        refuse # EACCES where it belongs to someone else
    fi
}

picture() {
    local narrow=no name count=''
    if ((width > 0 && width < 79)); then narrow=yes; fi
    if [[ -z $pids ]]; then
        descriptors
        say ''
        legend "$count"
        return
    fi
    for pid in "${below[@]}"; do
        { read -r name <"/proc/$pid/comm"; } 2>/dev/null || continue
        if [[ $name == bash || $name == sh ]]; then continue; fi
        say "$name, process $pid"
        descriptors
        say ''
        count=seen
    done
    if [[ -z $count ]]; then
        say 'no program runs there yet'
    else
        legend ''
    fi
}

find_source
show_picture ''
