#!/bin/busybox sh
# The first process of the initial RAM disk: load the virtio drivers, switch to the disk.
# Every process makes the boot slower: use builtins where possible.

mount -a # everything in /etc/fstab, with one process

root=/dev/vda flags=rw init=/sbin/init type=ext4 options=
read -r cmdline </proc/cmdline
for word in $cmdline; do
	case $word in
	root=/dev/* | root=rootfs) root=${word#root=} ;;
	ro) flags=ro ;;
	rootfstype=*) type=${word#rootfstype=} ;;
	rootflags=*) options=,${word#rootflags=} ;;
	init=*) init=${word#init=} ;;
	esac
done

insmod /lib/modules/virtio_mmio.ko 2>/dev/null # fails if it is built in
present=
cd /sys/bus
for file in virtio/devices/*/modalias platform/devices/arm-cca-dev/modalias platform/devices/*.watchdog/modalias; do
	[ -e "$file" ] && read -r alias <"$file" && present="$present $alias"
done
cd /
while read -r alias modules; do
	case $present in
	*" $alias"*) for module in $modules; do insmod "/lib/modules/$module.ko"; done ;;
	esac
done </lib/modules/drivers

[ -d /rootfs ] && exec chroot /rootfs "$init" # a root file system packed with --initrd
messages=
if [ "$type" != ext4 ]; then
	if ! mount -t "$type" -o "$flags$options" "$root" /mnt; then
		why="it cannot be mounted" what="Give the machine a directory (--rootfs DIR) and a kernel with the file system $type."
	elif [ -e "/mnt$init" ] || [ -L "/mnt$init" ]; then
		exec switch_root /mnt "$init"
	else
		why="it has no $init" what="Name the program to start with init=, or another directory with --rootfs."
	fi
elif [ ! -b "$root" ]; then
	why="the disk does not exist" what="Give the machine one (--disk rootfs.img), or name another with root=."
elif ! mount -t ext4 -o "$flags" "$root" /mnt; then
	messages=$(busybox dmesg | busybox sed -n "s/^.*EXT4-fs (${root#/dev/}): /  /p" | busybox tail -n 3)
	why="it cannot be mounted" what="Give the machine a disk with an ext4 file system, or name another with root=."
elif [ -e "/mnt$init" ] || [ -L "/mnt$init" ]; then
	exec switch_root /mnt "$init"
else
	why="it has no $init" what="Name the program to start with init=, or another disk with root=."
fi

busybox --install -s /bin
case $messages in
*"recovery required"*)
	what="Its journal must be replayed, but the disk is read-only: start the machine once without ,ro."
	;;
esac
echo
echo "No root file system on $root: $why."
[ -n "$messages" ] && echo "Kernel messages:" && echo "$messages"
echo "$what"
echo "This is a shell in the initial RAM disk; poweroff -f ends it."
while :; do
	setsid cttyhack sh
done
