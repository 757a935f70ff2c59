#!/usr/bin/env bash
# verify-lecture.sh - does every claim of the lecture end on this machine as
# the kit says it does?
#
# Usage:    scripts/verify-lecture.sh [LAB...]             builds, then plays
#           scripts/verify-lecture.sh [LAB...] --bin DIR   programs in DIR, no
#                                                          build
#
# Plays the demo of every lab (each folder labs/lab*), or of those named (7, 07
# or lab07-multiclient), at most 120 s each, and counts the verdicts.
#
# Needs:    cargo, unless --bin is given, and timeout (package coreutils).
#           No root.
#
# How to read it
#   CONFIRMED   the lecture and the kit foresaw what the kernel did
#   CORRECTED   only the kit did: the lecture errs
#   ANSWERED    a question, answered as the kit foresaw
#   SKIPPED     something the experiment needs is missing here; listed below
#               the table with what would provide it
#   UNEXPECTED  the kernel did what nobody foresaw; printed in full
#   Exit status 1 for any UNEXPECTED, for a demo that fails, gives no verdict
#   or takes too long; with CI=true in the environment for any SKIPPED, too.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

limit=120 # seconds for one demo
bin='' labs=()
while (($#)); do
    case $1 in
    -h | --help) help ;;
    --bin)
        take_bin "${2-}"
        shift
        ;;
    -*) usage "there is no option $1" ;;
    *)
        find_lab "$1"
        labs+=("$lab")
        ;;
    esac
    shift
done

build='cargo build -q --workspace --bins'
if ((${#labs[@]} > 0)); then
    build="cargo build -q$(printf ' --bin %s' "${labs[@]}")"
else
    for folder in "$kit_root"/labs/lab*/; do
        if [[ -d $folder ]]; then labs+=("$(basename -- "$folder")"); fi
    done
fi
((${#labs[@]} > 0)) || fail "there is no lab in $kit_root/labs"

if [[ -z $bin ]]; then
    have cargo || fail 'cargo is not installed' 'scripts/check.sh'
    say "+ $build"
    (cd -- "$kit_root" && eval "$build") || fail 'the labs do not build'
    find_bin
fi

logs=$(mktemp -d "${TMPDIR:-/tmp}/verify-lecture.XXXXXX")
demo=''
cleanup() {
    if [[ -n $demo ]]; then kill "$demo" 2>/dev/null || true; fi
    rm -rf -- "$logs"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# play LAB: runs its demo into a file -> `status` and `hundredths` of a second
play() {
    local started=${EPOCHREALTIME/[.,]/}
    # A job of its own: Ctrl-C comes to us, and we end it; job control (-m)
    # keeps bash from having it ignore SIGINT.
    set -m
    timeout -k 5 "$limit" "$bin/$1" >"$logs/$1" 2>&1 </dev/null &
    demo=$!
    set +m
    status=0
    { wait "$demo"; } 2>/dev/null || status=$? # bash tells of a kill
    demo=''
    hundredths=$(((${EPOCHREALTIME/[.,]/} - started) / 10000))
}

verdicts() { # LAB WORD -> prints how many
    grep -c "^verdict   $2\( \|\$\)" "$logs/$1" || true
}

# blocks LAB WORD: the experiments that ended so, an empty line between them;
# of a SKIPPED one its title and its reason only.
blocks() {
    awk -v word="$2" '
        function over() {
            if (ended) {
                printf "%s%s", between, text
                between = "\n"
            }
            ended = 0
            text = ""
        }
        /^$/ { over(); next }
        /^[0-9]+ [* ] / { text = "  " $0 "\n"; next }
        $1 == "verdict" && $2 == word { ended = 1 }
        ended || word != "SKIPPED" { text = text "  " $0 "\n" }
        END { over() }
    ' "$logs/$1"
}

words=(CONFIRMED CORRECTED ANSWERED SKIPPED UNEXPECTED)
table_row() { # LAB COUNTS... HUNDREDTHS-OF-A-SECOND
    local line
    printf -v line '%-22s %9s %9s %8s %7s %10s %4d.%02d' "${@:1:6}" \
        "$(($7 / 100))" "$(($7 % 100))"
    say "$line"
}

printf -v line '%-22s %s %s %s %s %s seconds' lab "${words[@]}"
say "$line"
total=(0 0 0 0 0)
all_hundredths=0 problems=() skipped=() unexpected=()
for lab in "${labs[@]}"; do
    counts=(- - - - -) hundredths=0
    if [[ ! -x $bin/$lab ]]; then
        problems+=("$lab: there is no $bin/$lab")
    else
        play "$lab"
        sum=0
        for at in "${!words[@]}"; do
            counts[at]=$(verdicts "$lab" "${words[at]}")
            sum=$((sum + counts[at]))
            total[at]=$((total[at] + counts[at]))
        done
        all_hundredths=$((all_hundredths + hundredths))
        if ((counts[3] > 0)); then skipped+=("$lab"); fi
        if ((counts[4] > 0)); then unexpected+=("$lab"); fi
        problem=''
        if ((status == 124 || status == 137)); then
            problem="was not over after $limit s"
        elif ((status != 0 && counts[4] == 0)); then
            problem="ended with status $status"
        elif ((sum == 0)); then
            problem='gave no verdict'
        fi
        if [[ -n $problem ]]; then
            problems+=("$lab: the demo $problem; its last lines:"
                "$(tail -n 12 "$logs/$lab" | sed 's/^/    /')")
        fi
    fi
    table_row "$lab" "${counts[@]}" "$hundredths"
done
table_row total "${total[@]}" "$all_hundredths"

failed=no
for lab in "${skipped[@]}"; do
    say ''
    say "$lab, SKIPPED here:"
    say "$(blocks "$lab" SKIPPED)"
done
for lab in "${unexpected[@]}"; do
    failed=yes
    say ''
    say "$lab, UNEXPECTED:"
    say "$(blocks "$lab" UNEXPECTED)"
done
if ((${#problems[@]} > 0)); then
    failed=yes
    say ''
    say "$(printf '%s\n' "${problems[@]}")"
fi
say ''
if ((${#skipped[@]} > 0)) && [[ ${CI-} == true ]]; then
    failed=yes
    say 'CI=true: nothing may be skipped, so SKIPPED is a failure.'
fi
if [[ $failed == yes ]]; then
    say 'Not everything went as the kit says.'
    exit 1
fi
say 'Everything played went as the kit says.'
