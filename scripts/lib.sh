# shellcheck shell=bash
# lib.sh - what the scripts share. It is sourced, not run.
#
# After `rows` the sockets stand in lines of nine fields, tabs between them:
#   protocol state recv-q send-q local peer timer process inode
# States are spelled as in RFC 9293. `-` is "there is none", `?` is "this
# source cannot know". The same whether ss, netstat or /proc was read.

shopt -s inherit_errexit

kit_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
script=${0##*/}

trap 'exit 0' PIPE # whoever read our output has gone: end quietly

say() { printf '%s\n' "$*" 2>/dev/null || exit 1; }

have() { command -v "$1" >/dev/null 2>&1; }

# The manual is the comment at the head of the script.
help() {
    say "$(sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "$0")"
    exit 0
}

usage() {
    printf '%s: %s (see %s --help)\n' "$script" "$1" "$0" >&2
    exit 2
}

# fail MESSAGE [HINT]: what is wrong, and one command that helps.
fail() {
    printf '%s: %s\n' "$script" "$1" >&2
    if [[ -n ${2-} ]]; then printf '  hint: %s\n' "$2" >&2; fi
    exit 1
}

is_port() { [[ $1 =~ ^[1-9][0-9]{0,4}$ ]] && (($1 <= 65535)); }

# take_bin DIR: the argument of --bin -> `bin`
take_bin() {
    [[ -d $1 ]] || usage "--bin $1: there is no such folder"
    # shellcheck disable=SC2034 # it is for the script
    bin=$(CDPATH='' cd -- "$1" && pwd)
}

# take_port_and_watch PORT [--watch] [--all] -> `port`, `watch`, `all`
# shellcheck disable=SC2034 # they are for the script
take_port_and_watch() {
    local arg
    port='' watch=no all=no
    for arg; do
        case $arg in
        -h | --help) help ;;
        --watch) watch=yes ;;
        --all) all=yes ;;
        -*) usage "there is no option $arg" ;;
        *)
            [[ -z $port ]] || usage "one port, not two: $port and $arg"
            is_port "$arg" || usage "'$arg' is no port: 1 to 65535"
            port=$arg
            ;;
        esac
    done
    [[ -n $port ]] || usage 'which port?'
}

# ---- the screen -------------------------------------------------------------

