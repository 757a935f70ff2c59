#!/usr/bin/env bash
# lecture.sh - which experiments make up this lecture, and how far are we?
#
# Usage:    scripts/lecture.sh PART...              plays the parts in a row
#           scripts/lecture.sh PART... --list       what it would play, how long
#           scripts/lecture.sh 06/1,3 08/2 09/1,3   an example
#
# A PART is a lab, and after a slash its experiments by number or name: 06/1,3
# or 06/backlog; 06 alone is all of lab06. Each part is one `demo --pause`.
# Between the parts it says what has been played, and one score for all.
#
# Options:  --predict       asks for your prediction first and counts it
#           --seed N        deals the answers anew
#           --from N        begins with experiment N of the list; --list, too
#           --record FILE   keeps predictions and verdicts, a line of JSON each.
#                           With --from, what FILE holds of the experiments
#                           before N counts.
#           --bin DIR       takes the programs from DIR and builds nothing
#
# Needs:    cargo, unless --bin is given. No root. --predict needs a terminal.
#
# How to read it
#   so far     how many experiments of the list are over, and their minutes. The
#              minutes are those a class needs, discussion included.
#   verdicts   as in verify-lecture.sh. `not played` was left out by a key; `not
#              played here` comes before --from N, and FILE does not hold it.
#   you        how many predictions held.
#   Quit with q, twice, or with Ctrl-C, whenever you want: the command that goes
#   on at the same place is the last line. Exit status 130 after Ctrl-C, else 1
#   for any UNEXPECTED.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# As it is typed in a shell.
quoted() {
    if [[ $1 =~ ^[A-Za-z0-9_./:,+@%-]+$ ]]; then
        printf '%s' "$1"
    else
        printf '%s' "${1@Q}"
    fi
}

parts=() options=() bin='' own_bin='' record='' from=1 only_list=no
while (($#)); do
    case $1 in
    -h | --help) help ;;
    --list) only_list=yes ;;
    --predict) options+=(--predict) ;;
    --seed)
        [[ ${2-} =~ ^[0-9]+$ ]] || usage "--seed ${2-}: that is no number"
        options+=(--seed "$2")
        shift
        ;;
    --from)
        [[ ${2-} =~ ^[1-9][0-9]{0,3}$ ]] || usage "--from ${2-}: 1 or more"
        from=$2
        shift
        ;;
    --record)
        [[ -n ${2-} ]] || usage '--record: which file?'
        record=$2
        shift
        ;;
    --bin)
        take_bin "${2-}"
        own_bin=$bin
        shift
        ;;
    -*) usage "there is no option $1" ;;
    *) parts+=("$1") ;;
    esac
    shift
