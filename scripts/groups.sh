#!/usr/bin/env bash
# groups.sh - who is in which multicast group on this machine?
#
# Usage:    scripts/groups.sh             all groups
#           scripts/groups.sh GROUP       one, such as 239.1.1.1 or ff02::1,
#                                         and the sockets bound to it
#
# A membership is joined by a socket, for one interface. The kernel lists for
# each interface how many sockets have joined, not which. The commands behind
# the tables stand above them, after `+`: type them yourself.
#
# Needs:    ip (package iproute2) or netstat (package net-tools). Without
#           them it reads /proc/net/igmp and igmp6, where the addresses are
#           hexadecimal. No root. Other people's processes are shown as `?`.
#
# How to read it
#   Interface  where the group was joined; lo stays on this machine.
#   Users      how many have joined: sockets, and the kernel itself.
#              ip shows the number only where it is not 1.
#   Group      224.0.0.1, ff01::1 and ff02::1 are there without any program:
#              every host is in them.
#   Process    name/pid of a socket bound to the group's address, as the
#              lecture's receiver is. A member that is bound to 0.0.0.0 is
#              counted in Users but cannot be told by its address.
#   While other sockets come and go, netstat and /proc may miss a line: they
#   get the kernel's table in pieces. Look again.
#   A group that is gone from the list has no member left here: the kernel
#   throws away what arrives for it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

is_group() {
    local byte='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
    [[ $1 =~ ^(22[4-9]|23[0-9])(\.$byte){3}$ || $1 =~ ^ff[0-9a-f:]*:[0-9a-f:]*$ ]]
}

group=''
for arg; do
    case $arg in
    -h | --help) help ;;
    -*) usage "there is no option $arg" ;;
    *)
        [[ -z $group ]] || usage "one group, not two: $group and $arg"
        group=${arg,,}
        is_group "$group" ||
            usage "'$arg' is no group: 224.0.0.0 to 239.255.255.255, or ff..."
        ;;
    esac
done

# Rows of three fields, tabs between them: interface, users, group.
groups_from_ip() {
    local first second third fourth interface=''
    while read -r first second third fourth; do
        case $first in
        *:) interface=${second%%@*} ;; # 1: lo
        inet | inet6) # inet 239.1.1.1 users 2
            if [[ $third != users ]]; then fourth=1; fi
            row "$interface" "$fourth" "$second"
            ;;
        esac
    done
}

groups_from_netstat() {
    local interface users address
    while read -r interface users address; do
        if [[ $users =~ ^[0-9]+$ ]]; then
            row "$interface" "$users" "$address"
        fi
    done
}

groups_from_proc() {
    local line interface='' addr fields at words
    while read -r line; do
        read -ra fields <<<"${line#*:}" # without the file's name
        case $line in
        */igmp:[0-9]*) interface=${fields[1]%:} ;; # 1 lo : 2 V3
        */igmp:[[:blank:]]*) # 010101EF 1 0:00000000 0
            hex_addr "${fields[0]}:0"
            row "$interface" "${fields[1]}" "${addr%:*}"
            ;;
        */igmp6:*) # 1 lo ff020000000000000000000000000001 1 0000000C 0
            words=''
            for ((at = 0; at < 32; at += 8)); do # as in /proc/net/tcp6
                words+=${fields[2]:at+6:2}${fields[2]:at+4:2}
                words+=${fields[2]:at+2:2}${fields[2]:at:2}
            done
            hex_addr "${words^^}:0"
            addr=${addr#[}
            row "${fields[1]}" "${fields[3]}" "${addr%]*}"
            ;;
        esac
    done
}

meaning() { # -> `note`
    case $1 in
    224.0.0.1) note='every host' ;;
    ff01::1) note='this host' ;;
    ff02::1) note='every host of the link' ;;
    ff02::1:ff*) note='asked for our address' ;;
    224.0.0.*) note='protocols of one link' ;;
    239.255.*) note='local scope' ;;
    239.*) note='administratively scoped' ;;
    *) note='' ;;
    esac
}

if ip maddr show >/dev/null 2>&1; then
    source=ip command='ip maddr show'
elif netstat -gn >/dev/null 2>&1; then
    source=netstat command='netstat -gn'
else
    source=proc command='grep -s "" /proc/net/igmp{,6}'
fi
say "+ $command"
case $source in
netstat) say '(ip is not installed: this is netstat)' ;;
proc) say '(no ip, no netstat: /proc writes hexadecimal)' ;;
esac
raw=$(LC_ALL=C eval "$command") || true # grep says 2 where there is no IPv6
found=$("groups_from_$source" <<<"$raw")

table=''
while IFS=$'\t' read -r interface users address; do
    if [[ -z $address || -n $group && $address != "$group" ]]; then continue; fi
    meaning "$address"
    printf -v line '%-15s %5s  %-28s %s' "$interface" "$users" "$address" "$note"
    table+=${line%"${line##*[! ]}"}$'\n'
done <<<"$found"
if [[ -n $table ]]; then
    printf -v head '%-15s %5s  %s' Interface Users Group
    say "$head"
    say "${table%$'\n'}"
else
    say "nobody on this machine is in ${group:-any group}"
fi

if [[ -n $group ]]; then
    say ''
    find_source
    case $from in
    ss) command="ss -tuanopeH 'src ${group/*:*/[$group]}'" ;;
    netstat) command="netstat -uanopeW | awk 'index(\$4, \"$group:\") == 1'" ;;
    proc) command='grep -s : /proc/net/udp{,6}' ;;
    esac
    say "+ $command"
    sockets=$(rows)
    table=''
    while IFS=$'\t' read -r _ _ _ _ local_addr _ _ process _; do
        case $local_addr in
        "$group":* | "[$group]":* | "$group"%*:* | "[$group%"*)
            printf -v line '%-28s %s' "$local_addr" "$process"
            table+=$line$'\n'
            ;;
        esac
    done <<<"$sockets"
    if [[ -n $table ]]; then
        printf -v head '%-28s %s' 'Bound to' Process
        say "$head"
        say "${table%$'\n'}"
    else
        say "no socket is bound to $group"
    fi
fi
say ''
say 'Users:    sockets that joined, and the kernel itself; not which ones'
say 'Process:  - none has it, ? not known; a member bound to 0.0.0.0 is not'
say '          listed here, but it is counted in Users'
