#!/bin/busybox sh
# The first process of the initial RAM disk: load the virtio drivers, switch to the disk.
# Each command is a process and a boot waits for every one of them: builtins where they do.

mount -a # what /etc/fstab here lists: one process for all

root=/dev/vda flags=rw init=/sbin/init
read -r cmdline </proc/cmdline
for word in $cmdline; do
	case $word in
	root=/dev/*) root=${word#root=} ;;
	ro) flags=ro ;;
	init=*) init=${word#init=} ;;
	esac
done

insmod /lib/modules/virtio_mmio.ko 2>/dev/null # or it is built in
present=
for file in /sys/bus/virtio/devices/*/modalias /sys/bus/platform/devices/arm-cca-dev/modalias; do
	[ -e "$file" ] && read -r alias <"$file" && present="$present $alias"
done
while read -r alias modules; do
	case $present in
	*" $alias"*) for module in $modules; do insmod "/lib/modules/$module.ko"; done ;;
	esac
done </lib/modules/drivers

[ -d /rootfs ] && exec chroot /rootfs "$init" # one program's, packed with --initrd
said=
if [ ! -b "$root" ]; then
	why="there is no such disk" what="Give the machine one (--disk rootfs.img), or name another with root=."
elif ! mount -t ext4 -o "$flags" "$root" /mnt; then
	said=$(busybox dmesg | busybox sed -n "s/^.*EXT4-fs (${root#/dev/}): /  /p" | busybox tail -n 3)
	why="it cannot be mounted" what="Give the machine a disk with an ext4 file system, or name another with root=."
elif [ -e "/mnt$init" ] || [ -L "/mnt$init" ]; then
	exec switch_root /mnt "$init"
else
	why="it has no $init" what="Name the program to start with init=, or another disk with root=."
fi

busybox --install -s /bin
case $said in
*"recovery required"*)
	what="Its journal has to be replayed, and it is read-only: start the machine once without ,ro."
	;;
esac
echo
echo "No root file system on $root: $why."
[ -n "$said" ] && echo "The kernel said:" && echo "$said"
echo "$what"
echo "This is a shell in the initial RAM disk; poweroff -f ends it."
while :; do
	setsid cttyhack sh
done
