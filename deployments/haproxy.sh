#!/bin/sh
# Runs $MEDIARAY_HAPROXY for Ray Serve. Before every start (and reload) Ray's configuration, argument 3, is changed:
# - the stats and metrics ports move from all interfaces to loopback;
# - requests with a body carry the header that makes Serve read them with back-pressure, instead of buffering whole
#   uploads in the replica;
# - HAProxy's own answers while the ingress restarts are 502, 503 and 504, which clients try again. Ray makes each a
#   500, which looks like a defect. So is its answer before it knows where the ingress is: Ray makes that a 404.
restarting='{"detail": "the server restarts or is too busy: try again, with the same task_id or Idempotency-Key if there was one"}'
sed -i -e 's/^\( *bind \)\*\{0,1\}:/\1127.0.0.1:/' \
  -e '/^frontend http_frontend/{n;s/$/\n    http-request set-header x-request-disconnect-disabled ?1 if { method POST PUT }/}' \
  -e "s/^\( *\)errorfile \(50[234]\) .*/\1http-error status \2 content-type application\/json string '$restarting' hdr Retry-After 1/" \
  -e "s/^\( *http-request return status\) 404 .* \"Path .*/\1 503 content-type application\/json string '$restarting' hdr Retry-After 1/" \
  "$3"
# It goes with the process that started it, however that one ends.
if command -v setpriv >/dev/null; then
  exec setpriv --pdeathsig KILL -- "$MEDIARAY_HAPROXY" "$@"
fi
exec "$MEDIARAY_HAPROXY" "$@"
