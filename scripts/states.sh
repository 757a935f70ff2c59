#!/usr/bin/env bash
# states.sh - which sockets have this port, and in which state?
#
# Usage:    scripts/states.sh PORT             once
#           scripts/states.sh PORT --watch     every second, until Ctrl-C
#           scripts/states.sh PORT --all       every row, be it thousands
#           scripts/states.sh --below PID [--watch] [--all]
#
# Shows each TCP and UDP socket with PORT at either end, LISTEN first. The
# command behind the table stands above it, after `+`: type it yourself. Of each
# state 20 rows are shown at most, in a low window fewer, and then how many more
# there are; --all shows them.
# --below follows the ports of a program instead: those of all processes that
# PID has started, such as a shell and the demo in it. A port stays in the
# table while other sockets of these processes share it: so TIME-WAIT, which no
# process has, is seen too. PID may be several, commas between them.
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
#   Process  name/pid. `-`: no process has it, as in FIN-WAIT-2 after close,
#            or before accept. `?`: not known, or not yours to see.
#            TIME-WAIT has neither queue nor process, even where a program
#            still has the socket and unread bytes.
# Below 100 columns Rq and Sq stand for Recv-Q and Send-Q. A terminal narrower
# than 80 columns gets ss's own spelling of the states, and neither timer nor
# process.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

