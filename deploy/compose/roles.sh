#!/bin/sh
# Runs once, on an empty database: one role and one schema per service, and nobody reads another's.
set -eu

psql --set ON_ERROR_STOP=1 --quiet --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<SQL
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON DATABASE $POSTGRES_DB FROM PUBLIC;
SQL
for service in $KIVUKO_SERVICES; do
    name=$(printf '%s' "$service" | tr '[:lower:]' '[:upper:]')_PASSWORD
    # \getenv keeps the password out of the process list and out of the server's log of statements.
    psql --set ON_ERROR_STOP=1 --quiet --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<SQL
\\getenv password $name
SET log_statement = 'none';
CREATE ROLE $service LOGIN PASSWORD :'password';
GRANT CONNECT ON DATABASE $POSTGRES_DB TO $service;
CREATE SCHEMA $service AUTHORIZATION $service;
ALTER ROLE $service IN DATABASE $POSTGRES_DB SET search_path = $service;
SQL
done
