#!/bin/sh
# Build the realm, compute its reference values, boot it, and fetch a file from it: ./demo.sh [PORT]
# This script requires passt or libslirp, and Debian's packages.

set -e
here=$(dirname "$0")
bin=${PYVMM_BIN:-$here/../../.venv/bin}
files=${RA_TLS_FILES:-$here/../../build/ra-tls}
port=${1:-8443}

"$bin/python" "$here/build.py" "$files"
set -- --realm -k "$files/Image" -i "$files/ra-tls.img" -p "console=ttyS0 rdinit=/ra-tls/init" \
	-n "mode=user,hostfwd=tcp:$port-:443"
"$bin/pyvmm" endorse "$@" >"$files/reference.json"

scratch=$(mktemp -d)
mkfifo "$scratch/console"
"$bin/pyvmm" run "$@" </dev/null >"$scratch/console" &
realm=$!
trap 'kill $realm; rm -r "$scratch"' EXIT
exec 9<"$scratch/console"
while read -r line <&9; do
	case $line in
	*"ra-tls: serving"*) break ;;
	esac
done
"$bin/python" "$here/client.py" "localhost:$port" "$files/reference.json"
