#!/bin/busybox sh
# What udhcpc calls when it got a lease: the address, the way out, the name servers.

[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr replace "$ip/$mask" dev "$interface"
ip link set "$interface" up
[ -n "$router" ] && ip route replace default via "${router%% *}" dev "$interface"
: >/etc/resolv.conf
for server in $dns; do
	echo "nameserver $server" >>/etc/resolv.conf
done
