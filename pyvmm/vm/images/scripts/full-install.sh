#!/bin/sh
# The first process of a new disk of the full profile: install its packages with dpkg, then power off.
# pyvmm reads the last line.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

finish() {
	echo "$1"
	sync
	busybox mount -o remount,ro /
	busybox poweroff -f
	sleep 1000
}

mount_system() { # TYPE DIRECTORY
	mkdir -p "$2"
	busybox mount -t "$1" "$1" "$2" || finish "error: cannot mount $2"
}

install_packages() { # the disk is thrown away if the host fails: do not wait for it
	dpkg --force-depends --force-unsafe-io --install "/.pyvmm/$1"/*.deb || finish "error: dpkg failed with status $?"
}

mount_system devtmpfs /dev
mount_system proc /proc
mount_system sysfs /sys
mount_system tmpfs /run
mount_system tmpfs /tmp
mount_system devpts /dev/pts
install_packages first
install_packages other
dpkg --audit | grep . && finish "error: not all packages are configured"
depmod
systemctl enable systemd-networkd systemd-resolved pyvmm-agent || finish "error: systemctl failed"
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
: >/etc/machine-id
rm -rf /.pyvmm /var/cache/apt/*.bin /usr/share/doc /usr/share/man /usr/share/locale
finish "pyvmm: all packages are installed"
