# SPDX-License-Identifier: MIT OR Apache-2.0
# For the scripts of guest/after: looks at a BTT that was written by `stamps` when the power went.

# What was acknowledged in this round, as `stamps check` wants it, goes to the history of all rounds.
note_acknowledged() {
    awk '$1 == "disk" {first = $5} $1 == "acked" && $3 ~ /^[0-9]+$/ {last[$2] = $3} END {for (w in last) print w, first, last[w]}' \
        "$folder/told" >>"$folder/history"
}

btt_after_cut() { # image
    local block blocks writers
    read -r _ block blocks writers _ < <(grep '^disk ' "$folder/told")
    note_acknowledged
    after "check what the cut left" "$pageless" btt check "$1"
    rm -f "$folder/contents"
    after "recover it and read it" "$pageless" copy "btt:$1" "file:$folder/contents"
    after "every sector is whole, its own, and as new as acknowledged" \
        stamps_check "$folder/contents" "$block" "$blocks" "$writers"
    after "nothing is unfinished" finished "$1"
}

stamps_check() { # contents block blocks writers
    "$work/programs/stamps" check "$@" <"$folder/history"
}

# Passes when a check finds nothing at all.
finished() { # image
    local text
    text=$("$pageless" btt check "$1") || return 1
    ! grep -q unfinished <<<"$text"
}
