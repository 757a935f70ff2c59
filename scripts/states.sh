#!/usr/bin/env bash
# states.sh - which sockets have this port, and in which state?
#
# Usage:    scripts/states.sh PORT             once
#           scripts/states.sh PORT --watch     every second, until Ctrl-C
#
# Shows each TCP and UDP socket with PORT at either end, LISTEN first. The
# command behind the table stands above it, after `+`: type it yourself.
#
# Needs:    ss (package iproute2) or netstat (package net-tools). Without
#           them it reads /proc/net, which knows less: `?` is "not known".
#           No root. Other people's processes are shown as `?`.
#
# How to read it
#   State    as in RFC 9293. ss writes ESTAB for ESTABLISHED and, in filters,
#            time-wait for TIME-WAIT; netstat writes TIME_WAIT.
#            udp: has no states; UNCONN is a UDP socket without a fixed peer.
#   Recv-Q   LISTEN: connections that wait for accept.
#            Otherwise: bytes received and not yet read; a FIN counts as one.
#   Send-Q   LISTEN: the backlog; one more may wait (only ss knows it).
#            Otherwise: bytes taken from the program and not yet
#            acknowledged, sent or not; a SYN or FIN counts as one.
#            UDP: both count memory, which is more than the bytes.
#   Timer    on: retransmission, x3: tried 3 times. persist: window probe.
#            keepalive. timewait: until the kernel forgets the connection.
#   Process  name/pid. `-`: no process has it, as in TIME-WAIT, or before
#            accept. `?`: not known, or not yours to see.
# A terminal narrower than 80 columns gets Rq and Sq for Recv-Q and Send-Q,
# ss's own spelling of the states, and neither timer nor process.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

take_port_and_watch "$@"

