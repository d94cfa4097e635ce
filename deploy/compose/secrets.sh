#!/bin/sh
# Writes .env for docker-compose.yml with fresh secrets. Keeps the secrets of an .env that is there.
set -eu
cd "$(dirname "$0")/../.."
umask 077
touch .env
for name in POSTGRES_PASSWORD RABBITMQ_PASSWORD S3_SECRET KIVUKO_SERVICE_TOKEN \
    INGEST_PASSWORD RULES_PASSWORD EGRESS_PASSWORD WORKLIST_PASSWORD AUDIT_PASSWORD SLA_PASSWORD NETWORK_PASSWORD CONSOLE_PASSWORD; do
    grep -q "^$name=" .env || printf '%s=%s\n' "$name" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >>.env
done
echo "Secrets are in .env; keep a copy of it in a safe place, it opens the data."
