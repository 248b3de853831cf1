#!/bin/sh
# Known vulnerabilities in what the locks pin: sh requirements/audit.sh PIP_AUDIT LOCK...
# Status 0: none. 1: some, as a table. 2: the service could not be asked, so nothing is known.
service=${OSV_URL:-https://api.osv.dev/v1/query}
pip_audit=$1
shift
said=$(mktemp)
trap 'rm -f "$said"' EXIT
worst=0
for lock in "$@"; do
  # --strict: a package that the service does not answer for has not been audited. --disable-pip: what is locked, no index is asked.
  "$pip_audit" --strict --vulnerability-service osv --osv-url "$service" --disable-pip --require-hashes \
    --progress-spinner off --requirement "$lock" 2>"$said"
  status=$?
  if grep -q '^Traceback\|ServiceError\|ConnectionError' "$said"; then
    echo "audit: $service cannot be asked, so nothing is known about $lock: $(grep -v '^ ' "$said" | tail -n 1)" >&2
    exit 2
  fi
  echo "$lock: $(tail -n 1 "$said")" >&2
  [ "$status" -eq 0 ] || worst=1
done
exit "$worst"
