#!/bin/sh
# Before a removal, and not before an upgrade: dpkg says remove, rpm says how many are left.
set -e
case "${1:-}" in
remove | 0)
	if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
		systemctl disable --now millrace.service
	fi
	;;
esac