# The terminal's size -> `lines` and `width`; 0 where there is none.
measure() {
    local size
    lines=0 width=0
    if [[ -t 1 ]]; then
        { size=$(stty size <&3 2>/dev/null) || size='0 0'; } 3>&1
        if [[ $size == '0 0' ]]; then size='24 80'; fi
        lines=${size% *} width=${size#* }
    fi
}

# Puts the rows in the order of a connection's life, UDP last, equal states by
# address: the same order at each refresh.
in_order() {
    local life=' LISTEN SYN-SENT SYN-RECEIVED ESTABLISHED FIN-WAIT-1'
    life+=' FIN-WAIT-2 CLOSING CLOSE-WAIT LAST-ACK TIME-WAIT CLOSED udp:'
    local proto state rest before
    while IFS=$'\t' read -r proto state rest; do
        if [[ $proto == udp ]]; then state=udp:$state; fi
        before=${life%%" ${state/:*/:}"*} # its length is the place
        printf '%s\t%s\t%s\n' "${#before}" "$state" "$rest"
    done | LC_ALL=C sort -t $'\t' -k 1,1n -k 2,2 -k 5,6
}

# Columns that stay where they are while sockets come and go, in 47 columns.
narrow_table() {
    local state recvq sendq local_addr peer_addr line pad
    while IFS=$'\t' read -r _ state recvq sendq local_addr peer_addr _; do
        state=${state/ESTABLISHED/ESTAB} state=${state/RECEIVED/RECV}
        printf -v line '%-10s %2s %2s ' "$state" "$recvq" "$sendq"
        pad=$((width - ${#line} - ${#peer_addr} - 1))
        pad=$((pad > 15 ? 15 : pad))
        if ((${#local_addr} <= pad)); then
            printf '%s%-*s %s\n' "$line" "$pad" "$local_addr" "$peer_addr"
        else # too long for one line
            printf '%s%s\n%*s\n' "$line" "$local_addr" "$width" "$peer_addr"
        fi
    done
}

# Each column as wide as its widest cell.
wide_table() {
    local rows line cell at cells=() widths=() room
    mapfile -t rows
    for line in "${rows[@]}"; do
        IFS=$'\t' read -ra cells <<<"$line"
        for at in "${!cells[@]}"; do
            if ((${#cells[at]} > ${widths[at]:-0})); then
                widths[at]=${#cells[at]}
            fi
        done
    done
    for line in "${rows[@]}"; do
        IFS=$'\t' read -ra cells <<<"$line"
        printf -v line '%-*s %*s %*s %-*s %-*s %-*s ' \
            "${widths[1]}" "${cells[1]}" "${widths[2]}" "${cells[2]}" \
            "${widths[3]}" "${cells[3]}" "${widths[4]}" "${cells[4]}" \
            "${widths[5]}" "${cells[5]}" "${widths[6]}" "${cells[6]}"
        cell=${cells[7]}
        room=$((width - ${#line} - ${#cell}))
        if ((width > 0 && room < 0)); then # shorten the name, keep the pid
            line+=${cell:0:1} cell=${cell:1}
            at=${cell%%/*}
            if ((${#at} + room >= 0)); then
                cell=${at:0:${#at}+room}/${cell#*/}
            fi
        fi
        printf '%s\n' "$line$cell"
    done
}

legend() {
    if [[ $1 == yes ]]; then
        say 'LISTEN: Rq wait for accept, Sq is the backlog
others: Rq bytes not read (a FIN counts 1),
        Sq bytes not acknowledged by the peer
Rq Sq: Recv-Q Send-Q. States as ss writes them
(ESTAB: ESTABLISHED); netstat has TIME_WAIT.'
        return
    fi
    say 'LISTEN:   Recv-Q connections waiting for accept, Send-Q the backlog
others:   Recv-Q bytes not read yet (a FIN counts as 1), Send-Q bytes not
          acknowledged yet; with UDP both count memory, more than the bytes
Timer:    on = retransmission (x2: twice so far), persist = window probe
Process:  - none has it (TIME-WAIT, or before accept), ? not known
States as in RFC 9293; ss writes ESTAB, netstat ESTABLISHED and TIME_WAIT'
}

# All there is to see now.
picture() {
    local narrow=no found newline=$'\n' head
    if ((width > 0 && width < 80)); then narrow=yes; fi
    if [[ $narrow == yes ]]; then
        port_command "$port" ''
        say "+ ${command/ | / |"$newline"    }"
    else
        port_command "$port"
        say "+ $command"
    fi
    tell_source
    found=$(rows | in_order)
    if [[ -z $found ]]; then
        say "no socket has port $port"
        return
    fi
    head='- State Recv-Q Send-Q Local Peer Timer Process'
    if ((width > 0 && width < 100)); then
        head='- State Rq Sq Local Peer Timer Process'
    fi
    found=${head// /$'\t'}$newline$found
    if [[ $narrow == yes ]]; then
        narrow_table
    else
        wide_table
    fi <<<"$found"
    say ''
    legend "$narrow"
}

cleanup() {
    if [[ -t 1 ]]; then printf '\033[?25h\033[?7h\n'; fi # cursor, wrapping
}

find_source
measure
if [[ $watch == no ]]; then
    now=$(picture)
    say "$now"
    exit 0
fi

trap 'exit 0' INT TERM
trap cleanup EXIT
first=yes
while :; do
    measure
    now=$(picture)
    if [[ -t 1 ]]; then
        now="port $port at $(date +%T)  (Ctrl-C ends)"$'\n'$now
        mapfile -t shown <<<"$now"
        if ((${#shown[@]} > lines)); then
            shown=("${shown[@]:0:lines-1}" '... (the window is too low)')
        fi
        # No cursor, no wrapping; home, each line, then what is left below
        # erased: no flicker.
        printf -v frame '\033[K%s\r\n' "${shown[@]}"
        printf '\033[?25l\033[?7l\033[H%s\033[J' "${frame%$'\r\n'}"
    else
        if [[ $first == no ]]; then say ''; fi
        say "$now"
    fi
    first=no
    sleep 1
done
