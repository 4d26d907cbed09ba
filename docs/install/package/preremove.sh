#!/bin/sh
# Before a deb or rpm is removed; not before an upgrade. Sessions and configuration stay.
set -e
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now wxgate.service
	fi
	;;
esac
