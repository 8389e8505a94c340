"""Which threads of a replica let the rest of the server go first."""

from __future__ import annotations

import os

_REPLICA_NICENESS = 10


def yield_cores() -> None:
    """Lower the priority of this thread and of the threads and programs that it starts.

    An engine on a CPU takes every core, and a stream of short tasks keeps the lease loop busy: registry and
    ingress, for which callers wait, must not wait for either.
    """
    here = os.getpriority(os.PRIO_PROCESS, 0)  # on Linux 0 is the calling thread
    os.setpriority(os.PRIO_PROCESS, 0, max(here, _REPLICA_NICENESS))
