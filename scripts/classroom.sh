#!/usr/bin/env bash
# classroom.sh - one screen for a lab: its programs, and their sockets beside.
#
# Usage:    scripts/classroom.sh LAB [--port N] [--bin DIR]
#           scripts/classroom.sh LAB --detach     set out, but stay here
#           scripts/classroom.sh LAB --end        end it, and what runs in it
#
# LAB is 7, 07 or lab07-multiclient. --port takes another port than the
# lecture's. --bin DIR takes the programs from DIR and builds nothing. Running
# it again starts afresh.
#
# Needs:    tmux (package tmux), cargo unless --bin is given, and a terminal of
#           at least 100x30 to show everything unwrapped. No root. It has a
#           tmux server of its own (tmux -L labkit, without ~/.tmux.conf): your
#           own tmux is left alone. Called inside it, your terminal changes
#           over to the classroom and comes back when you leave.
#
# How to read it
#   The programs, each in a shell: the first on top, the others on the left.
#   Ctrl-C or Ctrl-D ends a program, Up and Enter start it again. Right:
#   scripts/states.sh, every second.
#   Click a pane or press Ctrl-b o to type in the next one; Ctrl-b z shows one
#   pane alone and back; Ctrl-b d leaves it running. The last line says how to
#   end it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# A lab is one line: its name, protocol and port, then at least two programs
# from top to bottom. The first must hold the port before the others
# start. PORT is replaced.
classrooms='
lab06-listen|tcp 7777|listen 127.0.0.1:PORT|client 127.0.0.1:PORT|client 127.0.0.1:PORT|client 127.0.0.1:PORT
lab07-multiclient|tcp 4444|server PORT|client PORT|client PORT|client PORT
lab08-stream|tcp 7777|receive 127.0.0.1:PORT|send 127.0.0.1:PORT
lab09-shutdown|tcp 7777|server 127.0.0.1:PORT|client 127.0.0.1:PORT|client 127.0.0.1:PORT
lab10-timewait|tcp 7777|server 127.0.0.1:PORT|client 127.0.0.1:PORT
'
left=52 right=47 height=30 first_height=8 # columns and lines

name='' port='' bin='' todo=attach
while (($#)); do
    case $1 in
    -h | --help) help ;;
    --detach) todo=detach ;;
    --end) todo=end ;;
    --port)
        is_port "${2-}" || usage "--port ${2-}: a port is 1 to 65535"
        port=$2
        shift
        ;;
    --bin)
        [[ -d ${2-} ]] || usage "--bin ${2-}: there is no such folder"
        bin=$(CDPATH='' cd -- "$2" && pwd)
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

# The lab's line -> `lab`, `number`, `protocol`, `port`, `programs`
number=${name#lab}
number=${number%%-*}
[[ $number =~ ^[0-9]{1,2}$ ]] || usage "'$name' is no lab: say 7 or 07"
printf -v number '%02d' "$((10#$number))"
line=$(grep "^lab$number-" <<<"$classrooms") || {
    labs=$(sed -n 's/|.*//p' <<<"$classrooms")
    usage "lab$number has no classroom, only: ${labs//$'\n'/ }"
}
IFS='|' read -r lab protocol line <<<"$line"
lab=${lab// /}
[[ $name != *-* || $name == "$lab" ]] || usage "'$name' is no lab: say $lab"
read -r protocol default_port <<<"$protocol"
port=${port:-$default_port}
IFS='|' read -ra programs <<<"${line//PORT/"$port"}"

have tmux || fail 'tmux is not installed' 'sudo apt install tmux'
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
    local leaders stat sid
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

if [[ -z $bin ]]; then
    have cargo || fail 'cargo is not installed' 'scripts/check.sh'
    build="cargo build -q -p $lab"
    say "+ $build"
    (cd -- "$kit_root" && eval "$build") || fail "$lab does not build"
    find_bin
fi
[[ -x $bin/$lab ]] || fail "there is no $bin/$lab" "cargo build -p $lab"

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
    done < <(rows)
    [[ -n $holder ]]
}
if port_held; then
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
case $bin in
"$kit_root"/*) program=${bin#"$kit_root"/}/$lab ;;
*) program=$lab shell+=("PATH=$bin:$PATH") ;; # a long path would wrap
esac
shell+=(bash --norc --noprofile)

split() { # OPTIONS... -> `pane`
    pane=$(tm split-window -c "$kit_root" -P -F '#{pane_id}' "$@" \
        "${shell[@]}")
}

prompt_seen() { [[ $(tm capture-pane -p -t "$1") == '$'* ]]; }

busy() {
    [[ $(tm display-message -p -t "$1" '#{pane_current_command}') != bash ]]
}

open_or_over() { port_held || ! busy "$first"; }

type_in() { # PANE COMMAND: as soon as the shell listens
    until_true 10 prompt_seen "$1" || fail 'no shell starts in the pane'
    tm send-keys -t "$1" -l "$2"
    tm send-keys -t "$1" Enter
}

first=$(tm new-session -d -s "$lab" -x $((left + 1 + right)) -y $height \
    -c "$kit_root" -P -F '#{pane_id}' "${shell[@]}")
session_options=(
    status-left-length 64 status-right-length 50 status-style reverse mouse on
    status-left " $lab, port $port   next pane: click, or Ctrl-b o"
    status-right "end: scripts/classroom.sh $number --end "
)
window_options=(
    window-status-format '' window-status-current-format ''
    remain-on-exit on pane-border-status top
    pane-border-format ' #{pane_title} ' pane-active-border-style bold
)
for ((at = 0; at < ${#session_options[@]}; at += 2)); do
    tm set-option -t "$first" "${session_options[@]:at:2}"
done
for ((at = 0; at < ${#window_options[@]}; at += 2)); do
    tm set-option -w -t "$first" "${window_options[@]:at:2}"
done

# The first program has the whole width; below it the others and the sockets.
# Each pane has a line above it for its title; the status line is the last.
others=$((${#programs[@]} - 1))
room=$((height - 1 - 1 - first_height - 1))
panes=("$first")
split -v -l $room -t "$first"
panes+=("$pane")
split -h -l $right -t "$pane"
watcher=$pane
for ((at = 2; at <= others; at++)); do
    room=$((room - 1 - (room - (others - at + 1)) / (others - at + 2)))
    split -v -l $room -t "${panes[at - 1]}"
    panes+=("$pane")
done

for at in "${!programs[@]}"; do
    read -r role _ <<<"${programs[at]}"
    same=$(grep -o "$role" <<<"${programs[*]}" | wc -l)
    if ((same > 1)); then role+=" $at"; fi
    tm select-pane -t "${panes[at]}" -T "$role"
done
tm select-pane -t "$watcher" -T "sockets of port $port"
tm select-pane -t "$first"

type_in "$watcher" "scripts/states.sh $port --watch"
for at in "${!programs[@]}"; do
    read -r arguments <<<"${programs[at]}"
    type_in "${panes[at]}" "$program $arguments"
    until_true 2 busy "${panes[at]}" || true # one after the other
    if ((at == 0)); then
        until_true 10 open_or_over || true
        if [[ -z $holder ]]; then
            tm capture-pane -p -t "$first" | sed '/^$/d' >&2 || true
            fail "nobody opened port $port; above is what the first pane says"
        fi
    fi
done
unfinished=no

attach="tmux -L labkit attach-session -t $lab"
if [[ $todo == detach ]]; then
    say "$lab is set out, port $port"
    say "see it:  $attach"
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
