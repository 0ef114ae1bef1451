# shellcheck shell=bash
# What scripts/kernels and scripts/systemd share: kernels and QEMU from Debian's archive, and a machine that runs them.
# It is sourced after `cd` to the repository. What is fetched is kept under target/kernels.

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
cache=$target/kernels
mkdir -p "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf '== %s (%ss)\n' "$*" "$SECONDS"; }
give_up() { echo "${0##*/}: $*" >&2; exit 1; }

# apt-get and apt-cache with lists of a suite and an architecture of their own
apt_of() { # SUITE ARCHITECTURE TOOL WORDS...
    local lists=$cache/lists-$1-$2 tool=$3
    local sources=$lists/sources options
    options=(-q -o "Dir::Etc::sourcelist=$sources" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$lists/state"
        -o "Dir::Cache=$lists/cache" -o "APT::Architecture=$2" -o "APT::Architectures=$2" -o APT::Sandbox::User=root)
    if [[ ! -e $lists/fresh ]]; then
        mkdir -p "$lists/state/partial" "$lists/cache/archives/partial"
        echo "deb http://deb.debian.org/debian $1 main" >"$sources"
        timeout 120 apt-get "${options[@]}" update >"$lists/log" 2>&1 || { cat "$lists/log" >&2; return 1; }
        touch "$lists/fresh"
    fi
    shift 3
    "$tool" "${options[@]}" "$@"
}

# Unpacks packages into a directory that is kept.
unpacked() { # DIRECTORY SUITE ARCHITECTURE PACKAGES...
    local into=$1 suite=$2 arch=$3
    shift 3
    [[ $(cat "$into/.done" 2>/dev/null) != "$*" ]] || return 0
    rm -rf "$into" "$work/debs" && mkdir -p "$into" "$work/debs"
    (cd "$work/debs" && apt_of "$suite" "$arch" apt-get download "$@" >/dev/null 2>&1 && for deb in *.deb; do dpkg -x "$deb" "$into"; done) ||
        return 1
    echo "$*" >"$into/.done"
}

# The image of the newest kernel of a suite for virtual machines, and what its modules come in.
kernel_packages() { # SUITE ARCHITECTURE
    local names image
    names=$(apt_of "$1" "$2" apt-cache pkgnames)
    image=$(grep -E "^linux-image-[0-9][0-9.]+.*-cloud-$2(-unsigned)?$" <<<"$names" | grep -v -e dbg -e rt | sort -V | grep -v unsigned | tail -n 1)
    [[ $image ]] || return 1
    local release=${image#linux-image-}
    echo "$image"
    grep -Fx -e "linux-binary-$release" -e "linux-modules-$release" <<<"$names" || true
}

# The kernel of a suite: what it is, and into a root the modules that hotswap needs.
fetch_kernel() { # NAME SUITE ARCHITECTURE ROOT
    local kernel=$cache/kernel-$1 root=$4 packages release
    mapfile -t packages < <(kernel_packages "$2" "$3")
    unpacked "$kernel" "$2" "$3" "${packages[@]}" || give_up "cannot fetch ${packages[*]}"
    image=$(find "$kernel" -name 'vmlinuz*' | head -n 1)
    release=${packages[0]#linux-image-}
    # below usr/, where lib may be a link
    local modules=$root/lib/modules
    [[ ! -d $root/usr/lib ]] || modules=$root/usr/lib/modules
    rm -rf "$modules" && mkdir -p "$modules/$release"
    find "$kernel" -regex '.*/\(tcp_diag\|inet_diag\|unix_diag\|ipv6\)\.ko.*' -exec cp {} "$modules/$release/" \;
    find "$modules" -name '*.xz' -exec unxz {} +
    busybox depmod -b "$root" "$release"
}

# Boots the image with the root in its memory, until it powers off.
boot() { # ROOT LOG SECONDS WORDS OF QEMU...
    local root=$1 log=$2 seconds=$3 console=ttyS0
    shift 3
    [[ $1 != *aarch64 ]] || console=ttyAMA0
    (cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initrd"
    timeout "$seconds" nice "$qemu/usr/bin/$1" "${@:2}" -accel tcg,thread=multi -m 2048 -smp 2 -nographic -nic none -no-reboot \
        -L "$qemu/usr/share/qemu" -L "$qemu/libraries/usr/share/seabios" -L "$qemu/libraries/usr/lib/ipxe/qemu" \
        -kernel "$image" -initrd "$work/initrd" -append "console=$console quiet panic=-1 mitigations=off ${kernel_words:-}" >"$log" 2>&1 || true
}

say tools
[[ $(id -u) == 0 ]] || give_up "needs root"
command -v apt-get >/dev/null || give_up "needs Debian"
command -v busybox >/dev/null || give_up "busybox is not installed; try: apt-get install busybox-static"
[[ $(busybox --list) == *depmod* ]] || give_up "this busybox is not the one of busybox-static"
# bookworm's own QEMU crashes with newer kernels
qemu=$cache/qemu
libraries=(libcapstone4 libpmem1 libndctl6 libdaxctl1 libkmod2 libfdt1 librdmacm1 libibverbs1 libnl-3-200 libnl-route-3-200 libslirp0 libvdeplug2)
unpacked "$qemu" bookworm-backports amd64 qemu-system-x86 qemu-system-arm qemu-system-common qemu-system-data
unpacked "$qemu/libraries" bookworm amd64 "${libraries[@]}" seabios ipxe-qemu
export LD_LIBRARY_PATH=$qemu/libraries/usr/lib/x86_64-linux-gnu:$qemu/libraries/lib/x86_64-linux-gnu
