#!/bin/busybox sh
# attest [CHALLENGE]: print an attestation token of this realm, in base64 on one line.
# CHALLENGE is what makes it fresh: 32 to 64 bytes in hexadecimal; without it, random ones.

fail() {
	echo "attest: $1" >&2
	exit 1
}

challenge=${1:-$(head -c 64 /dev/urandom | xxd -p -c 64)}
case $challenge in
*[!0-9a-fA-F]*) fail "$challenge: give hexadecimal digits" ;;
esac
[ $((${#challenge} % 2)) = 0 ] && [ ${#challenge} -ge 64 ] && [ ${#challenge} -le 128 ] ||
	fail "a challenge has 32 to 64 bytes, not ${#challenge} digits"

tsm=/sys/kernel/config/tsm/report
[ -d $tsm ] || modprobe arm-cca-guest 2>/dev/null
[ -d $tsm ] || fail "this is no realm"
report=$tsm/attest.$$
mkdir "$report" || fail "no report"
trap 'rmdir "$report"' EXIT
echo "$challenge" | xxd -r -p >"$report/inblob"
token=$(base64 -w 0 "$report/outblob" 2>/dev/null) && [ -n "$token" ] ||
	fail "no token: the realm's platform cannot attest"
echo "$token"