# The terminal's size -> `lines` and `width`; 0 where there is none.
# shellcheck disable=SC2034 # width is for the script
measure() {
    local size
    lines=0 width=0
    if [[ -t 1 ]]; then
        { size=$(stty size <&3 2>/dev/null) || size='0 0'; } 3>&1
        if [[ $size == '0 0' ]]; then size='24 80'; fi
        lines=${size% *} width=${size#* }
    fi
}

# show_picture [HEAD]: prints what the script's function `picture` prints: once,
# or with `watch` every second until Ctrl-C; on a terminal always at the same
# place, below HEAD and the time. A function `look` is called before each
# picture; what it learns is kept.
show_picture() {
    local now head frame shown begun=no
    measure
    if [[ $watch == no ]]; then
        if declare -F look >/dev/null; then look; fi
        picture
        return
    fi
    trap 'exit 0' INT TERM
    trap show_cursor EXIT
    while :; do
        measure
        if declare -F look >/dev/null; then look; fi
        now=$(picture)
        if [[ -t 1 ]]; then
            head="${1:+$1 at }$(date +%T)  (Ctrl-C ends)"
            mapfile -t shown <<<"$head"$'\n'"$now"
            if ((${#shown[@]} > lines)); then
                shown=("${shown[@]:0:lines-1}" '... (the window is too low)')
            fi
            # No cursor, no wrapping; home, each line, then what is left below
            # erased: no flicker.
            printf -v frame '\033[K%s\r\n' "${shown[@]}"
            printf '\033[?25l\033[?7l\033[H%s\033[J' "${frame%$'\r\n'}"
        else
            if [[ $begun == yes ]]; then say ''; fi
            say "$now"
        fi
        begun=yes
        sleep 1
    done
}

show_cursor() {
    if [[ -t 1 ]]; then printf '\033[?25h\033[?7h\n'; fi # and wrapping
}

# ---- the kit's folders ------------------------------------------------------

# find_lab NAME: 7, 07 or lab07-multiclient -> `lab`, the folder's name.
find_lab() {
    local name=${1#lab} dir
    name=${name%%-*}
    [[ $name =~ ^[0-9]{1,2}$ ]] || usage "'$1' is no lab: say 7 or 07"
    printf -v name 'lab%02d' "$((10#$name))"
    lab=
    for dir in "$kit_root/labs/$name"-*/; do
        if [[ -d $dir ]]; then lab=$(basename -- "$dir"); fi
    done
    [[ -n $lab ]] || fail "there is no $name here" "ls $kit_root/labs"
    [[ $1 != *-* || $1 == "$lab" ]] || usage "'$1' is no lab: say $lab"
}

# Where cargo leaves the programs -> `bin`, unless --bin said so.
find_bin() {
    local meta=
    if [[ -z ${bin-} ]]; then
        if have cargo; then
            meta=$(cd -- "$kit_root" && cargo metadata --no-deps \
                --format-version 1 2>/dev/null) || true
        fi
        bin=$(sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p' <<<"$meta")
        if [[ -z $bin ]]; then
            bin=${CARGO_TARGET_DIR:-target}
            [[ $bin == /* ]] || bin=$kit_root/$bin
        fi
        bin+=/debug
    fi
}

# ---- processes --------------------------------------------------------------

# is_pids TEXT: process ids, commas between them.
is_pids() { [[ $1 =~ ^[1-9][0-9]{0,9}(,[1-9][0-9]{0,9})*$ ]]; }

# find_below PIDS: what these processes have started, and what that has started
# -> `below`, process ids; without zombies and without this script.
find_below() {
    local stat line state parent pid more=yes
    local -A parents=() known=()
    below=()
    for stat in /proc/[0-9]*/stat; do
        { read -r line <"$stat"; } 2>/dev/null || continue # it has ended
        read -r state parent _ <<<"${line##*) }"
        if [[ $state != Z && ${line%% *} != "$$" ]]; then parents[${line%% *}]=$parent; fi
    done
    for pid in ${1//,/ }; do known[$pid]=yes; done
    while [[ $more == yes ]]; do
        more=no
        for pid in "${!parents[@]}"; do
            if [[ -z ${known[$pid]-} && -n ${known[${parents[$pid]}]-} ]]; then
                known[$pid]=yes below+=("$pid") more=yes
            fi
        done
    done
    if ((${#below[@]} > 0)); then
        mapfile -t below < <(printf '%s\n' "${below[@]}" | sort -n)
    fi
}

# ---- sockets ----------------------------------------------------------------

# ss is preferred, then netstat (busybox's knows no -o: not good enough).
find_source() {
    if have ss; then
        from=ss
    elif netstat -tuanopeW >/dev/null 2>&1; then
        from=netstat
    else
        from=proc
    fi
}

# One line for what could not be used, nothing for ss.
tell_source() {
    case $from in
    netstat) say '(ss is not installed: this is netstat)' ;;
    proc) say '(no ss, no netstat: /proc writes hexadecimal)' ;;
    esac
}

# port_command PORT [OPTIONS]: lists the sockets with PORT at either end
# -> `command`, the very text that is shown and then run.
port_command() {
    local ends
    case $from in
    ss) command="ss -tuan${2-ope}H 'sport = :$1 or dport = :$1'" ;;
    netstat)
        ends="\$4 ~ /:$1\$/ || \$5 ~ /:$1\$/"
        command="netstat -tuanopeW | awk '$ends'"
        ;;
    proc)
        printf -v ends '%04X' "$1"
        command="grep -s ':$ends ' /proc/net/{tcp,udp}{,6}"
        ;;
    esac
}

# Lists all TCP and UDP sockets -> `command`
all_command() {
    case $from in
    ss) command='ss -tuanopeH' ;;
    netstat) command='netstat -tuanopeW' ;;
    proc) command='grep -s : /proc/net/{tcp,udp}{,6}' ;;
    esac
}

# Runs `command` and prints what it lists.
listed() {
    local status=0
    (
        export LC_ALL=C # netstat translates its states
        if [[ $from == netstat ]]; then exec 2>/dev/null; fi
        eval "$command"
    ) || status=$?
    # grep says 1 where nothing matched, 2 where IPv6 is switched off.
    if ((status != 0)) && [[ $from != proc ]]; then
        fail "this failed: $command"
    fi
}

# Runs `command` and prints what it lists, one row a socket.
rows() { rows_with ''; }

# rows_with WORDS: the same for the lines that have one of WORDS, | between them.
rows_with() {
    local raw
    raw=$(listed)
    if [[ -n $1 ]]; then raw=$(grep -wE -- "$1" <<<"$raw") || true; fi
    if [[ -n $raw ]]; then "from_$from" <<<"$raw"; fi
}

# How many rows of one state are shown -> `most`; 0 for all of them.
# shellcheck disable=SC2034 # it is for the script
find_most() {
    most=20
    if [[ $all == yes ]]; then
        most=0
    elif [[ $watch == yes ]] && ((lines > 0 && lines < 34)); then
        most=$((lines < 19 ? 5 : lines - 14)) # what a low window has room for
    fi
}

# few_rows MOST place|time [PORTS]: as `rows`, but at most MOST of each state:
# the first by address, or by the time that is left on the timer. Where some are
# left out, a row says how many: protocol, state, `more`, how many, `~`. With
# PORTS, such as `tcp:4444 udp:53`, only what has one of them at either end.
#
# The loops over rows below take seconds for thousands of them; awk and sort do
# not, so they choose first.
few_rows() {
    local raw proto state count ports=${3-}
    if [[ $from == proc && -n $ports ]]; then
        ports=''
        for proto in $3; do
            printf -v ports '%s %s:%04X' "$ports" "${proto%:*}" "${proto#*:}"
        done
    fi
    raw=$(listed)
    raw=$(awk -v from="$from" -v by="$2" -v ports="$ports" '
        BEGIN {
            any = split(ports, list, " ")
            for (at in list) wanted[list[at]] = 1
        }
        from == "ss" { proto = $1; state = $2; ends = $5 " " $6 }
        from == "netstat" {
            proto = $1; state = $6; ends = $4 " " $5
            if (state !~ /^[A-Z]/) state = "UNCONN"
        }
        from == "proc" { # /proc/net/tcp6:  12: LOCAL PEER STATE QUEUES TIMER
            rest = proto = $0
            sub(/:.*/, "", proto)
            sub(/.*\//, "", proto)
            sub(/^[^:]*: *[0-9]+: +/, "", rest)
            split(rest, field, " ")
            state = field[3]; ends = field[1] " " field[2]
        }
        proto !~ /^(tcp|udp)/ || split(ends, end, " ") != 2 { next }
        { sub(/6$/, "", proto) }
        # /proc shows a row twice if others come and go while it is read.
        proto == "tcp" && state !~ /^(LISTEN|0A)$/ && seen[ends]++ { next }
        any {
            sub(/.*:/, proto ":", end[1])
            sub(/.*:/, proto ":", end[2])
            if (!(end[1] in wanted) && !(end[2] in wanted)) next
        }
        {
            print proto " " state "\t" (by == "time" ? left() : ends) "\t" $0
        }
        # The time on the timer, as a text that sorts.
        function left(  text, ms) {
            if (from == "proc") return field[5]
            if (from == "netstat" && match($0, /\([0-9.]+\//))
                return sprintf("%012d",
                    1000 * substr($0, RSTART + 1, RLENGTH - 2))
            if (!match($0, /timer:\([a-z]+,[^,]*/)) return ""
            text = substr($0, RSTART, RLENGTH)
            sub(/.*,/, "", text)
            if (text ~ /min/) { ms = 60000 * text; sub(/.*min/, "", text) }
            if (text ~ /^[0-9]+(sec|\.)/) {
                ms += 1000 * int(text)
                sub(/^[0-9]+(sec|\.)/, "", text)
            }
            return sprintf("%012d", ms + text)
        }' <<<"$raw" | LC_ALL=C sort -t $'\t' -k 1,2 |
        awk -F '\t' -v most="$1" '
        # A line that says "1 more" takes as much room as that one.
        function tell_last() { if (last != "" && count[was] == most + 1) print last; last = "" }
        $1 != was { tell_last(); was = $1 }
        { count[$1]++; row = substr($0, length($1 $2) + 3) }
        !most || count[$1] <= most { print row }
        most && count[$1] == most + 1 { last = row }
        END {
            tell_last()
            for (at in count)
                if (most && count[at] > most + 1)
                    print "more " at " " (count[at] - most)
        }')
    if [[ -n $raw ]]; then "from_$from" <<<"$raw"; fi
    while read -r _ proto state count; do
        if [[ $from == proc ]]; then state=${proc_states[16#$state]-?}; fi
        rfc_state "$state" "$proto"
        row "$proto" "$state" more "$count" '~' - - - -
    done < <(grep '^more ' <<<"$raw")
}

row() {
    local IFS=$'\t'
    printf '%s\n' "$*"
}

rfc_state() {
    case $1 in
    ESTAB) state=ESTABLISHED ;;
    SYN-RECV | SYN_RECV) state=SYN-RECEIVED ;;
    FIN_WAIT[12]) state=FIN-WAIT-${1: -1} ;;
    CLOSE | UNCONN) state=CLOSED ;;
    *) state=${1//_/-} ;;
    esac
    if [[ $2 == udp && $state == CLOSED ]]; then state=UNCONN; fi
}

unix_state() { # as ss, netstat, or flags and state of /proc/net/unix
    case $1 in
    LISTEN* | 00010000-*) state=LISTEN ;;
    ESTAB | CONNECTED | *-03) state=CONNECTED ;;
    *) state=- ;;
    esac
}

# timer_text NAME MILLISECONDS TRIES -> `timer`
timer_text() {
    local left=$(($2 / 1000))
    if ((left < 10)); then left+=.$(($2 % 1000 / 100)); fi
    timer="$1 ${left}s"
    if (($3 > 0)); then timer+=" x$3"; fi
}

from_ss() {
    local proto state recvq sendq local_addr peer_addr rest timer process inode
    local left ms names m
    while read -r proto state recvq sendq local_addr peer_addr rest; do
        if [[ $proto == u_* ]]; then # * 1057 * 1058: path and inode, twice
            unix_state "$state"
            inode=$peer_addr peer_addr=${rest#* }
            row unix "$state" "$recvq" "$sendq" "$local_addr" \
                "inode ${peer_addr%% *}" - '?' "$inode"
            continue
        fi
        [[ $proto != more ]] || continue # few_rows tells of it
        rfc_state "$state" "$proto"
        timer=- process=- inode='?'
        if [[ $rest =~ timer:\(([a-z]+),([^,]*),([0-9]+)\) ]]; then
            # 1min57sec, 59sec, 200ms; and 5.123ms is 5 seconds and 123 ms
            m=("${BASH_REMATCH[@]}")
            left=${m[2]} ms=0
            if [[ $left =~ ^([0-9]+)min ]]; then
                ms=$((BASH_REMATCH[1] * 60000)) left=${left#*min}
            fi
            if [[ $left =~ ^([0-9]+)(sec|\.) ]]; then
                ms=$((ms + BASH_REMATCH[1] * 1000)) left=${left#*[c.]}
            fi
            if [[ $left =~ ^([0-9]+)ms ]]; then
                ms=$((ms + 10#${BASH_REMATCH[1]}))
            fi
            timer_text "${m[1]}" "$ms" "${m[3]}"
        fi
        if [[ $rest =~ ino:([0-9]+) ]]; then inode=${BASH_REMATCH[1]}; fi
        if [[ $inode != 0 ]]; then process='?'; fi
        names=${rest#*users:(} # ("server",pid=12,fd=3),("server",pid=13,fd=3)
        while [[ $names =~ \(\"([^\"]*)\",pid=([0-9]+),[^\)]*\)(.*) ]]; do
            m=("${BASH_REMATCH[@]}")
            names=${m[3]}
            case $process, in
            '?,') process=${m[1]}/${m[2]} ;;
            *[/,]"${m[2]}",*) ;; # a second descriptor of the same process
            *) process+=,${m[2]} ;;
            esac
        done
        row "$proto" "$state" "$recvq" "$sendq" "$local_addr" "$peer_addr" \
            "$timer" "$process" "$inode"
    done
}

bracket() { # HOST:PORT PROTOCOL -> `addr`, IPv6 in brackets as ss writes it
    local host=${1%:*}
    case $2:$host in
    *6:*:*) addr="[$host]:${1##*:}" ;;
    *6:*) addr="[::ffff:$host]:${1##*:}" ;;
    *) addr=$1 ;;
    esac
}

from_netstat() {
    local line proto state recvq sendq local_addr peer_addr rest timer process
    local inode addr m ms
    local unix='^unix +[0-9]+ +\[[^]]*\] +[A-Z]+ +([A-Z]*) +([0-9]+) +[^ ]+'
    unix+=' *(.*)$'
    local inet='^([A-Z][A-Z0-9_]*)? *[0-9]+ +([0-9]+) +(.*)$'
    local clock='^(.*[^ ]) +([a-z0-9-]+) \(([0-9.]+)/([0-9]+)/([0-9]+)\)'
    while read -r line; do
        if [[ $line =~ $unix ]]; then
            m=("${BASH_REMATCH[@]}")
            unix_state "${m[1]}"
            row unix "$state" '?' '?' "${m[3]:-*}" '?' - '?' "${m[2]}"
            continue
        fi
        read -r proto recvq sendq local_addr peer_addr rest <<<"$line"
        [[ $proto == tcp* || $proto == udp* ]] || continue
        [[ $rest =~ $inet ]] || continue
        m=("${BASH_REMATCH[@]}")
        rfc_state "${m[1]:-UNCONN}" "${proto%6}"
        inode=${m[2]} rest=${m[3]} timer=-
        bracket "$local_addr" "$proto"
        local_addr=$addr
        bracket "$peer_addr" "$proto"
        peer_addr=$addr
        if [[ $rest =~ $clock ]]; then
            m=("${BASH_REMATCH[@]}")
            rest=${m[1]} ms=$((10#${m[3]/./} * 10))
            case ${m[2]} in
            off) ;;
            probe) timer_text persist "$ms" "${m[5]}" ;;
            *) timer_text "${m[2]}" "$ms" "${m[4]}" ;;
            esac
        fi
        read -r process <<<"$rest" # without the blanks around it
        case $process in
        -) if [[ $inode != 0 ]]; then process='?'; fi ;;
        *) # its name as ss writes it: netstat's may be cut in the path
            m=("${process#*/}" "${process%%/*}")
            read -r process 2>/dev/null <"/proc/${m[1]}/comm" || process=${m[0]}
            process+=/${m[1]}
            ;;
        esac
        if [[ $state == LISTEN ]]; then sendq='?'; fi # it writes 0
        row "${proto%6}" "$state" "$recvq" "$sendq" "$local_addr" \
            "$peer_addr" "$timer" "$process" "$inode"
    done
}

hex_addr() { # 0100007F:115C -> `addr` 127.0.0.1:4444
    local h=${1%:*} port=$((16#${1#*:})) words='' at run
    if ((port == 0)); then port='*'; fi
    if ((${#h} == 8)); then
        printf -v addr '%d.%d.%d.%d' "0x${h:6:2}" "0x${h:4:2}" "0x${h:2:2}" \
            "0x${h:0:2}"
        addr+=:$port
        return
    fi
    if [[ $h == 0000000000000000FFFF0000* ]]; then
        hex_addr "${h:24}:0"
        addr="[::ffff:${addr%:*}]:$port"
        return
    fi
    for ((at = 0; at < 32; at += 8)); do # each 32-bit word is little-endian
        printf -v words '%s:%x:%x' "$words" "0x${h:at+6:2}${h:at+4:2}" \
            "0x${h:at+2:2}${h:at:2}"
    done
    words+=:
    for run in 0:0:0:0:0:0:0:0 0:0:0:0:0:0:0 0:0:0:0:0:0 0:0:0:0:0 0:0:0:0 \
        0:0:0 0:0; do # the longest run of zeros becomes ::
        if [[ $words == *:$run:* ]]; then
            words=${words%%:"$run":*}::${words#*:"$run":}
            break
        fi
    done
    if [[ $words != ::* ]]; then words=${words#:}; fi
    if [[ $words != *:: ]]; then words=${words%:}; fi
    addr="[$words]:$port"
}

# The states by number, include/net/tcp_states.h; 12 is a request.
proc_states=(- ESTABLISHED SYN-SENT SYN-RECEIVED FIN-WAIT-1 FIN-WAIT-2
    TIME-WAIT CLOSED CLOSE-WAIT LAST-ACK LISTEN CLOSING SYN-RECEIVED)

from_proc() {
    local timers=(- on keepalive timewait persist)
    local inet='^[^:]*/net/(tcp|udp)6?: *[0-9]+: (.*)$'
    local unix='^[^:]*/net/unix:[0-9a-f]+: (.*)$'
    local line proto state local_addr peer_addr queues clock tries probes inode
    local addr timer process recvq sendq flags path
    while read -r line; do
        if [[ $line =~ $unix ]]; then
            # references protocol flags type state inode path
            read -r _ _ flags _ state inode path <<<"${BASH_REMATCH[1]}"
            unix_state "$flags-$state"
            row unix "$state" '?' '?' "${path:-*}" '?' - '?' "$inode"
            continue
        fi
        [[ $line =~ $inet ]] || continue
        proto=${BASH_REMATCH[1]}
        read -r local_addr peer_addr state queues clock tries _ probes inode \
            _ <<<"${BASH_REMATCH[2]}"
        rfc_state "${proc_states[16#$state]-?}" "$proto"
        hex_addr "$local_addr"
        local_addr=$addr
        hex_addr "$peer_addr"
        peer_addr=$addr
        sendq=$((16#${queues%:*})) recvq=$((16#${queues#*:}))
        timer=- process='?'
        case $proto${clock%:*} in
        tcp00 | udp*) ;;
        tcp04) timer_text persist "$((16#${clock#*:} * 10))" "$probes" ;;
        *) timer_text "${timers[16#${clock%:*}]-?}" \
            "$((16#${clock#*:} * 10))" "$((16#$tries))" ;;
        esac
        if [[ $inode == 0 ]]; then process=-; fi
        if [[ $state == LISTEN ]]; then sendq='?'; fi # it writes 0
        row "$proto" "$state" "$recvq" "$sendq" "$local_addr" "$peer_addr" \
            "$timer" "$process" "$inode"
    done
}
