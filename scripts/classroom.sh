#!/usr/bin/env bash
# classroom.sh - one screen for a lab: its programs, and their sockets beside.
#
# Usage:    scripts/classroom.sh LAB [--port N] [--bin DIR]
#           scripts/classroom.sh LAB --step       types each command, and leaves
#                                                 Enter to you
#           scripts/classroom.sh LAB --demo       the demo, and its own sockets
#           scripts/classroom.sh LAB --scope      the lower half is the board of
#                                                 lab00-scope watch
#           scripts/classroom.sh LAB --two-hosts  on two hosts, with a cable
#           scripts/classroom.sh LAB --detach     set out, but stay here
#           scripts/classroom.sh LAB --end        end it, and what runs in it
#
# LAB is 7, 07 or lab07-multiclient. Each lab has a port of its own, so that two
# of them do not meet; --port takes another one. --bin DIR takes the programs
# from DIR and builds nothing. Running it again starts afresh.
#
# Needs:    tmux (package tmux), cargo unless --bin is given, and a terminal of
#           at least 100x30 (--scope: 102x30). No root. It has a tmux server of
#           its own (tmux -L labkit, without ~/.tmux.conf): your own tmux is left
#           alone. Called inside it, your terminal changes over to the classroom
#           and comes back when you leave.
#
# How to read it
#   Each program runs in a shell. Ctrl-C or Ctrl-D ends a program, Up and Enter
#   start it again. With --step, Enter asks before it goes to a program that
#   waits for it: so an Enter too much ends nothing. Beside or below them: a
#   script that shows the kernel's view every second.
#   Click a pane or press Ctrl-b o to type in the next one; Ctrl-b z shows one
#   pane alone and back; Ctrl-b d leaves it running. The last line says how to
#   end it.
#   --demo: the sockets are those of the demo that runs on the left. They follow
#   its ports: a new experiment has new ones.
#   --scope: the state diagram with the number of sockets in each state, and the
#   sockets below it; ? in that pane explains it.
#   --two-hosts: the first program runs on host A, the others on host B, and the
#   sockets are those of B. In the pane on top type unplug, plug or status; see
#   scripts/two-hosts.sh.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# A lab is one line: its name, protocol and port (or none), then its panes.
#   8^server PORT      a program over the whole width, 8 lines high
#   client PORT        a program on the left
#   41>scripts/...     on the right, 41 columns wide; without it, the sockets of
#                      PORT
#   9_scripts/...      below all, over the whole width, 9 lines high
#   client PORT &&     ends by itself; the programs after it wait for that
# 0 lines are what is left. Where a protocol is named, the first program must
# hold the port before the others start. PORT and NEXT (the one after it) are
# replaced; PANES by the process ids of the shells.
threads='watch -n 1 ps -L -o pid,tid,stat,psr,comm --ppid PANES'
classrooms="
lab00-scope|- 7000|0^run --slow 200 --brief -- nc -nlv PORT --and --after Listening nc -nN 127.0.0.1 PORT
lab01-create|- -|hold --seconds 3600|hold --type stream --seconds 3600|39>scripts/fds.sh --below PANES --watch
lab02-bind|udp 7020|hold PORT|hold PORT --tcp|hold 127.0.0.2:PORT
lab03-datagram|udp 7030|receive PORT --count 0|send PORT --bind 127.0.0.1:NEXT
lab04-chunks|udp 7040|8^receive PORT|8^send --to 127.0.0.1:PORT --port NEXT|0_scripts/states.sh PORT --watch
lab05-multicast|udp 53124|4^receive 239.1.1.1:PORT|4^receive 239.1.1.1:PORT|4^send 239.1.1.1:PORT|0_scripts/groups.sh 239.1.1.1
lab06-listen|tcp 7060|8^listen PORT|client PORT|client PORT|client PORT
lab07-multiclient|tcp 4444|8^server PORT|client PORT|client PORT|client PORT
lab08-stream|tcp 7080|8^receive PORT|send PORT
lab09-shutdown|tcp 7090|8^server PORT|client PORT|client PORT
lab10-timewait|tcp 7100|6^server PORT --close-first|client PORT|5_countdown PORT
lab11-states|- 7110|14^hold closing --port PORT --seconds 3600|0_scripts/states.sh PORT --watch
lab12-broken-pipe|tcp 7120|9^server PORT|client PORT
lab13-echo-pool|tcp 8080|7^server-multi PORT|4^client localhost PORT|4^client localhost PORT|0_scripts/states.sh PORT --watch
lab14-length-header|tcp 5050|8^server PORT|client PORT|client PORT
lab15-mboard-udp|udp 7150|9^server PORT|client PORT --publish Hello &&|client PORT
lab16-mboard-sessions|udp 7160|6^server PORT|3^relay NEXT --to 127.0.0.1:PORT --delay-ms 20 --drop 20|4^client NEXT --publish - <README.md|client NEXT --publish Hello
lab17-mboard-tcp|tcp 7170|10^server PORT|client PORT --publish Hello &&|client PORT &&|client PORT --publish -
lab18-threads|- -|hello 4 --stay|lock|47>$threads
lab19-server-models|tcp 7190|6^server many-clients PORT|11^connections PORT|0_scripts/backlog.sh PORT --watch
lab20-downloads|tcp 8020|4^files PORT|12^fetch 127.0.0.1:PORT/{1..4}.bin --threads 2|0_scripts/states.sh PORT --watch
lab21-lifetimes|tcp 7210|4^page PORT|4^visit PORT &&|4^visit PORT --close|0_scripts/lifetimes.sh PORT
lab22-mboard-live|tcp 7220|10^server PORT|client PORT --name ann|client PORT --name bob
lab23-guessword|tcp 7230|10^server PORT|client ann PORT|client bob PORT
lab24-mboard-rpc|tcp 7240|9^server PORT --slow|client PORT --publish Hello &&|client PORT --slow
lab25-chat-objects|tcp 7250|10^server PORT|client --name ann --uri PORT|client --name bob --uri PORT
lab26-group|udp 53126|6^member ann 239.26.26.26:PORT|6^member bob 239.26.26.26:PORT|6^member cid 239.26.26.26:PORT --loss 30|0_scripts/groups.sh 239.26.26.26
lab27-pubsub|tcp 7270|5^broker PORT|7^subscribe letters --session ann --broker PORT|publish letters - --broker PORT
"
width_needed=100 height_needed=30 # columns and lines
right=47 # columns, where a lab says nothing else

