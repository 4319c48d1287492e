#!/bin/bash
# Update a service in several realms to a new release, one realm after the other. An old realm is
# stopped only when its successor is running and has proved that it runs the new release.
#
#   ./demo.sh [REPLICAS [GUEST]]
#
# GUEST is a directory made by `pyvmm image build debian -o GUEST`. This script requires e2fsprogs
# and openssl.

set -euo pipefail
set -m # each job is a process group, which can be killed as a whole
here=$(dirname "$0")
export PATH="${PYVMM_BIN:-$here/../../.venv/bin}:$PATH:/usr/sbin:/sbin"
replicas=${1:-3}
guest=${2:-$here/../../build/debian}
service=service-$$
work=$(mktemp -d)
# shellcheck disable=SC2317,SC2329  # called by the trap
clean_up() {
	for job in $(jobs -p); do kill -- "-$job" 2>/dev/null || true; done
	wait
	pyvmm list | awk -v prefix="$service-" 'index($2, prefix) == 1 { print $2 }' |
		xargs -r pyvmm destroy
	rm -r "$work"
}
trap clean_up EXIT

release() { # VERSION: build its files and its reference values
	local tree="$work/tree-$1"
	mkdir -p "$tree/bin"
	debugfs -R "dump -p /usr/bin/busybox $tree/bin/sh" "$guest/rootfs.img" 2>/dev/null
	cp "$here/service" "$tree/service"
	pyvmm image build rootfs --from-dir "$tree" --init /service --initrd "$guest/initrd.img" \
		-o "$work/$1.img" -- "$1" >/dev/null
	options "$1"
	pyvmm endorse "${realm[@]}" >"$work/$1.json"
}

options() { # VERSION
	realm=(--realm -k "$guest/Image" -i "$work/$1.img" -m 256M --agent)
}

bring_up() { # NAME VERSION: fail if the realm is not that release
	local challenge # `set -e` has no effect in here, because the callers test the result
	options "$2"
	challenge=$(openssl rand -hex 64)
	pyvmm create "$1" "${realm[@]}" &&
		pyvmm start "$1" &&
		pyvmm wait "$1" --for "console:service .*: ready" --timeout 600 &&
		pyvmm attest "$1" --challenge "$challenge" >"$work/$1.token" &&
		pyvmm verify "$work/$1.token" --challenge "$challenge" --reference "$work/$2.json" \
			>"$work/$1.report"
}

replace() { # N OLD-VERSION NEW-VERSION
	if ! bring_up "$service-$1-$3" "$3"; then
		pyvmm destroy "$service-$1-$3"
		echo "replica $1 stays at $2: its successor is not $3"
		return 1
	fi
	pyvmm stop "$service-$1-$2"
	pyvmm destroy "$service-$1-$2"
	echo "replica $1 is at $3; $(running) are running"
}

running() {
	pyvmm list --run | grep -c "$service-.*running"
}

echo "== release v1"
release v1
pids=()
for n in $(seq "$replicas"); do
	bring_up "$service-$n-v1" v1 &
	pids+=("$!")
done
for pid in "${pids[@]}"; do wait "$pid"; done
echo "$(running) are running"

echo "== release v2"
release v2
for n in $(seq "$replicas"); do replace "$n" v1 v2; done

echo "== release v3, with manipulated files"
release v3
cp "$work/v1.img" "$work/v3.img"
replace 1 v2 v3 || echo "no replica was replaced; $(running) are running"
