#!/bin/sh
# Puts a new certificate where the node reads it, and has the node read it: the hook of an ACME client.
#
#   certbot certonly --standalone -d mx1.example.net --deploy-hook /usr/share/doc/millrace/acme.sh
#   lego --domains mx1.example.net --http run --run-hook /usr/share/doc/millrace/acme.sh       (renew: --renew-hook)
#
# tls: {cert: cert.pem, key: cert.key} in /etc/millrace/millrace.yaml. Each file is whole at any time, and the node reads
# both at SIGHUP: if they do not fit it keeps what it has, and says so.
set -eu
dir=${MILLRACE_DIR:-/etc/millrace} group=${MILLRACE_GROUP:-millrace}
cert=${LEGO_CERT_PATH:-${RENEWED_LINEAGE:+$RENEWED_LINEAGE/fullchain.pem}}
key=${LEGO_CERT_KEY_PATH:-${RENEWED_LINEAGE:+$RENEWED_LINEAGE/privkey.pem}}
install -m 644 "$cert" "$dir/.cert.pem.new"
install -m 640 -g "$group" "$key" "$dir/.cert.key.new"
mv -f "$dir/.cert.key.new" "$dir/cert.key"
mv -f "$dir/.cert.pem.new" "$dir/cert.pem"
${MILLRACE_RELOAD:-systemctl reload millrace.service}
