#!/usr/bin/env bash
# Announces this host's anycast address while its node is ready, and takes the route back when it is not, or when this
# script ends. Asks once a second. Needs birdc (BIRD 2) and bash; anycast.sh HOST PORT, those of admin.health.
set -u
host=${1:-127.0.0.1} port=${2:-8026}
birdc=${BIRDC:-birdc} protocol=${PROTOCOL:-anycast} last=

# ready: the node answers 200 at /readyz. An open connection without an answer is none.
ready() {
	timeout 2 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "GET /readyz HTTP/1.0\r\n\r\n" >&3 && read -r _ code _ <&3 &&
		[[ $code == 200 ]]' "$host" "$port" 2>/dev/null
}

# announce enable|disable: says it to bird when it changes.
announce() {
	[[ $1 != "$last" ]] || return 0
	$birdc "$1" "$protocol" >/dev/null && last=$1 && echo "anycast: $1"
}

trap 'announce disable; exit 0' TERM INT
while :; do
	if ready; then announce enable; else announce disable; fi
	sleep 1 &
	wait $!
done
