#!/bin/sh
# Runs HAProxy for a private server. Ray's template binds the stats and metrics ports on all interfaces:
# before every start (and reload) they are moved to loopback in the configuration file, argument 3.
sed -i -e 's/^\( *bind \)\*\{0,1\}:/\1127.0.0.1:/' "$3"
# It goes with the process that started it, however that one ends.
if command -v setpriv >/dev/null; then
  exec setpriv --pdeathsig KILL -- "$MEDIARAY_HAPROXY" "$@"
fi
exec "$MEDIARAY_HAPROXY" "$@"
