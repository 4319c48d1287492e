#!/bin/busybox sh
# poweroff, reboot, halt: there is no service to stop; leave the disk clean and go at once.

sync
mount -o remount,ro / 2>/dev/null || {
	echo u >/proc/sysrq-trigger # someone still writes: read-only by force
	sleep 0.2
}
exec busybox "${0##*/}" -f
