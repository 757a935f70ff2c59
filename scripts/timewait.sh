#!/usr/bin/env bash
# timewait.sh - which connections of this port are in TIME-WAIT, how long yet?
#
# Usage:    scripts/timewait.sh PORT             once
#           scripts/timewait.sh PORT --watch     every second, until Ctrl-C
#           scripts/timewait.sh PORT --all       every one, be it thousands
#
# Shows each TIME-WAIT that has PORT at either end, the one that is over next
# first: 20 at most, in a low window fewer, and then how many more there are.
# The command behind it stands above, after `+`: type it yourself.
#
# Needs:    ss (package iproute2) or netstat (package net-tools). Without
#           them it reads /proc/net. No root.
#
# How to read it
#   left       the kernel's timer. It starts at 60 s, whatever the settings.
#   holds      PORT is the local port: this end closed first. bind fails until
#              it is over, or needs SO_REUSEADDR in both runs.
#   elsewhere  PORT is the peer's port: the other end closed first, and PORT is
#              free as far as this connection goes.
# There is no process to show: the one that closed has nothing to do with it
# any more.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

take_port_and_watch "$@"

picture() {
    local proto state local_addr peer_addr timer place left
    local found='' more='' recvq sendq most
    find_most
    port_command "$port"
    say "+ $command"
    tell_source
    while IFS=$'\t' read -r proto state recvq sendq local_addr peer_addr timer _; do
        [[ $proto == tcp && $state == TIME-WAIT ]] || continue
        if [[ $recvq == more ]]; then
            more="... and $sendq more in TIME-WAIT   (--all shows them)"
            continue
        fi
        place=elsewhere
        if [[ $local_addr == *:"$port" ]]; then place=holds; fi
        left=${timer#timewait }
        printf -v state 'TIME-WAIT  %-9s  left %5s  %s > %s' "$place" \
            "$left" "$local_addr" "$peer_addr"
        found+=$left$'\t'$state$'\n'
    done < <(few_rows "$most" time)
    if [[ -z $found ]]; then
        say "no TIME-WAIT has port $port"
        return
    fi
    LC_ALL=C sort -n <<<"${found%$'\n'}" | cut -f 2-
    if [[ -n $more ]]; then say "$more"; fi
    say ''
    say "left:       until the kernel forgets it; it began at 60 s
holds:      port $port is the local port, this end closed first: bind needs
            SO_REUSEADDR in both runs, or must wait
elsewhere:  port $port is the peer's: the other end closed first
No process has a TIME-WAIT. ss writes TIME-WAIT, netstat TIME_WAIT"
}

find_source
show_picture "port $port"
