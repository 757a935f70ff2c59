#!/usr/bin/env bash
# broker.sh - does lab27 say the same of a broker that others use?
#
# Usage:    scripts/broker.sh mosquitto|rabbitmq start [PORT]   else port 1883
#           scripts/broker.sh mosquitto|rabbitmq status
#           scripts/broker.sh mosquitto|rabbitmq stop
#
# Starts an installed broker that speaks MQTT, for lab27's programs:
#           scripts/broker.sh mosquitto start
#           cargo lab27 subscribe letters --session ann
#           cargo lab27 publish letters 'Dear Ann'
#           scripts/broker.sh mosquitto stop
#
# RabbitMQ speaks AMQP 0-9-1, too, on port 5672, or PORT + 3789:
#           scripts/broker.sh rabbitmq start
#           cargo lab27 queue put 'wash up' 'sweep'
#
# It listens on 127.0.0.1 alone, takes everybody without a password, and keeps
# its data in a private folder. After stop nothing is left: no process, no file.
#
# Needs:    mosquitto, or rabbitmq-server (its MQTT plugin is part of it; it
#           takes about 10 seconds to start and 100 MB of memory). No root. A
#           broker that the system runs is another one and is not touched.
#
# How to read it
#   + ...         the command that runs the broker.
#   status        up or down; if up: process, port, folder. Exit status 1 if
#                 down.
#   kill -9 PROCESS and start again show what the broker has on disk: start
#   takes up the folder of a broker that was killed. mosquitto writes its data
#   when it ends and every 30 minutes, RabbitMQ at once.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

for arg; do
    case $arg in
    -h | --help) help ;;
    -*) usage "there is no option $arg" ;;
    esac
done
broker=${1-} todo=${2-} port=${3:-1883}
[[ $broker == mosquitto || $broker == rabbitmq ]] ||
    usage 'which broker: mosquitto or rabbitmq?'
[[ $todo == start || $todo == stop || $todo == status ]] ||
    usage 'do what: start, stop or status?'
