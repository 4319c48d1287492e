#!/bin/busybox sh
# The first process of the disk: mount the usual file systems, then start a root shell on the console.
# Every process makes the boot slower: use builtins where possible.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

# pyvmm waits for a guest that has a driver for the button: load it only where someone listens.
wait_for_power_button() {
	for module in /usr/lib/pyvmm/power-button/*.ko; do
		insmod "$module"
	done
	head -c 24 /dev/input/event0 >/dev/null && exec /usr/sbin/poweroff # not the one of busybox
}

mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -a
[ -d /sys/kernel/config ] && mount -t configfs config /sys/kernel/config
for file in /sys/bus/virtio/devices/*/device; do
	if [ -e "$file" ] && read -r id <"$file" && [ "$id" = 0x0012 ]; then
		wait_for_power_button </dev/null &
	fi
done
read -r hostname </etc/hostname
echo "$hostname" >/proc/sys/kernel/hostname
ip link set lo up
if [ -d /sys/class/net/eth0 ]; then
	ip link set eth0 up # otherwise udhcpc waits for ever
	read -r carrier </sys/class/net/eth0/carrier
	[ "$carrier" = 0 ] || udhcpc -i eth0 -n -q -t 5 -T 1 -S >/dev/null 2>&1
fi
set -- /sys/bus/virtio/drivers/virtio_console/virtio*
if [ -e "$1" ]; then
	pyvmm-agent exec </dev/null & # after the network, which a command may need; waits for its port
fi

read -r consoles </sys/class/tty/console/active
console=/dev/${consoles##* } # /dev/console itself cannot be a controlling terminal
export TERM=xterm-256color
cd /root || cd /
while :; do
	setsid -c bash -l <"$console" >"$console" 2>&1
done
