# SPDX-License-Identifier: MIT OR Apache-2.0
# Replays what was recorded to the states that power failures may have left, and has our check and our device look at each.
read -r _ offset size < <(grep '^data ' "$folder/told")
read -r _ block blocks writers first < <(grep '^disk ' "$folder/told")
states=${PAGELESS_STATES:-60}

cat >"$folder/look" <<END
set -e
"$pageless" btt check "$folder/state"
cp --sparse=always "$folder/state" "$folder/recovered"
rm -f "$folder/contents"
"$pageless" copy "btt:$folder/recovered" "file:$folder/contents"
"$work/programs/stamps" order "$folder/contents" $block $blocks $writers $first
END

replay() { # states [forget from to]
    python3 "$guest/host/replay.py" "$folder/stores.log" "$folder/state" "$offset" "$size" "$first" "$1" "${RANDOM}" "${@:2}" -- \
        bash "$folder/look"
}

# The control: a replay of the same stores where the write-backs of one part count for nothing must be refused.
without() { # from to
    ! replay 12 $((offset + $1)) $((offset + $2)) && grep -q ' [1-9][0-9]* refused' "$folder/said"
}

after "every state is consistent, every sector whole and as new as acknowledged" replay "$states"
field() { "$pageless" btt info "$folder/state" --json | grep -o "\"$1\":[0-9]*" | head -n 1 | cut -d: -f2; }
start=$(field start)
data=$(field dataoff) map=$(field mapoff) flog=$(field flogoff) end=$(field info2off)
after "control: data not written back is caught" without $((start + data)) $((start + map))
after "control: a map not written back is caught" without $((start + map)) $((start + flog))
after "control: a flog not written back is caught" without $((start + flog)) $((start + end))
