#!/usr/bin/env bash
# check.sh - what does this machine have, and which experiments will it skip?
#
# Usage:    scripts/check.sh [LAB] [--bin DIR]
#
# LAB (7, 07 or lab07-multiclient) asks for that lab only. --bin DIR takes the
# labs' programs from DIR; otherwise from cargo's target folder, if built.
#
# Needs:    nothing but bash and coreutils. No root. It changes nothing.
#
# How to read it
#   ok         is here
#   missing    is not; the package that brings it follows. Only what stands
#              under "required" must be here (exit status 1 without it).
#   taken      another program has a port of the lecture. The demos do not mind;
#              the programs of the sheets do.
#   The settings are the kernel's, read from /proc/sys; some experiments ask for
#   them. The last part lists what the labs themselves say they will skip.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

name='' bin=''
while (($#)); do
    case $1 in
    -h | --help) help ;;
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
labs=()
if [[ -n $name ]]; then
    find_lab "$name"
    labs=("$lab")
else
    for folder in "$kit_root"/labs/lab*/; do
        if [[ -d $folder ]]; then labs+=("$(basename -- "$folder")"); fi
    done
fi

lacking=0
tell() { # NAME STATE TEXT
    printf -v line '  %-14s %-8s %s' "$@"
    say "${line%"${line##*[! ]}"}"
}

# at_least HAVE WANTED: compares two versions by their first two numbers.
at_least() {
    local IFS='.-' this least
    read -ra this <<<"$1"
    read -ra least <<<"$2"
    ((this[0] > least[0] ||
        (this[0] == least[0] && ${this[1]:-0} >= ${least[1]:-0})))
}

say required
kernel=$(uname -r)
if [[ $(uname -s) == Linux ]] && at_least "$kernel" 5.10; then
    tell kernel ok "Linux $kernel (5.10 or newer)"
else
    lacking=$((lacking + 1))
    tell kernel 'too old' "$(uname -s) $kernel; the kit needs Linux 5.10"
fi
wanted=$(sed -n 's/^rust-version *= *"\(.*\)".*/\1/p' "$kit_root/Cargo.toml" \
    2>/dev/null) || true
if ! have cargo; then
    lacking=$((lacking + 1))
    tell cargo missing 'https://rustup.rs: builds the labs'
else
    version=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || version=''
    if [[ -z $version ]]; then
        lacking=$((lacking + 1))
        tell cargo broken 'it does not say its version: rustup default stable'
    elif [[ -n $wanted ]] && ! at_least "$version" "$wanted"; then
        lacking=$((lacking + 1))
        tell cargo 'too old' "$version, the kit needs $wanted: rustup update"
    else
        tell cargo ok "$version"
    fi
fi
if have cc; then
    tell cc ok 'links what cargo builds'
else
    lacking=$((lacking + 1))
    tell cc missing 'package build-essential: links what cargo builds'
fi
if grep -qsw 127.0.0.1 /proc/net/fib_trie; then
    { read -r mtu </sys/class/net/lo/mtu; } 2>/dev/null || mtu='?'
    tell loopback ok "127.0.0.1 is there, lo is up, its MTU $mtu"
else
    lacking=$((lacking + 1))
    tell loopback missing 'every lab needs it: sudo ip link set lo up'
    tell '' '' 'and if it has no address: sudo ip addr add 127.0.0.1/8 dev lo'
fi

say 'optional'
while read -r tool package purpose; do
    if have "$tool"; then
        tell "$tool" ok "$purpose"
    else
        tell "$tool" missing "package $package: $purpose"
    fi
done <<'END'
ss          iproute2            shows sockets, all there is to know
netstat     net-tools           shows sockets, the older way
ip          iproute2            makes the private networks of some experiments
nc          netcat-openbsd      a foreign client or server; the sheets use it
ncat        ncat                the same, with more options
socat       socat               the same, with every socket option
python3     python3             runs the lecture's own programs
strace      strace              shows system calls, checks what labs print
tmux        tmux                scripts/classroom.sh
iperf3      iperf3              cargo bench of lab04 and lab08
watch       procps              shows threads, with ps: classroom.sh 18
shellcheck  shellcheck          checks these scripts
END
if ! have unshare; then
    tell namespaces missing 'package util-linux brings unshare'
elif reason=$(unshare -Urn true 2>&1); then
    who='without root'
    if ((EUID == 0)); then who='(tried as root)'; fi
    tell namespaces ok "unshare -Urn true: private networks $who"
else
    tell namespaces missing 'no private networks without root:'
    tell '' '' "$reason"
    for key in kernel/apparmor_restrict_unprivileged_userns \
        kernel/unprivileged_userns_clone user/max_user_namespaces; do
        if read -r value 2>/dev/null <"/proc/sys/$key"; then
            tell '' '' "${key//\//.} = $value"
        fi
    done
fi

say 'this machine'
if [[ $kernel == *[Mm]icrosoft* ]]; then
    if mode=$(wslinfo --networking-mode 2>/dev/null); then
        mode=${mode//$'\r'/}
    else
        mode='not known, wslinfo is missing: wsl.exe --update'
    fi
    tell WSL yes "networking mode: $mode"
    if [[ $mode == mirrored ]]; then
        tell '' '' 'a port that a Windows program has taken is taken here'
    fi
else
    tell WSL no ''
fi
measure
if ((width == 0)); then
    tell terminal none 'the output goes to a pipe or a file'
elif ((width >= 100 && lines >= 30)); then
    tell terminal ok "${width}x$lines: enough for scripts/classroom.sh"
elif ((width >= 60 && lines >= 24)); then
    tell terminal small "${width}x$lines: scripts/classroom.sh needs 100x30"
else
    tell terminal small "${width}x$lines: a demo with --pause needs 60x24"
fi

# The ports that the sheets and the handout use, and who has them.
ports=(4444 5050 7777 7778 7779 8080 53124)
printf -v words '|%s' "${ports[@]}"
printf -v hexadecimal '|%04X' "${ports[@]}" # as /proc writes them
words=${words#|}$hexadecimal
find_source
all_command
taken=''
while IFS=$'\t' read -r proto state _ _ local_addr _ _ process _; do
    if [[ " ${ports[*]} " == *" ${local_addr##*:} "* ]] &&
        [[ $state == LISTEN || $proto == udp ]]; then
        taken+="$proto $local_addr, process $process"$'\n'
    fi
done < <(rows_with "$words")
if [[ -z $taken ]]; then
    tell ports ok '4444, 5050, 7777 to 7779, 8080, 53124 are free'
else
    while read -r line; do tell ports taken "$line"; done <<<"${taken%$'\n'}"
fi
tell user '' "$(id -un 2>/dev/null || id -u)"
tell 'open files' '' "$(ulimit -n) at most for one process (ulimit -n)"
for key in net/ipv4/ip_local_port_range net/ipv4/ip_local_reserved_ports \
    net/ipv4/ip_unprivileged_port_start net/ipv4/tcp_rmem net/ipv4/tcp_wmem \
    net/core/rmem_default net/core/rmem_max net/core/optmem_max \
    net/core/somaxconn net/ipv4/tcp_syncookies net/ipv4/tcp_max_tw_buckets \
    net/ipv4/tcp_tw_reuse net/ipv4/tcp_fin_timeout net/ipv4/tcp_fastopen \
    net/ipv4/igmp_max_memberships net/ipv6/conf/all/disable_ipv6 \
    kernel/yama/ptrace_scope; do
    if read -r value 2>/dev/null <"/proc/sys/$key"; then
        value=${value//$'\t'/ }
        value=${value:-(empty)}
    else
        value='(not here)'
    fi
    printf -v line '  %-39s %s' "${key//\//.}" "$value"
    say "$line"
done

# skipped LIST: of the output of demo --list what is missing here, each
# experiment with its title. A long line goes on in the next one.
skipped() {
    awk '
        function over() {
            if (need ~ /missing here/) {
                if (title != "") print "    " title
                title = ""
                count = split(need, words, " ")
                line = "       "
                for (at = 1; at <= count; at++) {
                    if (length(line " " words[at]) > 79) {
                        print line
                        line = "       "
                    }
                    line = line " " words[at]
                }
                print line
            }
            need = ""
        }
        /^[0-9]+ [* ] / { over(); title = $0; next }
        /^all need / { over(); title = ""; need = $0; next }
        /^    needs / { over(); need = substr($0, 5); next }
        need != "" { sub(/^ +/, ""); need = need " " $0 }
        END { over() }
    ' <<<"$1"
}

say 'experiments that will be skipped here'
find_bin
built=() unbuilt=()
for lab in "${labs[@]}"; do
    if [[ -x $bin/$lab ]]; then built+=("$lab"); else unbuilt+=("$lab"); fi
done
for lab in "${built[@]}"; do
    if ! list=$(timeout 20 "$bin/$lab" demo --list 2>&1 </dev/null); then
        say "  $lab: this failed: $bin/$lab demo --list"
        continue
    fi
    list=$(skipped "$list")
    if [[ -z $list ]]; then
        say "  $lab: no experiment is skipped here"
    else
        say "  $lab:"
        say "$list"
    fi
done
if ((${#unbuilt[@]} > 0)); then
    if ((${#built[@]} > 0)); then
        say "  not built, so not asked: ${unbuilt[*]}"
    else
        say '  nothing is built yet, so no lab was asked'
    fi
    say '  build first: cargo build --workspace'
fi

if ((lacking > 0)); then
    say "$lacking of the required is missing"
    exit 1
fi
say 'all that is required is here'