# --scope: the rows of the board, seven of them sockets. Above it the programs
# stand side by side, 49 and 52 columns wide, where their lines are short enough.
scope_rows=17
side_by_side=' 02 03 07 08 09 10 11 12 14 23 '

name='' port='' bin='' todo=attach step=no demo=no scope=no two_hosts=no
while (($#)); do
    case $1 in
    -h | --help) help ;;
    --detach) todo=detach ;;
    --end) todo=end ;;
    --step) step=yes ;;
    --demo) demo=yes ;;
    --scope) scope=yes ;;
    --two-hosts) two_hosts=yes ;;
    --port)
        is_port "${2-}" || usage "--port ${2-}: a port is 1 to 65535"
        port=$2
        shift
        ;;
    --bin)
        take_bin "${2-}"
        shift
        ;;
    -*) usage "there is no option $1" ;;
    *)
        [[ -z $name ]] || usage "one lab, not two: $name and $1"
        name=$1
        ;;
    esac
    shift
done
[[ -n $name ]] || usage 'which lab?'
if [[ $scope == yes && $demo$two_hosts != nono ]]; then
    usage '--scope is for the programs of a lab, not for --demo or --two-hosts'
fi

# The lab's line -> `lab`, `number`, `protocol`, `port`, `panes_wanted`
find_lab "$name"
number=${lab#lab}
number=${number%%-*}
if [[ $demo == yes ]]; then
    # A demo needs 60 columns.
    line="$lab|- -|demo --pause|39>scripts/states.sh --below PANES --watch"
    case $number in
    01) line=${line/states.sh/fds.sh} ;;
    18) line="${line%%>*}>$threads" ;;
    esac
else
    line=$(grep "^$lab|" <<<"$classrooms") ||
        fail "$lab has no classroom: scripts/classroom.sh has no line for it" \
            "$0 $number --demo"
fi
IFS='|' read -r lab protocol line <<<"$line"
hosts=two-hosts.sh # found by PATH: a path would wrap
if [[ $two_hosts == yes ]]; then
    # A server and its clients, and nothing else: they take the address of A.
    [[ $demo == no && $protocol == tcp* && \
        "|$line" =~ ^(\|[0-9]*\^?[a-z]+\ PORT)+$ ]] ||
        fail "$lab has no classroom on two hosts" "$0 $number"
    line="5^cable|${line//PORT/10.0.0.1:PORT}"
    line+="|39>$hosts run B scripts/states.sh PORT --watch"
