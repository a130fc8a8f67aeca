#!/bin/sh
# Behind an installation or an upgrade: the user of the unit. A node that runs goes on with what it was started from:
# systemctl restart millrace drains it first.
set -e
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers --root="${DPKG_ROOT:-/}" millrace.conf
fi
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
