#!/bin/sh
# The first process of a new disk of the full profile: install its packages with dpkg, then power off.
# pyvmm reads the last line.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

finish() {
	echo "$1"
	sync
	mount -o remount,ro /
	echo o >/proc/sysrq-trigger
	sleep 1000
}

install_packages() { # the disk is thrown away if the host fails: do not wait for it
	dpkg --force-depends --force-unsafe-io --install "/.pyvmm/$1"/*.deb || finish "error: dpkg failed with status $?"
}

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
install_packages first
install_packages other
dpkg --audit | grep . && finish "error: not all packages are configured"
depmod
systemctl enable systemd-networkd systemd-resolved pyvmm-agent || finish "error: systemctl failed"
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
: >/etc/machine-id
rm -rf /.pyvmm /var/cache/apt/*.bin /usr/share/doc /usr/share/man /usr/share/locale
finish "pyvmm: all packages are installed"
