#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# guest/host/setup.sh KERNEL [qemu10]: fetches and unpacks what a guest needs into target/guest. Needs apt, of Debian 12 or newer, and no
# root. Nothing is installed: QEMU's package would remove qemu-utils where that came from backports.
#
#   apt/        an apt of our own: its sources, lists and packages know nothing of this machine's
#   debian/     QEMU, the guest's programs and the tools that build its file system, unpacked
#   qemu10/     the same for QEMU 10; only if asked for
#   kernels/V/  vmlinux and base.cpio of the newest kernel whose version starts with V
set -euo pipefail
. "$(dirname "$0")/common.sh"

version=$1
what=${2:-}

# Where this machine gets an archive of Debian's from: `debian`, `debian-security`.
archive_of() { # name
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        awk -v name="/$1/?\$" '$0 ~ name && !found++ {print} END {exit !found}' ||
        die "apt has no source that ends in /$1: it needs one of Debian's mirrors"
}

programs=(busybox-static cpio daxctl e2fsprogs fio kmod libnbd-bin nbd-client ndctl python3-minimal qemu-system-x86 qemu-utils strace xfsprogs xz-utils zstd)

# What /init or a test may load. A name that a kernel does not have is built in, or missing and then the test says so.
modules=(nfit nd_pmem nd_e820 nd_btt dax_pmem device_dax virtio_pmem virtio_blk virtio_pci ext4 crc32c xfs nvme udmabuf
    vfio-pci vfio_iommu_type1 hwpoison-inject null_blk loop nbd)

main() {
    mkdir -p "$work/kernels"
    # Several runs may start in a fresh tree; one of them fetches.
    exec 9>"$work/lock"
    flock 9
    unpack_programs
    [ -z "$what" ] || unpack_qemu10
    [ -e "$work/kernels/$version/vmlinux" ] || unpack_kernel
    local base=$work/kernels/$version/base.cpio
    if [ ! -e "$base" ] || [ "$guest/init" -nt "$base" ] || [ "$guest/host/setup.sh" -nt "$base" ]; then
        say "building the file system of $(basename "$(readlink -f "$work/kernels/$version")")"
        build_base "$base"
    fi
}

# apt with a database of its own, in which nothing is installed: it resolves to packages that work together anywhere. Of this
# machine's settings it keeps proxies and the like, but not the hooks that clean up after apt.
private_apt() { # apt-get|apt-cache argument...
    local tool=$1
    shift
    "$tool" -c "$work/apt/apt.conf" "$@"
}

# The suite of newer kernels may be gone one day; the others hold what every test needs.
configure_apt() { # suite of newer kernels...
    local main_archive security_archive keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e $keyring ] || die "needs the package debian-archive-keyring"
    mkdir -p "$work"/apt/{none,lists/partial,cache/archives/partial}
    : >>"$work/apt/status"
    main_archive=$(archive_of debian)
    security_archive=$(archive_of debian-security)
    printf "deb [arch=amd64 signed-by=$keyring] %s main\n" "$main_archive bookworm" "$main_archive bookworm-updates" \
        "$security_archive bookworm-security" "${@/#/$main_archive }" >"$work/apt/sources.list"
    cat >"$work/apt/apt.conf" <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "$work/apt/none";
Dir::Etc::preferencesparts "$work/apt/none";
Dir::State::lists "$work/apt/lists";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt/cache";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "3";
END
}

refresh() {
    [ -z "${refreshed:-}" ] || return 0
    command -v apt-get >/dev/null || die "needs apt-get and dpkg-deb, of Debian 12 or newer"
    say "reading the package lists"
    configure_apt trixie-backports bookworm-backports
    if ! private_apt apt-get -qq update; then
        configure_apt
        private_apt apt-get -qq update || die "the package lists cannot be read"
        say "trixie-backports, where newer kernels are, cannot be read"
    fi
    refreshed=yes
}

# Downloads packages and unpacks them into a folder.
fetch() { # [-t suite] folder package...
    local into package suite=()
    if [ "$1" = -t ]; then suite=(-t "$2"); shift 2; fi
    into=$1
    shift
    mkdir -p "$into" "$work/apt/debs"
    (cd "$work/apt/debs" && private_apt apt-get -qq download "${suite[@]}" "$@") || die "a package cannot be downloaded"
    for package; do
        dpkg-deb -x "$work/apt/debs/$package"_*.deb "$into"
    done
    rm -r "$work/apt/debs"
}

unpack_programs() {
    local wanted="${programs[*]}" packages
    [ "$(cat "$debian/.unpacked" 2>/dev/null)" != "$wanted" ] || return 0
    refresh
    mapfile -t packages < <(private_apt apt-get install --simulate --no-install-recommends "${programs[@]}" | awk '/^Inst/ {print $2}')
    [ "${#packages[@]}" -gt 0 ] || die "apt finds no way to have ${programs[*]}"
    say "fetching QEMU and the guest's programs (${#packages[@]} packages, about 100 MB, once)"
    rm -rf "$debian"
    fetch "$debian" "${packages[@]}"
    echo "$wanted" >"$debian/.unpacked"
}