pids=''
for ((at = 1; at <= $#; at++)); do
    if [[ ${!at} == --below ]]; then
        next=$((at + 1))
        pids=${!next-}
        is_pids "$pids" || usage "--below '$pids': that is no PID"
        set -- "${@:1:at-1}" "${@:at+2}"
        at=$#
    fi
done
if [[ -z $pids ]]; then
    take_port_and_watch "$@"
else
    take_port_and_watch 1 "$@" # no port of its own
fi

# Puts the rows in the order of a connection's life, UDP last, equal states by
# address: the same order at each refresh.
in_order() {
    local life=' LISTEN SYN-SENT SYN-RECEIVED ESTABLISHED FIN-WAIT-1'
    life+=' FIN-WAIT-2 CLOSING CLOSE-WAIT LAST-ACK TIME-WAIT CLOSED udp '
    awk -F '\t' -v OFS='\t' -v life="$life" '{
        place = index(life, " " ($1 == "udp" ? $1 : $2) " ")
        if ($1 == "udp") $2 = "udp:" $2
        $1 = place ? place : length(life)
        print
    }' | LC_ALL=C sort -t $'\t' -k 1,1n -k 2,2 -k 5,6
}

# Columns that stay where they are while sockets come and go, in 47 columns.
narrow_table() {
    local state recvq sendq local_addr peer_addr line pad
    while IFS=$'\t' read -r _ state recvq sendq local_addr peer_addr _; do
        if [[ $recvq == more ]]; then
            say "... and $sendq more in $state"
            continue
        fi
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

# Each column as wide as its widest cell. Where a line is too wide, the name of
# the process is cut, its id is kept.
wide_table() {
    awk -F '\t' -v width="$width" '
        { row[NR] = $0 }
        $3 != "more" {
            for (at = 2; at <= 7; at++)
                if (length($at) > wide[at]) wide[at] = length($at)
        }
        END {
            for (at = 2; at <= 7; at++) # the two queues are numbers
                format = format (at == 3 || at == 4 ? "%" : "%-") wide[at] "s "
            for (number = 1; number <= NR; number++) {
                split(row[number], cell, "\t")
                if (cell[3] == "more") {
                    print "... and " cell[4] " more in " cell[2]
                    continue
                }
                line = sprintf(format, cell[2], cell[3], cell[4], cell[5],
                    cell[6], cell[7])
                room = width - length(line cell[8])
                kept = index(cell[8], "/") - 1 + room
                if (width > 0 && room < 0 && kept >= 1)
                    sub(/[^\/]*/, substr(cell[8], 1, kept), cell[8])
                print line cell[8]
            }
        }'
}

legend() {
    if [[ $1 == yes ]]; then
        say 'LISTEN: Rq wait for accept, Sq backlog
others: Rq bytes not read (FIN: 1),
        Sq bytes not acknowledged
Rq Sq:  Recv-Q Send-Q. States as in ss
        (ESTAB: ESTABLISHED)'
        return
    fi
    say 'LISTEN:   Recv-Q (Rq) connections waiting for accept, Send-Q (Sq) the backlog
others:   Recv-Q bytes not read yet (a FIN counts as 1), Send-Q bytes not
          acknowledged yet; with UDP both count memory, more than the bytes
Timer:    on = retransmission (x2: twice so far), persist = window probe,
          timewait = until the kernel forgets the connection
Process:  - none has it: FIN-WAIT-2 after close, or before accept; ? not known.
          TIME-WAIT has neither queue nor process, whoever has the socket
States as in RFC 9293; ss writes ESTAB, netstat ESTABLISHED and TIME_WAIT'
}

# With --below, each second: the processes that have sockets, and their ports
# -> `holders`, `elsewhere` (those in a network namespace of their own), `ports`
#
# A new experiment has new ports. The old ones are forgotten when no socket that
# the processes have now shares any of them.
declare -A ports=()
look() {
    local links pid ours proto inode address held=() again=no
    local -A inodes=()
    [[ -n $pids ]] || return 0
    find_below "$pids"
    holders=() elsewhere=()
    ours=$(readlink /proc/self/ns/net) || ours='?'
    for pid in "${below[@]}"; do
        links=$(readlink "/proc/$pid/ns/net" /proc/"$pid"/fd/* 2>/dev/null) || true
        if [[ $links == net:* && ${links%%$'\n'*} != "$ours" ]]; then
            elsewhere+=("$pid")
        fi
        if [[ $links == *socket:* ]]; then holders+=("$pid"); fi
        while [[ $links =~ socket:\[([0-9]+)\](.*) ]]; do
            inodes[${BASH_REMATCH[1]}]=yes links=${BASH_REMATCH[2]}
        done
    done
    all_command
    if ((${#inodes[@]} > 0)); then
        address=${!inodes[*]}
        while IFS=$'\t' read -r proto _ _ _ address _ _ _ inode; do
            if [[ -n ${inodes[$inode]-} ]]; then
                held+=("$proto:${address##*:}")
            fi
        done < <(rows_with "${address// /|}")
    fi
    for address in "${held[@]}"; do
        if [[ -n ${ports[$address]-} ]]; then again=yes; fi
    done
    if ((${#held[@]} > 0)) && [[ $again == no ]]; then ports=(); fi
    for address in "${held[@]}"; do
        if [[ $address != *'*' ]]; then ports[$address]=yes; fi
    done
}

# The rows that have one of `ports`.
with_ports() {
    if ((${#ports[@]} > 0)); then few_rows "$most" place "${!ports[*]}"; fi
}

# One line for the processes that --below found.
tell_holders() {
    local pid name line=''
    for pid in "${holders[@]}"; do
        { read -r name <"/proc/$pid/comm"; } 2>/dev/null || continue
        line+=", $name/$pid"
    done
    line=${line#, }
    if ((width > 0 && ${#line} > width)); then line="${line:0:width-3}..."; fi
    say "${line:-no process has a socket}"
}

# The rows of a process in a network of its own: all of that network.
rows_of() {
    local from=proc command="grep -s : /proc/$1/net/{tcp,udp}{,6}"
    few_rows "$most" place
}

# All there is to see now.
picture() {
    local narrow=no rows newline=$'\n' head pid most
    find_most
    if ((width > 0 && width < 80)); then narrow=yes; fi
    if [[ -n $pids ]]; then
        tell_holders
        say "+ $command"
        rows=$(with_ports)
        for pid in "${elsewhere[@]}"; do
            say "(process $pid has a network of its own)"
            rows+=$newline$(rows_of "$pid")
        done
        rows=$(sed '/^$/d' <<<"$rows" | LC_ALL=C sort -u | in_order)
    else
        if [[ $narrow == yes ]]; then
            port_command "$port" ''
            if [[ $from == ss ]] && ((${#command} + 2 > width)); then
                say "+ ${command/ or /\' or \\"$newline"    \'}"
            else
                say "+ ${command/ | / |"$newline"    }"
            fi
        else
            port_command "$port"
            say "+ $command"
        fi
        rows=$(few_rows "$most" place | in_order)
    fi
    tell_source
    if [[ -z $rows && -n $pids ]]; then
        say 'no socket has a port'
        return
    elif [[ -z $rows ]]; then
        say "no table has a socket with port $port"
        return
    fi
    head='- State Recv-Q Send-Q Local Peer Timer Process'
    if ((width > 0 && width < 100)); then
        head='- State Rq Sq Local Peer Timer Process'
    fi
    rows=${head// /$'\t'}$newline$rows
    if [[ $narrow == yes ]]; then
        narrow_table
    else
        wide_table
    fi <<<"$rows"
    say ''
    if [[ $rows == *$'\tmore\t'* ]]; then
        if [[ $narrow == yes ]]; then
            say '... more:  --all shows them'
        else
            say '... more: too many rows of one state; --all shows them'
        fi
    fi
    legend "$narrow"
}

find_source
head=''
if [[ -z $pids ]]; then head="port $port"; fi
show_picture "$head"