fi
read -r protocol default_port <<<"$protocol"
if [[ $default_port == - ]]; then
    port='' # it needs none
else
    port=${port:-$default_port}
    line=${line//PORT/"$port"}
    line=${line//NEXT/"$((port % 65535 + 1))"}
fi
if [[ $scope == yes ]]; then
    [[ -n $port ]] || fail "$lab has no port to look at" "$0 $number"
    line=$(tr '|' '\n' <<<"$line" | grep -v '^[0-9]*[>_]' | sed 's/^[0-9]*^//')
    if [[ $side_by_side != *" $number "* ]]; then
        programs_wanted=$(wc -l <<<"$line")
        room=$((height_needed - 1 - scope_rows - 1 - programs_wanted))
        others=$((room / programs_wanted))
        first=$((room - others * (programs_wanted - 1)))
        line=$(sed "1s/^/$first^/; 2,\$s/^/$others^/" <<<"$line")
    fi
    next=$((port % 65535 + 1)) ports=$port
    if [[ $line == *"$next"* ]]; then ports+=" $next"; fi
    line="${line//$'\n'/|}|${scope_rows}_lab00-scope watch $ports"
    width_needed=102 right=52
fi
IFS='|' read -ra panes_wanted <<<"$line"

scope_program=''
if [[ $scope == yes ]]; then scope_program=lab00-scope; fi
have tmux || fail 'tmux is not installed' 'sudo apt install tmux'
if [[ $line == *'>watch '* ]]; then
    have watch || fail 'watch is not installed' 'sudo apt install procps'
fi
tm() { tmux -L labkit -f /dev/null "$@"; }

# until_true SECONDS COMMAND...: looks again and again, false if in vain.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# What runs in the session's terminals -> `running`, process ids.
find_running() {
    local leaders stat sid line
    running=()
    leaders=" $(tm list-panes -s -t "=$lab" -F '#{pane_pid}' | tr '\n' ' ')"
    for stat in /proc/[0-9]*/stat; do
        { read -r line <"$stat"; } 2>/dev/null || continue
        read -r _ _ _ sid _ <<<"${line##*) }"
        if [[ $leaders == *" $sid "* ]]; then
            stat=${stat%/stat}
            running+=("${stat#/proc/}")
        fi
    done
}

none_left() {
    local pid
    for pid in "${running[@]}"; do
        { read -r line <"/proc/$pid/stat"; } 2>/dev/null || continue
        if [[ ${line##*) } != Z* ]]; then return 1; fi
    done
}

no_server() { ! kill -0 "$server_pid" 2>/dev/null; }

# Ends the session and what runs in it; false if there was none.
end_session() {
    tm has-session -t "=$lab" 2>/dev/null || return 1
    local server_pid pid
    server_pid=$(tm display-message -p '#{pid}')
    find_running
    tm kill-session -t "=$lab"
    if ! until_true 3 none_left; then # deaf to the hang-up
        for pid in "${running[@]}"; do
            kill -KILL "$pid" 2>/dev/null || true
        done
        until_true 3 none_left || fail "some of it still runs: ${running[*]}"
    fi
    # Without a session left, tmux's server goes too; let it go first.
    if ! tm list-sessions >/dev/null 2>&1; then
        until_true 3 no_server || fail 'the tmux server does not end' \
            "kill $server_pid"
    fi
}

if [[ $todo == end ]]; then
    if end_session; then
        say "ended $lab: the tmux session and what ran in it (${#running[@]}" \
            'processes)'
    else
        say "there is no classroom of $lab to end"
    fi
    exit 0
fi

own_socket=${TMUX-}
own_socket=${own_socket%%,*}
if [[ ${own_socket##*/} == labkit ]]; then
    fail 'you are inside the classroom: start it again from another terminal' \
        "$0 $number --end"
fi
if [[ $todo == attach && ! (-t 0 && -t 1) ]]; then
    fail 'there is no terminal to show it on' "$0 $number --detach"
fi

# The size of the terminal it is shown on -> `lines`, `width`
if [[ $todo == attach ]]; then
    measure
    if [[ -n $own_socket ]]; then
        read -r lines width < <(tmux display-message -p \
            '#{client_height} #{client_width}')
    fi
    if [[ -z $width ]]; then
        fail 'no terminal is attached to your tmux' "$0 $number --detach"
    fi
    if ((width < width_needed || lines < height_needed)); then
        fail "this terminal has ${width}x$lines; a classroom needs $(
        )${width_needed}x$height_needed" \
            'enlarge the window, or take a smaller font'
    fi
fi

if [[ -z $bin ]]; then
    have cargo || fail 'cargo is not installed' 'scripts/check.sh'
    build="cargo build -q --bin $lab${scope_program:+ --bin $scope_program}"
    say "+ $build"
    (cd -- "$kit_root" && eval "$build") || fail "$lab does not build"
    find_bin
fi
for wanted in "$lab" $scope_program; do
    [[ -x $bin/$wanted ]] ||
        fail "there is no $bin/$wanted" "cargo build --bin $wanted"
done

end_session || true

# The row of the socket that holds the port -> `holder`
find_source
port_held() {
    local proto state local_addr process
    holder=
    port_command "$port"
    while IFS=$'\t' read -r proto state _ _ local_addr _ _ process _; do
        if [[ $proto == "$protocol" && $local_addr == *:"$port" ]] &&
            [[ $proto == udp || $state == LISTEN ]]; then
            holder="$state $local_addr, process $process"
        fi
    done < <(few_rows 20 place)
    [[ -n $holder ]]
}
if [[ $two_hosts == yes ]]; then
    if "$kit_root/scripts/$hosts" status >/dev/null 2>&1; then
        fail 'the two hosts are up already' "scripts/$hosts down"
    fi
elif [[ $protocol != - ]] && port_held; then
    fail "port $port is taken: $holder" \
        "$0 $number --port $((port % 65535 + 1))"
fi

unfinished=yes
cleanup() {
    if [[ $unfinished == yes ]]; then end_session || true; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# A plain shell, the same everywhere: the program can be started again in it,
# and Ctrl-D ends the program, not the pane. No `^C' is shown, for it would
# push what a program says last past the edge.
# shellcheck disable=SC2016 # "$@" is for that sh
shell=(sh -c 'stty -echoctl; exec "$@"' sh)
shell+=(env -u PROMPT_COMMAND 'PS1=$ ' HISTFILE= IGNOREEOF=99)
program=$lab shell+=("PATH=$bin:$PATH") # a path would wrap
if [[ $two_hosts == yes ]]; then shell+=("PATH=$bin:$kit_root/scripts:$PATH"); fi
shell+=(bash --norc --noprofile)

split() { # OPTIONS... -> `pane`
    pane=$(tm split-window -c "$kit_root" -P -F '#{pane_id}' "$@" \
        "${shell[@]}")
}

prompt_seen() { [[ $(tm capture-pane -p -t "$1") == '$'* ]]; }

busy() {
    [[ $(tm display-message -p -t "$1" '#{pane_current_command}') != bash ]]
}

# The shell asks for the next command.
ended() {
    [[ $(tm capture-pane -p -t "$1" | sed '/^$/d' | tail -n 1) == '$' ]]
}

begun() { busy "$1" || ended "$1"; }

open_or_over() { port_held || ! busy "${program_panes[0]}"; }

# Who listens on host A -> `holder`
open_on_a() {
    holder=$("$kit_root/scripts/$hosts" run A "$kit_root/scripts/states.sh" \
        "$port" | grep '^LISTEN')
}

hosts_up() { "$kit_root/scripts/$hosts" status >/dev/null 2>&1; }

# tmux tells a terminal its new size a moment after it was cut.
size_told() {
    local terminal size
    read -r terminal size < <(tm display-message -p -t "$1" \
        '#{pane_tty} #{pane_height} #{pane_width}')
    [[ $(stty size <"$terminal") == "$size" ]]
}

type_in() { # PANE COMMAND: as soon as the shell listens
    until_true 10 prompt_seen "$1" || fail 'no shell starts in the pane'
    until_true 3 size_told "$1" || true
    tm send-keys -t "$1" -l "$2"
}

# The panes: what runs in them, by place -> `tops`, `left_ones`, `right_one`,
# `bottoms`; and the heights of the rows, 0 for what is left.
tops=() left_ones=() bottoms=() right_one='' heights=()
place='^([0-9]*)([>^_]?)(.*)$'
for wanted in "${panes_wanted[@]}"; do
    [[ $wanted =~ $place ]]
    case ${BASH_REMATCH[2]} in
    ^) tops+=("${BASH_REMATCH[3]}") heights+=("${BASH_REMATCH[1]}") ;;
    _) bottoms+=("${BASH_REMATCH[3]}") heights+=("${BASH_REMATCH[1]}") ;;
    '>') right_one=${BASH_REMATCH[3]} right=${BASH_REMATCH[1]} ;;
    *)
        if ((${#left_ones[@]} == 0)); then heights+=(0); fi
        left_ones+=("${BASH_REMATCH[3]}")
        ;;
    esac
done
if ((${#left_ones[@]} > 0)); then
    right_one=${right_one:-scripts/states.sh $port --watch}
fi
# Each row has a line above it for its title; the status line is the last.
room=$((height_needed - 1 - ${#heights[@]}))
for height in "${heights[@]}"; do room=$((room - height)); done
for at in "${!heights[@]}"; do
    if ((heights[at] == 0)); then heights[at]=$room; fi
done

pane=$(tm new-session -d -s "$lab" -x $width_needed -y $((height_needed - 1)) \
    -c "$kit_root" -P -F '#{pane_id}' "${shell[@]}")
about="lab$number${port:+, port $port}"
if [[ $step == yes ]]; then about+='   Enter starts it'; fi
session_options=(
    status-left-length 62 status-right-length 36 status-style reverse mouse on
    status-left " $about   Ctrl-b o: next pane"
    status-right "end: scripts/classroom.sh $number --end "
)
window_options=(
    window-status-format '' window-status-current-format ''
    remain-on-exit on pane-border-status top
    pane-border-format ' #{pane_title} ' pane-active-border-style bold
)
for ((at = 0; at < ${#session_options[@]}; at += 2)); do
    tm set-option -t "$pane" "${session_options[@]:at:2}"
done
if [[ $step == yes ]]; then
    tm set-option -t "$pane" @step yes
    tm bind-key -n Enter if-shell -F "#{&&:#{@step},$(
    )#{&&:#{!=:#{pane_current_command},bash},#{C:Press Enter}}}" \
        'confirm-before -p "The program here waits for Enter: send it? (y/n)" "send-keys Enter"' \
        'send-keys Enter'
fi
for ((at = 0; at < ${#window_options[@]}; at += 2)); do
    tm set-option -w -t "$pane" "${window_options[@]:at:2}"
done

# The rows from top to bottom -> `row_panes`; then the row in the middle, if
# there is one, is cut into the programs on the left and the watcher; with the
# board below, into the first program and the others.
row_panes=("$pane")
for ((at = 1; at < ${#heights[@]}; at++)); do
    room=$((${#heights[@]} - at - 1))
    for height in "${heights[@]:at}"; do room=$((room + height)); done
    split -v -l $room -t "$pane"
    row_panes+=("$pane")
done
program_panes=("${row_panes[@]:0:${#tops[@]}}")
programs=("${tops[@]}" "${left_ones[@]}")
watchers=() watcher_panes=()
if ((${#left_ones[@]} > 0)); then
    middle=${row_panes[${#tops[@]}]}
    program_panes+=("$middle")
    pane=$middle room=${heights[${#tops[@]}]} rest=$((${#left_ones[@]} - 1))
    if [[ $scope == no ]]; then
        split -h -l "$right" -t "$middle"
        watchers+=("$right_one") watcher_panes+=("$pane")
        pane=$middle
    elif ((rest > 0)); then
        split -h -l "$right" -t "$middle"
        program_panes+=("$pane")
        rest=$((rest - 1))
    fi
    for (( ; rest > 0; rest--)); do
        room=$((room - 1 - (room - rest) / (rest + 1)))
        split -v -l $room -t "$pane"
        program_panes+=("$pane")
    done
fi
for at in "${!bottoms[@]}"; do
    watchers+=("${bottoms[at]}")
    watcher_panes+=("${row_panes[@]: -${#bottoms[@]} + at:1}")
done

declare -A counts=()
for at in "${!programs[@]}"; do
    read -r role _ <<<"${programs[at]}"
    counts[$role]=$((${counts[$role]-0} + 1))
    if [[ $(printf '%s\n' "${programs[@]}" | grep -c "^$role\b") -gt 1 ]]; then
        role+=" ${counts[$role]}"
    fi
    case $two_hosts,$at in
    yes,0) ;;
    yes,1) role="host A: $role" ;;
    yes,*) role="host B: $role" ;;
    esac
    tm select-pane -t "${program_panes[at]}" -T "$role"
done
for at in "${!watchers[@]}"; do
    case ${watchers[at]} in
    *--below*) title='its sockets' ;;
    lab00-scope*) title="live board of port ${watchers[at]#*watch }" ;;
    *' run B '*) title="host B: sockets of port $port" ;;
    *states.sh*) title="sockets of port $port" ;;
    *'ps -L'*) title='their threads, by ps -L' ;;
    *backlog.sh*) title="accept queue of port $port" ;;
    *lifetimes.sh*) title="connections of port $port" ;;
    *groups.sh*) title="members of ${watchers[at]##* }" ;;
    *) title=${watchers[at]%% *} ;;
    esac
    tm select-pane -t "${watcher_panes[at]}" -T "$title"
done
tm select-pane -t "${program_panes[0]}"

# What is typed into the pane of a program.
command_of() { # PLACE
    local typed=${programs[$1]% &&}
    case $two_hosts,$1 in
    no,*) printf '%s' "$program $typed" ;;
    yes,0) printf '%s' "$hosts up" ;;
    yes,1) printf '%s' "$hosts run A $program $typed" ;;
    yes,*) printf '%s' "$hosts run B $program $typed" ;;
    esac
}

# nothing_opened PANE MESSAGE: shows what the pane says.
nothing_opened() {
    tm capture-pane -p -t "$1" | sed '/^$/d' >&2 || true
    fail "$2; above is what its pane says"
}

if [[ $two_hosts == yes ]]; then # everything else needs them
    type_in "${program_panes[0]}" "$(command_of 0)"
    tm send-keys -t "${program_panes[0]}" Enter
    until_true 20 hosts_up ||
        nothing_opened "${program_panes[0]}" 'the two hosts are not up'
fi
shells=''
for pane in "${program_panes[@]}"; do
    shells+=,$(tm display-message -p -t "$pane" '#{pane_pid}')
done
for at in "${!watchers[@]}"; do
    watcher=${watchers[at]//PANES/"${shells#,}"}
    case $watcher in
    *groups.sh*) watcher="while clear; do $watcher; sleep 1; done" ;;
    scripts/* | "$hosts "* | 'watch '* | lab00-scope*) ;;
    *) watcher="$program $watcher" ;;
    esac
    type_in "${watcher_panes[at]}" "$watcher"
    tm send-keys -t "${watcher_panes[at]}" Enter
done
for at in "${!programs[@]}"; do
    if [[ $two_hosts,$at == yes,0 ]]; then continue; fi
    type_in "${program_panes[at]}" "$(command_of "$at")"
    if [[ $step == yes ]]; then continue; fi
    tm send-keys -t "${program_panes[at]}" Enter
    until_true 2 begun "${program_panes[at]}" || true # one after the other
    if [[ ${programs[at]} == *' &&' ]]; then
        until_true 5 ended "${program_panes[at]}" || true
    fi
    if [[ $two_hosts,$at == yes,1 ]]; then
        until_true 10 open_on_a || true
    elif [[ $two_hosts,$at == no,0 && $protocol != - ]]; then
        until_true 10 open_or_over || true
    else
        continue
    fi
    [[ -n $holder ]] ||
        nothing_opened "${program_panes[at]}" "nobody opened port $port"
done
unfinished=no

attach="tmux -L labkit attach-session -t $lab"
if [[ $todo == detach ]]; then
    say "$lab is set out${port:+, port $port}"
    say "see it:  $attach   (${width_needed}x$height_needed)"
    say "end it:  scripts/classroom.sh $number --end"
elif [[ -n $own_socket ]]; then
    # Two tmux servers: this terminal leaves yours for ours, and returns.
    session=$(tmux display-message -p '#{session_id}')
    socket=$(tm display-message -p '#{socket_path}')
    tmux detach-client -E "tmux -S '$socket' attach-session -t '$lab'
        exec tmux -S '$own_socket' attach-session -t '$session'"
else
    say "+ $attach"
    eval "$attach"
    if tm has-session -t "=$lab" 2>/dev/null; then
        say "it still runs. back:  $attach"
        say "               end:   scripts/classroom.sh $number --end"
    fi
fi
