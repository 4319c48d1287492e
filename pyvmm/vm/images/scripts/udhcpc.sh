#!/bin/busybox sh
# udhcpc calls this when it gets a lease: set the address, the router and the name servers.

[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr replace "$ip/$mask" dev "$interface"
ip link set "$interface" up
[ -n "$router" ] && ip route replace default via "${router%% *}" dev "$interface"
: >/etc/resolv.conf
for server in $dns; do
	echo "nameserver $server" >>/etc/resolv.conf
done
