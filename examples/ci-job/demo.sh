#!/bin/bash
# A CI job in a realm: boot it, attest it, send it a project, run its checks, collect the results.
#
#   ./demo.sh [PROJECT [RESULTS [GUEST]]]
#
# PROJECT is a directory with a program `check` that writes its output to `results`. GUEST is a
# directory made by `pyvmm image build debian -o GUEST`. The exit status is that of the checks, or 4
# if the realm is not the expected one; RESULTS/report then says why. This script requires openssl.

set -euo pipefail
here=$(dirname "$0")
export PATH="${PYVMM_BIN:-$here/../../.venv/bin}:$PATH"
project=${1:-$here/project}
results=${2:-ci-results}
guest=${3:-$here/../../build/debian}
name=ci-job-$$
work=$(mktemp -d)
trap 'pyvmm destroy "$name" 2>/dev/null || true; rm -r "$work"' EXIT

cp --sparse=always --reflink=auto "$guest/rootfs.img" "$work/disk.img"
realm=(--realm -k "$guest/Image" -i "$guest/initrd.img" -d "$work/disk.img" -m 512M)

echo "== boot"
mkdir -p "$results"
pyvmm endorse "${realm[@]}" >"$results/reference.json"
pyvmm create "$name" "${realm[@]}"
pyvmm start "$name"

echo "== attest, before the realm gets any data"
challenge=$(openssl rand -hex 64)
pyvmm attest "$name" --wait 600 --challenge "$challenge" >"$results/token"
pyvmm verify "$results/token" --challenge "$challenge" --reference "$results/reference.json" |
	tee "$results/report" | tail -n 1

echo "== check"
tar -C "$project" -c . | pyvmm exec "$name" --cwd /root -- tar -x
status=0
pyvmm exec "$name" --cwd /root --no-input --timeout 600 -- ./check >"$results/log" || status=$?

echo "== collect"
pyvmm exec "$name" --cwd /root --no-input -- tar -c results | tar -C "$results" -x --strip-components 1
pyvmm exec "$name" -- poweroff 2>/dev/null || true # its agent ends too
pyvmm wait "$name" --timeout 60

echo "exit status $status; results in $results"
exit "$status"
