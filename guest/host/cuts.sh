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
    # A source is opened for reading only, which finishes nothing.
    sound "as it lies" "$1" "$block" "$blocks" "$writers"
    after "it is recovered by who opens it to write" recover "$1"
    after "nothing is unfinished" finished "$1"
    sound "recovered" "$1" "$block" "$blocks" "$writers"
}

# Reads a BTT, and looks at every sector of it.
sound() { # when image block blocks writers
    rm -f "$folder/contents"
    after "$1, it is read" "$pageless" copy "btt:$2" "file:$folder/contents"
    after "$1, every sector is whole, its own, and as new as acknowledged" stamps_check "$folder/contents" "${@:3}"
}

# Serves it for a moment, in which no client comes.
recover() { # image
    (cd "$folder" && timeout --preserve-status -s TERM 2 "$pageless" serve "btt:$1" --nbd unix:recover) && grep -q '^ready' "$folder/said"
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