(($# <= 3)) || usage 'three words at most'
[[ $# -lt 3 || $todo == start ]] || usage "$todo takes no port"
is_port "$port" || usage "'$port' is no port: 1 to 65535"

amqp=$((port + 5672 - 1883)) # each protocol's own port, or as far apart
if ((amqp > 65535)); then amqp=$((port - 3789)); fi
folder=${TMPDIR:-/tmp}/labkit-$broker-$(id -u)
PATH+=:/usr/sbin:/usr/local/sbin

# The broker's process -> `pid`; false if it does not run.
find_broker() {
    pid=''
    [[ -O $folder && -f $folder/pid ]] || return 1
    pid=$(<"$folder/pid")
    [[ $pid =~ ^[0-9]+$ && -O /proc/$pid ]] || return 1
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$folder"
}

# Whether something listens on the port.
listens() {
    local hex
    printf -v hex ':%04X' "$1"
    awk -v port="$hex" '$4 == "0A" && index($2, port) { found = 1 }
        END { exit !found }' /proc/net/tcp
}

# free_port PORT: the first one from there on that no socket has -> `free`
free_port() {
    local hex
    for ((free = $1; ; free++)); do
        printf -v hex ':%04X' "$free"
        if awk -v port="$hex" 'index($2, port) { found = 1 } END { exit found }' \
            < <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null); then return; fi
    done
}

# until_true SECONDS COMMAND...: looks again and again, false if in vain.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# Not by the file with its process id: RabbitMQ removes that before its end.
ended() { ! kill -0 "$process" 2>/dev/null; }

# In the background, with a session of its own: Ctrl-C here does not reach it.
background() {
    say "+ $*"
    setsid "$@" </dev/null >>"$folder/log" 2>&1 &
}

start_mosquitto() {
    local conf=$folder/mosquitto.conf
    {
        echo "listener $port 127.0.0.1"
        echo 'allow_anonymous true'
        echo 'persistence true'
        echo "persistence_location $folder/"
        echo "pid_file $folder/pid"
        if [[ $(id -u) == 0 ]]; then echo 'user root'; fi
    } >"$conf"
    background mosquitto -c "$conf"
}

start_rabbitmq() {
    local server=/usr/lib/rabbitmq/bin/rabbitmq-server
    [[ -x $server ]] || fail "there is no $server" 'sudo apt install rabbitmq-server'
    echo '[rabbitmq_mqtt].' >"$folder/plugins"
    {
        echo "listeners.tcp.1 = 127.0.0.1:$amqp"
        echo "mqtt.listeners.tcp.1 = 127.0.0.1:$port"
        echo 'mqtt.allow_anonymous = true'
    } >"$folder/rabbitmq.conf"
    # Erlang's own ports: on loopback, not those of another broker, and below
    # those that the kernel gives to clients.
    free_port $((20000 + port % 5000))
    export ERL_CRASH_DUMP_SECONDS=0 # no erl_crash.dump in the folder of whoever asks
    export ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=$free
    free_port $((26000 + port % 5000))
    export RABBITMQ_DIST_PORT=$free
    export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
    # One name for each folder: two nodes of one name do not start beside each other.
    local node
    node=labkit$(cksum <<<"$folder" | cut -d ' ' -f 1)
    export RABBITMQ_NODENAME=$node@localhost HOME=$folder
    export RABBITMQ_MNESIA_BASE=$folder/data RABBITMQ_LOG_BASE=$folder/logs
    export RABBITMQ_ENABLED_PLUGINS_FILE=$folder/plugins
    export RABBITMQ_CONFIG_FILE=$folder/rabbitmq RABBITMQ_PID_FILE=$folder/pid
    export RABBITMQ_CONF_ENV_FILE=$folder/none RABBITMQ_GENERATED_CONFIG_DIR=$folder/generated
    echo "$ERL_EPMD_PORT" >"$folder/epmd"
    background "$server"
}

start() {
    have "$broker" || have "$broker-server" || fail "$broker is not installed" \
        "sudo apt install ${broker/rabbitmq/rabbitmq-server}"
    if find_broker; then fail "it is up already: process $pid" "$0 $broker stop"; fi
    local one
    for one in "$port" $([[ $broker == mosquitto ]] || echo "$amqp"); do
        if listens "$one"; then
            fail "port $one is taken" "scripts/states.sh $one"
        fi
    done
    if [[ ! -d $folder ]]; then mkdir -m 700 -- "$folder"; fi
    [[ -O $folder && ! -L $folder ]] || fail "$folder belongs to somebody else"
    rm -f -- "$folder/pid" "$folder/log"
    "start_$broker"
    if ! until_true 90 listens "$port"; then
        tail -n 5 -- "$folder/log" >&2
        fail "it does not listen on port $port; its log is $folder/log" \
            "$0 $broker stop"
    fi
    if [[ $broker == rabbitmq ]]; then # it listens before it serves
        until_true 90 grep -qs 'completed with' "$folder/log" ||
            fail "it does not come up; its log is $folder/log"
        say "AMQP 0-9-1 is at 127.0.0.1:$amqp"
    fi
    until_true 10 find_broker || fail "it has left no process id in $folder/pid"
    say "$broker is up: process $pid, 127.0.0.1:$port, folder $folder"
}

stop() {
    local process
    if find_broker; then
        process=$pid
        kill -TERM "$process"
        until_true 30 ended || { kill -KILL "$process" && until_true 5 ended; } ||
            fail "process $process does not end"
        say "$broker has ended: process $process"
    elif [[ ! -d $folder ]]; then
        say "$broker was not up"
        return
    fi
    if [[ -f $folder/epmd ]]; then # Erlang's name server stays otherwise
        ERL_EPMD_PORT=$(<"$folder/epmd") epmd -kill >/dev/null 2>&1 || true
    fi
    [[ -O $folder && ! -L $folder ]] || fail "$folder belongs to somebody else"
    rm -rf -- "$folder"
}

status() {
    if find_broker; then
        say "$broker is up: process $pid, folder $folder"
    else
        say "$broker is down"
        exit 1
    fi
}

"$todo"
