#!/bin/busybox sh
# attest [CHALLENGE]: print an attestation token of this realm, in base64 on one line.
# CHALLENGE makes the token fresh: 32 to 64 bytes in hexadecimal; by default random bytes.

fail() {
	echo "attest: $1" >&2
	exit 1
}

challenge=${1:-$(head -c 64 /dev/urandom | xxd -p -c 64)}
case $challenge in
*[!0-9a-fA-F]*) fail "$challenge: give hexadecimal digits" ;;
esac
[ $((${#challenge} % 2)) = 0 ] && [ ${#challenge} -ge 64 ] && [ ${#challenge} -le 128 ] ||
	fail "the challenge has ${#challenge} digits: give 64 to 128 (32 to 64 bytes)"

tsm=/sys/kernel/config/tsm/report
[ -d $tsm ] || modprobe arm-cca-guest 2>/dev/null
[ -d $tsm ] || fail "this guest is not a realm"
report=$tsm/attest.$$
mkdir "$report" || fail "cannot create $report"
trap 'rmdir "$report"' EXIT
echo "$challenge" | xxd -r -p >"$report/inblob"
token=$(base64 -w 0 "$report/outblob" 2>/dev/null) && [ -n "$token" ] ||
	fail "no token: the realm's platform cannot attest"
echo "$token"
