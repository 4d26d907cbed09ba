#!/bin/sh
# After the files of a deb or rpm are in place.
set -e
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers wxgate.conf
elif ! getent passwd wxgate >/dev/null; then
	useradd --system --home-dir /var/lib/wxgate --shell /usr/sbin/nologin wxgate
fi
chgrp wxgate /etc/wxgate /etc/wxgate/Caddyfile /etc/wxgate/environment
chmod 0750 /etc/wxgate
# Where systemd runs. A gateway that runs is restarted, a new one waits for its configuration.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart wxgate.service
fi
