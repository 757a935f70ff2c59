#!/usr/bin/env bash
# lifetimes.sh - which connections of this port are opened, how long do they
#                stay, how do they end?
#
# Usage:    scripts/lifetimes.sh PORT                 until Ctrl-C
#           scripts/lifetimes.sh PORT --seconds 10    for 10 seconds
#
# Looks five times a second, prints a line for each connection that is opened
# or closed, and at the end how many there were and how long they stayed. The
# command behind each look stands at the top, after `+`: type it yourself.
# Start it first; then visit the page, or log in.
#
# The lecture's loop, `netstat -tbn | grep -E ' :22 |:80 '`, stays empty on
# Linux: its netstat has no -b, and no blank stands in front of `:22`. By hand,
# for one port:
#   while sleep 1; do clear; netstat -tn | grep -E ':8080 '; done
#
# Needs:    ss (package iproute2) or netstat (package net-tools). Without
#           them it reads /proc/net. No root. bash 5.
#
# How to read it
#   opened     a connection that was not there at the last look; > PORT's end
#   closed     no end of it that can be seen here is alive any more
#     after    how long it was seen; `<0.2 s`: only its TIME-WAIT was seen
#     PORT first        TIME-WAIT is at PORT's end: that end closed first
#     other first       TIME-WAIT is at the other end: that end closed first
#     both at once      TIME-WAIT is at both ends
#     no TIME-WAIT      a reset; or the end that closed first is on another
#                       machine; or there was no room for TIME-WAIT
# What was there when this began is counted as `before`. A connection that
# comes and goes by a reset between two looks is not seen. netstat and /proc
# may miss a row while sockets come and go: a connection without TIME-WAIT
# counts as closed when two looks have not seen it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

pause=0.2
seconds=0 # no limit
for ((at = 1; at <= $#; at++)); do
    if [[ ${!at} == --seconds ]]; then
        next=$((at + 1))
        seconds=${!next-}
        [[ $seconds =~ ^[1-9][0-9]{0,4}$ ]] ||
            usage "--seconds '$seconds': a number from 1 to 99999"
        set -- "${@:1:at-1}" "${@:at+2}"
        at=$#
    fi
done
take_port_and_watch "$@"
[[ -n ${EPOCHREALTIME-} ]] || fail 'this needs bash 5' 'bash --version'

now() { # tenths of a second -> `tenths`
    local micro=${EPOCHREALTIME/[.,]/}
    tenths=$((10#$micro / 100000 - began))
}
began=0
now
began=$tenths tenths=0

# By connection, the other end > PORT's end: since when it is seen (tenths of a
# second, or `before`); when the TIME-WAIT of one that was told was seen last;
# and when it was not seen for the first time.
declare -A since=() over=() missed=()
opened=0 before=0 shortest='' longest=''
port_first=0 other_first=0 both=0 none=0 unseen=0

# Looks once -> `alive`, `waits`: connections, and who has their TIME-WAIT
declare -A alive=() waits=()
look_once() {
    local listing proto state local_addr peer_addr rest
    alive=() waits=()
    listing=$(trap '' INT && rows) # Ctrl-C is for the loop
    while IFS=$'\t' read -r proto state _ _ local_addr peer_addr rest; do
        [[ $proto == tcp && $state != LISTEN && $state != CLOSED ]] || continue
        if [[ $local_addr == *:"$port" ]]; then
            rest="$peer_addr > $local_addr" proto=port
        else
            rest="$local_addr > $peer_addr" proto=other
        fi
        if [[ $state == TIME-WAIT ]]; then
            waits[$rest]+=$proto
        else
            alive[$rest]=yes
        fi
    done <<<"$listing"
}

seconds_of() { # TENTHS -> `text`
    text="$(($1 / 10)).$(($1 % 10)) s"
}

closed() { # CONNECTION TEXT
    local how
    case ${waits[$1]-} in
    port) how="$port first" port_first=$((port_first + 1)) ;;
    other) how='other first' other_first=$((other_first + 1)) ;;
    '') how='no TIME-WAIT' none=$((none + 1)) ;;
    *) how='both at once' both=$((both + 1)) ;;
    esac
    say "closed  $1  after $2  $how"
    over[$1]=$tenths
}

compare() {
    local one stayed text fresh=()
    for one in "${!alive[@]}"; do
        if [[ -z ${since[$one]-} ]]; then
            unset "over[$one]"
            since[$one]=$tenths opened=$((opened + 1))
            say "opened  $one"
        fi
    done
    for one in "${!since[@]}"; do
        if [[ -n ${alive[$one]-} ]]; then
            unset "missed[$one]"
        elif [[ -z ${waits[$one]-}${missed[$one]-} ]]; then
            missed[$one]=$tenths # a row, or its TIME-WAIT, may be missed once
        else
            if [[ ${since[$one]} == before ]]; then
                text='some time'
            else
                stayed=$((${missed[$one]-$tenths} - since[$one]))
                shortest=$((${shortest:-$stayed} < stayed ? shortest : stayed))
                longest=$((${longest:-0} > stayed ? longest : stayed))
                seconds_of "$stayed"
            fi
            unset "since[$one]" "missed[$one]"
            closed "$one" "$text"
        fi
    done
    for one in "${!waits[@]}"; do
        if [[ -z ${over[$one]-} && -z ${alive[$one]-} ]]; then fresh+=("$one"); fi
    done
    if ((${#fresh[@]} > 0)); then
        mapfile -t fresh < <(printf '%s\n' "${fresh[@]}" | LC_ALL=C sort)
    fi
    for one in "${fresh[@]}"; do
        opened=$((opened + 1)) unseen=$((unseen + 1))
        closed "$one" '<0.2 s'
    done
    for one in "${!over[@]}"; do
        if [[ -n ${waits[$one]-} ]]; then
            over[$one]=$tenths
        elif ((tenths - ${over[$one]} > 20)); then
            unset "over[$one]" # the kernel has forgotten it
        fi
    done
}

summary() {
    local text=- open=0 one
    for one in "${!since[@]}"; do
        if [[ ${since[$one]} != before ]]; then open=$((open + 1)); fi
    done
    say ''
    say "opened   $opened connections, $open of them still open; before: $before"
    if ((unseen > 0)); then
        say "stayed   shorter than the 0.2 s between two looks: $unseen"
    fi
    if [[ -n $longest ]]; then
        seconds_of "$shortest"
        one=$text
        seconds_of "$longest"
        say "stayed   seen alive: $one at least, $text at most"
    fi
    say "ended    $port first: $port_first, other first: $other_first, both at once: $both, no TIME-WAIT: $none"
    say ''
    printf -v one '%-14s' "$port first:"
    say "$one TIME-WAIT is at the end with port $port: it closed first
other first:   TIME-WAIT is at the other end
no TIME-WAIT:  a reset, or TIME-WAIT is on another machine
ss writes TIME-WAIT, netstat TIME_WAIT. What is left: scripts/timewait.sh $port"
}

find_source
port_command "$port" ''
say "+ $command"
tell_source
say "every $pause s, until Ctrl-C"
stop=no
trap 'stop=yes' INT TERM
look_once
for one in "${!alive[@]}"; do
    since[$one]=before before=$((before + 1))
    say "before  $one"
done
for one in "${!waits[@]}"; do over[$one]=0; done
while [[ $stop == no ]]; do
    sleep "$pause" || true # Ctrl-C ends it, too
    look_once
    now
    compare
    if ((seconds > 0 && tenths >= seconds * 10)); then stop=yes; fi
done
summary
