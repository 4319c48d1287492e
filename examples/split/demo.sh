#!/bin/sh
# A web service in a normal VM lets a realm do the confidential part of its work:
#
#   ./demo.sh [GUEST [PORT]]
#
# GUEST is a directory made by `pyvmm image build debian -o GUEST`; the service is at http://localhost:PORT.
# This script requires curl, e2fsprogs, passt or libslirp, and pyvmm with the extra kbs.

set -e
here=$(dirname "$0")
export PATH="${PYVMM_BIN:-$here/../../.venv/bin}:$PATH:/usr/sbin:/sbin"
guest=${1:-$here/../../build/debian}
port=${2:-8080}
scorer=scorer-$$ web=web-$$ broker=
cid=$((1000 + $$)) # the realm's address; no other guest has it
work=$(mktemp -d)
trap 'pyvmm destroy $scorer $web 2>/dev/null; [ -z "$broker" ] || kill "$broker"; rm -r "$work"' EXIT

pack() { # DIRECTORY [ARGUMENT]: an initial RAM disk with the programs in it
	tree=$work/$1
	mkdir -p "$tree/bin"
	cp -R "$here/$1/." "$tree"
	debugfs -R "dump -p /usr/bin/busybox $tree/bin/busybox" "$guest/rootfs.img" 2>/dev/null
	debugfs -R "dump -p /usr/sbin/pyvmm-agent $tree/bin/pyvmm-agent" "$guest/rootfs.img" 2>/dev/null
	pyvmm image build rootfs --from-dir "$tree" --init /main --initrd "$guest/initrd.img" -o "$work/$1.img" -- "$2"
}

echo "== the owner of the model: a key broker that knows which realm may have it"
pack realm
set -- --realm -k "$guest/Image" -i "$work/realm.img" --vsock "$cid,uds=$work/vsock"
mkdir -p "$work/kbs/policy/scoring" "$work/kbs/resource/scoring/model"
chmod go= "$work/kbs/resource"
pyvmm endorse "$@" >"$work/kbs/policy/scoring/v1.json"
cp "$here/model" "$work/kbs/resource/scoring/model/weights"
pyvmm kbs "$work/kbs" --socket "$work/vsock_80" &
broker=$!

echo "== the realm: it proves what it is, gets the model, and waits for texts"
pyvmm create $scorer "$@"
pyvmm start $scorer
pyvmm wait $scorer --for "console:scorer: ready" --timeout 600

echo "== the normal VM: a web server that sends texts to CID $cid"
pack vm "$cid"
pyvmm create $web -k "$guest/Image" -i "$work/vm.img" --vsock auto -n "mode=user,hostfwd=tcp:$port-:80"
pyvmm start $web
pyvmm wait $web --for "console:web: ready" --timeout 600

echo "== a user of the service"
echo "the score is $(curl -sS --data "Free money, no risk" "http://localhost:$port/cgi-bin/score")"
