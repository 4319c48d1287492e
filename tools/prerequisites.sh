#!/bin/sh
# Check the prerequisites that pip cannot install. If some are missing, install their Debian packages
# as root, or else print one error that lists them. Print nothing if all are present.
#
#   tools/prerequisites.sh PYTHON CC [tests]

python=$1
cc=$2
tests=$3
missing=
reasons=

need() { # need PACKAGE REASON
    missing="$missing $1"
    reasons="$reasons
  $1: $2"
}

check() {
    missing= reasons=
    if ! command -v "$python" >/dev/null 2>&1; then
        need python3 "no $python on PATH"
        need python3-venv "the virtual environment"
        need python3-dev "Python.h, for the C core"
    elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "error: $("$python" --version) is too old: pyvmm needs Python 3.11 or later." >&2
        echo "       Give a newer one: make PYTHON=python3.12 setup" >&2
        exit 2
    else
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            need python3-venv "the virtual environment ($python has no ensurepip or venv)"
        "$python" -c 'import os, sysconfig as s
raise SystemExit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' ||
            need python3-dev "Python.h, for the C core"
    fi
    if ! command -v "$cc" >/dev/null 2>&1; then
        need gcc "a C compiler (no $cc on PATH)"
        need libc6-dev "the C library's headers"
    elif ! printf '#include <stdlib.h>\n#include <math.h>\n' | "$cc" -x c -E - >/dev/null 2>&1; then
        need libc6-dev "the C library's headers"
    fi
    if [ "$tests" ]; then
        command -v ip >/dev/null 2>&1 || need iproute2 "ip, for tests with tap interfaces"
        command -v passt >/dev/null 2>&1 || need passt "for tests of user mode"
        command -v qemu-nbd >/dev/null 2>&1 || need qemu-utils "for tests of qcow2 disks"
        command -v chromium >/dev/null 2>&1 || need chromium "for tests of the explorer's page"
        command -v npm >/dev/null 2>&1 || need npm "to compile the explorer's page"
        [ -f /usr/share/qemu-efi-aarch64/QEMU_EFI.fd ] || need qemu-efi-aarch64 "EDK2, for tests of firmware"
        [ -f /usr/lib/u-boot/qemu_arm64/u-boot.bin ] || need u-boot-qemu "U-Boot, for tests of firmware"
        command -v mcopy >/dev/null 2>&1 || need mtools "for tests that boot from a disk"
        command -v grub-mkimage >/dev/null 2>&1 || need grub-common "for tests that boot with GRUB"
        command -v skopeo >/dev/null 2>&1 || need skopeo "for tests of container images"
        command -v umoci >/dev/null 2>&1 || need umoci "for tests of container images"
        command -v tshark >/dev/null 2>&1 || need tshark "for tests of captured frames"
        command -v curl >/dev/null 2>&1 || need curl "for tests of the API and of examples"
    fi
    for tool in mke2fs e2fsck; do # Debian keeps them in sbin, which is not on a user's PATH
        PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" >/dev/null 2>&1 || {
            need e2fsprogs "$tool, to make and check disk images"
            break
        }
    done
}

check
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing" >&2
    apt-get -qq update >&2
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $missing >&2
    check
    [ -z "$missing" ] && exit 0
fi
echo "error: missing Debian packages:$reasons" >&2
echo "Install them with:  sudo apt-get install$missing" >&2
exit 2
