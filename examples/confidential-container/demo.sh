#!/bin/sh
# Pack a program and its libraries from a directory, and run them in a realm that measures them:
#
#   ./demo.sh [GUEST]
#
# GUEST is a directory made by `pyvmm image build debian -o GUEST`. This script requires e2fsprogs
# and openssl.

set -e
here=$(dirname "$0")
export PATH="${PYVMM_BIN:-$here/../../.venv/bin}:$PATH:/usr/sbin:/sbin"
guest=${1:-$here/../../build/debian}
name=adder-$$
work=$(mktemp -d)
trap 'pyvmm destroy $name 2>/dev/null; rm -r "$work"' EXIT

echo "== a directory with the program, its interpreter and the libraries"
tree=$work/tree
copy() { # FROM-DEBIAN TO
	mkdir -p "$tree/$(dirname "$2")"
	debugfs -R "dump -p $1 $tree/$2" "$guest/rootfs.img" 2>/dev/null
}
libraries=/usr/lib/aarch64-linux-gnu
copy /usr/bin/dash bin/dash
copy $libraries/ld-linux-aarch64.so.1 lib/ld-linux-aarch64.so.1
copy $libraries/libc.so.6 lib/libc.so.6
cp -R "$here/app" "$tree/app"

echo "== packed after Debian's initial RAM disk, which a realm measures"
pyvmm image build rootfs --from-dir "$tree" --init /app/main --initrd "$guest/initrd.img" \
	-o "$work/app.img" -- 100
set -- --realm -k "$guest/Image" -i "$work/app.img" --agent

echo "== the reference values of the realm"
pyvmm endorse "$@" >"$work/reference.json"

echo "== the realm"
pyvmm create $name "$@"
pyvmm start $name
pyvmm wait $name --for "console:adder: ready" --timeout 600
challenge=$(openssl rand -hex 64)
pyvmm attest $name --challenge "$challenge" |
	pyvmm verify - --challenge "$challenge" --reference "$work/reference.json"

echo "== verified: now it gets the numbers"
printf '%s\n' 17 4 21 '' | pyvmm console $name >"$work/console" && status=0 || status=$?
grep -a "^adder: the sum" "$work/console"
echo "exit status $status"
exit "$status"
