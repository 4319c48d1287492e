#!/bin/bash
# A pool of realms: start them in parallel, attest each before it gets its share of the work, and
# destroy them when the work is done.
#
#   ./demo.sh [SIZE [GUEST]]
#
# GUEST is a directory made by `pyvmm image build debian -o GUEST`. This script requires e2fsprogs
# and openssl.

set -euo pipefail
set -m # each job is a process group, which can be killed as a whole
here=$(dirname "$0")
export PATH="${PYVMM_BIN:-$here/../../.venv/bin}:$PATH:/usr/sbin:/sbin"
size=${1:-10}
guest=${2:-$here/../../build/debian}
share=100 # numbers that each realm adds up
work=$(mktemp -d)
names=()
for n in $(seq "$size"); do names+=("pool-$$-$n"); done
# shellcheck disable=SC2317,SC2329  # called by the trap
clean_up() {
	for job in $(jobs -p); do kill -- "-$job" 2>/dev/null || true; done
	wait
	pyvmm destroy "${names[@]}" 2>/dev/null || true
	rm -r "$work"
}
trap clean_up EXIT

echo "== one image for all: a worker and a shell, measured"
mkdir -p "$work/tree/bin"
debugfs -R "dump -p /usr/bin/busybox $work/tree/bin/sh" "$guest/rootfs.img" 2>/dev/null
cp "$here/worker" "$work/tree/worker"
pyvmm image build rootfs --from-dir "$work/tree" --init /worker --initrd "$guest/initrd.img" \
	-o "$work/worker.img" >/dev/null
realm=(--realm -k "$guest/Image" -i "$work/worker.img" -m 256M --agent)
pyvmm endorse "${realm[@]}" >"$work/reference.json"

boot() { # NAME
	local challenge
	pyvmm create "$1" "${realm[@]}"
	pyvmm start "$1"
	pyvmm wait "$1" --for "console:worker: ready" --timeout 600
	challenge=$(openssl rand -hex 64)
	if ! pyvmm attest "$1" --challenge "$challenge" |
		pyvmm verify - --challenge "$challenge" --reference "$work/reference.json" >"$work/$1.report"; then
		echo "$1 is not verified:" && cat "$work/$1.report"
		return 1
	fi
	echo "$1 is verified"
}

add() { # NAME FROM TO
	echo "$2 $3" | pyvmm console "$1" | tr -d '\r' | sed -n 's/^worker: sum //p' >"$work/$1.sum"
}

all() { # PID...: wait for each, even if others have failed
	local failed=0
	for pid in "$@"; do wait "$pid" || failed=1; done
	return "$failed"
}

echo "== boot $size realms"
pids=()
for name in "${names[@]}"; do
	boot "$name" &
	pids+=("$!")
done
all "${pids[@]}"
echo "$(pyvmm list --run | grep -c "pool-$$-.*running") are running"

echo "== work"
pids=()
from=1
for name in "${names[@]}"; do
	add "$name" "$from" "$((from + share - 1))" &
	pids+=("$!")
	from=$((from + share))
done
all "${pids[@]}"
sum=0
for name in "${names[@]}"; do sum=$((sum + $(<"$work/$name.sum"))); done
echo "the sum of 1 to $((from - 1)) is $sum"