# QEMU 10: that of bookworm takes no plugin that reads what is stored, and forgets stores of a machine that moves.
unpack_qemu10() {
    local packages
    [ ! -e "$qemu10/.unpacked" ] || return 0
    refresh
    mapfile -t packages < <(private_apt apt-get install --simulate --no-install-recommends -t bookworm-backports qemu-system-x86 | awk '/^Inst/ {print $2}')
    [ "${#packages[@]}" -gt 0 ] || { say "no QEMU 10: bookworm-backports cannot be read"; exit $not_obtainable; }
    say "fetching QEMU 10 (${#packages[@]} packages, once)"
    rm -rf "$qemu10"
    fetch -t bookworm-backports "$qemu10" "${packages[@]}"
    touch "$qemu10/.unpacked"
}

# The newest kernel of that version: one package up to 6.x, three from 7.x on.
unpack_kernel() {
    local name release packages folder image magic
    refresh
    name=$(private_apt apt-cache pkgnames "linux-image-$version" | grep -E "^linux-image-${version//./\\.}[.0-9]*\+deb[0-9]+-cloud-amd64$" | sort -V | tail -n 1 || true)
    if [ -z "$name" ]; then
        say "kernel $version is not obtainable: no linux-image-$version…-cloud-amd64 in bookworm and trixie-backports"
        exit $not_obtainable
    fi
    release=${name#linux-image-}
    packages=("linux-binary-$release" "linux-modules-$release" "linux-base-$release")
    private_apt apt-cache show "${packages[0]}" >/dev/null 2>&1 || packages=("$name")
    say "fetching kernel $release"
    folder=$work/kernels/$release
    rm -rf "$folder"
    fetch "$folder" "${packages[@]}"
    [ -d "$folder/lib" ] || ln -s usr/lib "$folder/lib"
    image=$(ls "$folder/boot/vmlinuz-$release" "$folder/lib/modules/$release/vmlinuz" 2>/dev/null || true)
    # The payload of a Debian vmlinuz is an ELF file in a zstd frame; QEMU enters it through its PVH note, without a BIOS.
    magic=$(LC_ALL=C grep -aobP '\x28\xb5\x2f\xfd' "$image" | head -n 1 | cut -d: -f1)
    tail -c "+$((magic + 1))" "$image" | { debian_run zstd -dcq 2>/dev/null || true; } >"$folder/vmlinux.part"
    [ "$(head -c 4 "$folder/vmlinux.part")" = $'\x7fELF' ] || die "$release has no kernel in a zstd frame"
    mv "$folder/vmlinux.part" "$folder/vmlinux"
    ln -sfn "$release" "$work/kernels/$version"
}

# busybox, modules, mkfs, ndctl: what every test may use.
build_base() { # archive
    local kernel tree name release module
    kernel=$(readlink -f "$work/kernels/$version")
    release=$(basename "$kernel")
    tree=$(mktemp -d "$work/tree.XXXXXX")
    mkdir -p "$tree"/{dev,disk,etc,mnt,proc,root,run,sys,tmp} "$tree/usr/lib/modules/$release"
    for name in bin sbin; do ln -s usr/bin "$tree/$name"; done
    for name in lib lib64; do ln -s "usr/$name" "$tree/$name"; done
    install_programs "$tree" unpacked "$(unpacked mkfs.ext4)" "$(unpacked mkfs.xfs)" "$(unpacked ndctl)" "$(unpacked daxctl)" "$(unpacked kmod)"
    ln -s bin "$tree/usr/sbin"
    ln -s /proc/mounts "$tree/etc/mtab"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
    cp "$(unpacked busybox)" "$tree/usr/bin/busybox"
    # modprobe is kmod's: busybox does not know soft dependencies.
    for name in $("$tree/usr/bin/busybox" --list) modprobe; do
        [ -e "$tree/usr/bin/$name" ] || ln -s busybox "$tree/usr/bin/$name"
    done
    ln -sfn kmod "$tree/usr/bin/modprobe"

    debian_run depmod -b "$kernel" "$release"
    for module in "${modules[@]}"; do
        debian_run modprobe -d "$kernel" -S "$release" --show-depends "$module" 2>/dev/null || true
    done | awk '$1 == "insmod" {print $2}' | sort -u | while read -r module; do
        unpack_module "$module" "$tree/usr/lib/modules/$release/$(basename "${module%.xz}")"
    done
    cp "$kernel/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$tree/usr/lib/modules/$release/"
    debian_run depmod -b "$tree/usr" "$release"
    cp "$guest/init" "$tree/init"
    archive "$tree" "$1"
    rm -rf "$tree"
}

# Uncompressed here, once, in place of in every boot.
unpack_module() { # from to
    case $1 in
        *.xz) debian_run xz -dc "$1" >"$2" ;;
        *.zst) debian_run zstd -dcq "$1" >"$2" ;;
        *) cp "$1" "$2" ;;
    esac
}

main
