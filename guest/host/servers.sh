# SPDX-License-Identifier: MIT OR Apache-2.0
# For guest/run: servers of vhost-user disks, which run beside QEMU and not in the guest, and are killed when a test says `@kill`.

declare -A servers=() # by what they serve: the process
sockets=''            # a short path: that of a socket has 107 characters at most

# Serves an image of the run's folder, which is made if it is not there, and waits until it accepts.
start_server() { # pmem|file|btt folder
    local log=$2/serve-$1.log image=$2/vhost-$1.img
    [ -n "$sockets" ] || sockets=$(mktemp -d "${TMPDIR:-/tmp}/pageless.XXXXXX")
    if [ ! -e "$image" ]; then
        case $1 in
            btt) "$pageless" btt create "$image" --size 512M --sector-size 4096 --volatile >/dev/null ;;
            *) truncate -s 512M "$image" ;;
        esac
    fi
    : >"$log.now"
    "$pageless" serve "$1:$image" --vhost-user "$sockets/$1" --queues 2 >"$log.now" 2>&1 &
    servers[$1]=$!
    until grep -q '^ready' "$log.now"; do
        kill -0 "${servers[$1]}" 2>/dev/null || die "the server of $image did not start: $(tail -n 3 "$log.now")"
        sleep 0.01
    done
}

# Kills all of them outright and starts them again.
kill_servers() { # folder
    local what
    for what in "${!servers[@]}"; do
        kill -KILL "${servers[$what]}" 2>/dev/null || true
        { wait "${servers[$what]}" || true; } 2>/dev/null
    done
    for what in "${!servers[@]}"; do start_server "$what" "$1"; done
    echo killed >>"$1/kills"
}

# Ends them politely; says how each ended and what it said.
end_servers() {
    local what status
    for what in "${!servers[@]}"; do
        status=0
        kill "${servers[$what]}" 2>/dev/null || true
        wait "${servers[$what]}" || status=$?
        echo "$what ended with $status"
        sed "s/^/$what: /" "$folder/serve-$what.log.now"
    done
    servers=()
    [ -z "$sockets" ] || rm -rf "$sockets"
    sockets=''
}
