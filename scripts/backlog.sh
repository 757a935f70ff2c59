#!/usr/bin/env bash
# backlog.sh - who waits to be accepted, and who is not even let in?
#
# Usage:    scripts/backlog.sh PORT             once
#           scripts/backlog.sh PORT --watch     every second, until Ctrl-C
#           scripts/backlog.sh PORT --all       every client, be it thousands
#
# Shows the accept queue of the TCP listener on PORT, the clients that are
# still in SYN-SENT towards it, and the kernel's two counters of dropped SYNs.
# The command behind it stands above, after `+`: type it yourself. At most 20
# clients are shown, in a low window fewer, and then how many more there are.
#
# Needs:    ss (package iproute2) or netstat (package net-tools). Without
#           them it reads /proc/net. The limit of the queue only ss knows; with
#           the others it is `?`. No root.
#
# How to read it
#   waiting    connections whose handshake is over and which accept has not
#              fetched: ss's Recv-Q of a listening socket.
#   limit      the backlog that listen was given, cut to net.core.somaxconn:
#              ss's Send-Q. One more than the limit is let in.
#   SYN-SENT   a client that has heard nothing. The timer is the time to its
#              next SYN, x3 that it has sent three more already.
#   overflows  ListenOverflows: SYNs, and last ACKs of handshakes, that found
#              the accept queue full.
#   drops      ListenDrops: all that a listener dropped. Both count for the
#              whole machine (network namespace) since it started; with --watch
#              `+3` is what was added since the watch began.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

take_port_and_watch "$@"

# counters NAME...: their values in /proc/net/netstat, a line of names above
# a line of numbers -> `values`
counters() {
    local kind names numbers name at
    values=()
    while read -r kind names && read -r _ numbers; do
        [[ $kind == TcpExt: ]] || continue
        read -ra names <<<"$names"
        read -ra numbers <<<"$numbers"
        for name; do
            for at in "${!names[@]}"; do
                if [[ ${names[at]} == "$name" ]]; then
                    values+=("${numbers[at]}")
                fi
            done
        done
    done </proc/net/netstat
}

picture() {
    local proto state recvq sendq local_addr peer_addr timer listeners='' early=''
    local more='' most
    find_most
    port_command "$port"
    say "+ $command"
    tell_source
    while IFS=$'\t' read -r proto state recvq sendq local_addr peer_addr timer _; do
        [[ $proto == tcp ]] || continue
        if [[ $state == SYN-SENT && $recvq == more ]]; then
            more="... and $sendq more in SYN-SENT   (--all shows them)"$'\n'
        elif [[ $state == LISTEN && $local_addr == *:"$port" ]]; then
            listeners+="LISTEN    $local_addr  waiting $recvq, limit $sendq"$'\n'
        elif [[ $state == SYN-SENT && $peer_addr == *:"$port" ]]; then
            early+="SYN-SENT  $local_addr  timer $timer"$'\n'
        fi
    done < <(few_rows "$most" place | LC_ALL=C sort)
    if [[ -z $listeners ]]; then
        listeners="nobody listens on port $port"$'\n'
    fi
    listeners+=$early$more
    say "${listeners%$'\n'}"
    counters ListenOverflows ListenDrops
    say "overflows $(told 0), drops $(told 1)"
    say '(ListenOverflows, ListenDrops in /proc/net/netstat)'
    if [[ $watch == yes ]]; then say 'in brackets: added since this began'; fi
}

told() { # AT: a counter, and what was added to it
    local now=${values[$1]-?} before=${at_start[$1]-?}
    if [[ $watch == yes && $now != '?' ]]; then
        now+=" (+$((now - before)))"
    fi
    say "$now"
}

find_source
counters ListenOverflows ListenDrops
at_start=("${values[@]}")
show_picture "port $port"