done
((${#parts[@]} > 0)) || usage 'which experiments? For example 06/1,3 08/2'

part_labs=()
for part in "${parts[@]}"; do
    [[ $part =~ ^[^/]+(/[a-z0-9,-]+)?$ ]] || usage "'$part' is not like 06/1,3"
    find_lab "${part%%/*}"
    part_labs+=("$lab")
done
if [[ -z $bin ]]; then
    have cargo || fail 'cargo is not installed' 'scripts/check.sh'
    build='cargo build -q'
    for lab in $(printf '%s\n' "${part_labs[@]}" | sort -u); do
        build+=" --bin $lab"
    done
    say "+ $build"
    (cd -- "$kit_root" && eval "$build") || fail 'the labs do not build'
    find_bin
fi

# Each experiment of the list -> part, lab, number, name, minutes
part_of=() labs=() numbers=() names=() minutes=()
for at in "${!parts[@]}"; do
    lab=${part_labs[at]}
    [[ -x $bin/$lab ]] || fail "there is no $bin/$lab" "cargo build --bin $lab"
    wanted=()
    if [[ ${parts[at]} == */* ]]; then
        IFS=, read -ra wanted <<<"${parts[at]#*/}"
    fi
    list=$("$bin/$lab" demo --list "${wanted[@]}" </dev/null) || exit 2
    while read -r line; do
        if [[ $line =~ ^([0-9]+)\ [*\ ]\ ([a-z0-9-]+)\ +([0-9]+)\ min ]]; then
            part_of+=("$at") labs+=("$lab")
            numbers+=("${BASH_REMATCH[1]}") names+=("${BASH_REMATCH[2]}")
            minutes+=("${BASH_REMATCH[3]}")
        fi
    done <<<"$list"
done
count=${#labs[@]}
((count > 0)) || fail 'these labs list no experiment'
((from <= count)) || usage "--from $from: the list has $count experiments"

total=0 sum=0
for ((at = 0; at < count; at++)); do
    total=$((total + minutes[at]))
    if ((at >= from - 1)); then sum=$((sum + minutes[at])); fi
done
if ((from > 1)); then
    say "$((count - from + 1)) of $count experiments, $sum of $total minutes"
else
    say "$count experiments, $total minutes"
fi
sum=0
for ((at = from - 1; at < count; at++)); do
    printf -v line '%3d  %-18s %2d  %-18s %3d min, begins after %3d' \
        $((at + 1)) "${labs[at]}" "${numbers[at]}" "${names[at]}" \
        "${minutes[at]}" "$sum"
    say "$line"
    sum=$((sum + minutes[at]))
done
if [[ $only_list == yes ]]; then exit 0; fi

kept=$record
if [[ -z $record ]]; then
    record=$(mktemp "${TMPDIR:-/tmp}/lecture.XXXXXX")
fi
{ [[ ! -d $record ]] && touch -- "$record"; } 2>/dev/null ||
    fail "$record cannot be written"

# A line of the record -> `verdict`, `foreseen` (yes, no, or nothing predicted)
pattern='"given": (.*), "seen": (.*), "verdict": "([A-Za-z ]+)", "kernel"'
read_line() {
    [[ $1 =~ $pattern ]] || return 1
    verdict=${BASH_REMATCH[3]} foreseen=''
    if [[ ${BASH_REMATCH[1]} != null ]]; then
        foreseen=no
        if [[ ${BASH_REMATCH[1]} == "${BASH_REMATCH[2]}" ]]; then
            foreseen=yes
        fi
    fi
}

verdicts=() predictions=()
if ((from > 1)); then
    for ((at = 0; at < from - 1; at++)); do
        line=$(grep -F "\"lab\": \"${labs[at]}\", \"experiment\": \"${names[at]}\"," \
            "$record" | tail -n 1) || true
        if read_line "$line"; then
            verdicts[at]=$verdict predictions[at]=$foreseen
        fi
    done
fi

score() {
    local done=0 spent=0 held=0 guessed=0 elsewhere=0 word line='' number
    for ((at = 0; at < next; at++)); do
        if [[ -z ${verdicts[at]-} ]]; then
            elsewhere=$((elsewhere + 1))
            continue
        fi
        done=$((done + 1)) spent=$((spent + minutes[at]))
        case ${predictions[at]-} in
        yes) held=$((held + 1)) guessed=$((guessed + 1)) ;;
        no) guessed=$((guessed + 1)) ;;
        esac
    done
    say ''
    say "so far    $done of $count experiments, $spent of $total minutes"
    for word in CONFIRMED CORRECTED ANSWERED SKIPPED UNEXPECTED 'not played'; do
        number=$(printf '%s\n' "${verdicts[@]}" | grep -cx "$word") || true
        if ((number > 0)); then line+=", $number $word"; fi
    done
    if ((elsewhere > 0)); then line+=", $elsewhere not played here"; fi
    if [[ -n $line ]]; then say "verdicts  ${line#, }"; fi
    if ((guessed > 0)); then say "you       foresaw $held of $guessed"; fi
}

any_unexpected() { [[ " ${verdicts[*]} " == *' UNEXPECTED '* ]]; }

# Ends early: says what goes on here.
leave() { # STATUS
    local IFS=' ' line status=$1 # a signal may have come within `IFS= read`
    line="scripts/lecture.sh ${parts[*]}"
    if ((${#options[@]} > 0)); then line+=" ${options[*]}"; fi
    if [[ -n $own_bin ]]; then line+=" --bin $(quoted "$own_bin")"; fi
    line+=" --from $((next + 1))"
    if [[ -n $kept || -s $record ]]; then
        line+=" --record $(quoted "$record")"
    else
        rm -f -- "$record"
    fi
    if ((status == 0)) && any_unexpected; then status=1; fi
    say ''
    if ((next < count)); then
        say "go on:    $line"
    else
        say 'that was the lecture'
    fi
    exit "$status"
}

playing=no
interrupted() {
    local IFS=' '
    if [[ $playing == no ]]; then
        score
        leave 130
    fi
}
trap interrupted INT TERM

# What is pressed, or typed where there is no terminal -> `key`
ask() {
    local rest=''
    key=''
    printf '%10s%s ' '' "$1"
    if [[ -t 0 ]]; then
        IFS= read -rsn 1 key || key=q
        if [[ $key == $'\e' ]]; then
            read -rsn 3 -t 0.05 rest || true
            key+=$rest
        fi
    else
        IFS= read -r key || key=q
    fi
    say ''
    case ${key,,} in
    '' | ' ' | $'\e[C' | $'\e[6~') key='' ;;
    r | $'\e[d' | $'\e[5~') key=r ;;
    *) key=${key,,} ;;
    esac
}

next=$((from - 1)) # the experiment that comes next, from 0 on
first=$next        # the one the last part began with
while :; do
    if ((next >= count)); then break; fi
    while :; do
        if ((next == first)); then
            ask "[Enter] begin   (q quit)"
        else
            ask "[Enter] go on   (r the last part again, q quit)"
        fi
        case $key in
        q) leave 0 ;;
        r)
            next=$first
            break
            ;;
        '') break ;;
        esac
    done

    first=$next lab=${labs[next]} asked=()
    for ((at = next; at < count && part_of[at] == part_of[next]; at++)); do
        asked+=("${numbers[at]}")
        unset 'verdicts[at]' 'predictions[at]'
    done
    before=$(wc -l <"$record")
    status=0
    playing=yes
    "$bin/$lab" demo --pause --record "$record" "${options[@]}" "${asked[@]}" ||
        status=$?
    playing=no
    unexpected=no
    while read -r line; do # of each that is over; quit at a question, it is not
        read_line "$line" || continue
        if [[ $verdict == UNEXPECTED ]]; then unexpected=yes; fi
        if ((next > first)) && [[ $line == *"\"experiment\": \"${names[next - 1]}\","* ]]; then
            # Played again: the first time counts, unless it goes wrong now.
            if [[ $verdict == UNEXPECTED ]]; then verdicts[next - 1]=$verdict; fi
            continue
        fi
        verdicts[next]=$verdict predictions[next]=$foreseen
        next=$((next + 1))
    done < <(tail -n "+$((before + 1))" "$record")
    score
    if ((status == 130 || status == 143)); then leave $status; fi
    if ((status != 0)) && [[ $unexpected == no ]]; then
        say "the demo of $lab ended with status $status"
        leave $status
    fi
    if ((next < count)); then
        say "next      $((next + 1)): ${labs[next]} ${numbers[next]}," \
            "${names[next]}, ${minutes[next]} minutes"
    fi
done

say 'that was the lecture'
if [[ -z $kept ]]; then rm -f -- "$record"; fi
if any_unexpected; then exit 1; fi
