#!/usr/bin/env bash
# votes.sh - which beliefs does this course hold?
#
# Usage:    scripts/votes.sh FILE...
#
# Reads what `lab00-scope vote --save FILE` wrote for a class, and what
# `demo --predict --record FILE` wrote for one student at home. 120 files handed
# in become one table: the question that was answered wrong most often first,
# and below it the wrong answers that were given.
#
# Options:  --least N    leaves out questions with fewer than N answers
#           --all        also the questions that nobody answered wrong
#
# Needs:    awk. No root.
#
# How to read it
#   wrong     of those who answered, so many were wrong: in the first vote, and
#             at home in the first prediction.
#   after     so many were still wrong in the last vote, after the discussion;
#             `-` where there was only one.
#   answers   how many answered, over all files.
#   Below it: how many gave which wrong answer, `>` once more after the
#   discussion, and what is right.
#   In one file, only the first prediction of an experiment counts: whoever plays
#   it again knows the answer. Votes on which the kernel did not decide are left
#   out. Lines that are neither are counted at the end, and the exit status is 1.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

files=() least=1 all=no
while (($#)); do
    case $1 in
    -h | --help) help ;;
    --all) all=yes ;;
    --least)
        [[ ${2-} =~ ^[1-9][0-9]{0,5}$ ]] || usage "--least ${2-}: 1 or more"
        least=$2
        shift
        ;;
    --)
        shift
        files+=("$@")
        break
        ;;
    -*) usage "there is no option $1" ;;
    *) files+=("$1") ;;
    esac
    shift
done
((${#files[@]} > 0)) || usage 'which files?'
paths=()
for file in "${files[@]}"; do
    [[ -f $file && -r $file ]] || fail "$file cannot be read"
    [[ $file == /* ]] || file=./$file # awk takes a=b for an assignment
    paths+=("$file")
done

# Handed-in files are strangers' texts: whatever is not plain ASCII is shown as ?.
LC_ALL=C awk -v least="$least" -v all="$all" '
    # The fields of a line of CSV -> field[1..]; how many, or 0 if it is broken.
    function csv(line,  count, text) {
        count = 0
        while (1) {
            if (substr(line, 1, 1) == "\"") {
                text = ""
                while (1) {
                    line = substr(line, 2)
                    if (!match(line, /"/)) return 0
                    text = text substr(line, 1, RSTART - 1)
                    line = substr(line, RSTART + 1)
                    if (substr(line, 1, 1) != "\"") break
                    text = text "\""
                }
            } else {
                match(line, /^[^,"]*/)
                text = substr(line, 1, RLENGTH)
                line = substr(line, RLENGTH + 1)
            }
            field[++count] = text
            if (line == "") return count
            if (substr(line, 1, 1) != ",") return 0
            line = substr(line, 2)
        }
    }
    # The text behind "NAME": in a line of JSON -> value; 0 if it is no text.
    function json(line, name,  at, text, mark) {
        at = index(line, "\"" name "\": ")
        if (!at) return 0
        text = substr(line, at + length(name) + 4)
        if (substr(text, 1, 1) != "\"") return 0
        value = ""
        text = substr(text, 2)
        while (match(text, /["\\]/)) {
            mark = substr(text, RSTART, 1)
            value = value substr(text, 1, RSTART - 1)
            if (mark == "\"") return 1
            value = value substr(text, RSTART + 1, 1)
            text = substr(text, RSTART + 2)
        }
        return 0
    }
    function is_named(lab, experiment) {
        return lab ~ /^lab[0-9][0-9]-[a-z0-9-]+$/ && experiment ~ /^[a-z0-9-]+$/
    }
    function add(key, round, answer, votes, is_right) {
        if (!(key in known)) keys[++questions] = key
        known[key] = 1
        given[key, round] += votes
        if (is_right) { right[key] = answer; return }
        wrong[key, round] += votes
        if (!((key, answer) in belief)) {
            belief[key, answer] = ++beliefs[key]
            believed[key, beliefs[key]] = answer
        }
        believers[key, belief[key, answer], round] += votes
    }
    FNR == 1 { first++ }
    { gsub(/[^ -~]/, "?"); sub(/\?$/, "") } # and the CR of another system
    /^ *$/ || /^lab,experiment,question,letter,answer,round,votes,right$/ { next }
    /^\{"lab": / {
        if (!json($0, "lab")) { odd++; next }
        lab = value
        if (!json($0, "experiment")) { odd++; next }
        experiment = value
        if (!is_named(lab, experiment)) { odd++; next }
        if (/"given": null/ || /"seen": null/) next # nothing predicted, or not decided
        if (!json($0, "given")) { odd++; next }
        answer = value
        if (!json($0, "seen")) { odd++; next }
        seen = value
        if (!json($0, "verdict")) { odd++; next }
        if (value !~ /^(CONFIRMED|CORRECTED|ANSWERED)$/) next
        key = lab " " experiment
        if (once[first, key]++) next
        add(key, 1, answer, 1, answer == seen)
        add(key, 1, seen, 0, 1)
        next
    }
    {
        if (csv($0) != 8 || !is_named(field[1], field[2]) || field[6] !~ /^[1-9]$/ ||
            field[7] !~ /^[0-9]+$/ || length(field[7]) > 6 || field[8] !~ /^(yes|no|)$/) {
            odd++
            next
        }
        if (field[8] == "") next
        key = field[1] " " field[2]
        # Rounds after the first: the last one of a file counts. They come in order.
        round = field[6] == 1 ? 1 : 2
        if (round == 2) {
            place = first SUBSEP key SUBSEP field[5]
            # The same round once more is another class.
            if (place in later && field[6] > last_round[place])
                add(key, 2, field[5], -later[place], field[8] == "yes")
            later[place] = field[7]
            last_round[place] = field[6]
        }
        add(key, round, field[5], field[7], field[8] == "yes")
    }
    function share(part, whole) { return whole ? sprintf("%3d %%", 100 * part / whole + 0.5) : "-" }
    function more(a, b) {
        return wrong[a, 1] * given[b, 1] > wrong[b, 1] * given[a, 1] ||
            (wrong[a, 1] * given[b, 1] == wrong[b, 1] * given[a, 1] && given[a, 1] > given[b, 1])
    }
    END {
        for (at = 2; at <= questions; at++) {
            key = keys[at]
            for (to = at; to > 1 && more(key, keys[to - 1]); to--) keys[to] = keys[to - 1]
            keys[to] = key
        }
        for (at = 1; at <= questions; at++) {
            key = keys[at]
            if (given[key, 1] < least || (all != "yes" && !wrong[key, 1] && !wrong[key, 2])) continue
            if (!shown++) print "wrong  after  answers  experiment"
            printf "%5s  %5s  %7d  %s\n", share(wrong[key, 1], given[key, 1]),
                share(wrong[key, 2], given[key, 2]), given[key, 1], key
            for (turn = 1; turn <= beliefs[key]; turn++) {
                best = 0
                for (one = 1; one <= beliefs[key]; one++)
                    if (!((key, one) in told) && (!best || believers[key, one, 1] > believers[key, best, 1]))
                        best = one
                told[key, best] = 1
                votes = believers[key, best, 1]
                after = believers[key, best, 2] + 0
                if (votes || after)
                    printf "%21d%-7s  %s\n", votes, given[key, 2] ? " > " after : "", believed[key, best]
            }
            printf "                right         %s\n", right[key]
        }
        if (!shown) print "no wrong answers in these files (--all shows every question)"
        if (odd) {
            printf "%d lines are neither votes nor predictions\n", odd >"/dev/stderr"
            exit 1
        }
    }' "${paths[@]}"
