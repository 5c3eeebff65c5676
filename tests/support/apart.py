"""For programs that start much: namespaces of their own, where nobody else's processes, message
queues and mounts are, and which take all that was started with them when they end."""

import os
import sys

INSIDE = "BUSWORK_APART"
# The first process there has to take in orphans, and to pass on that it is to end.
FIRST = """\
trap 'kill -TERM $!' TERM INT
"$@" &
until wait $!; status=$?; ! kill -0 $! 2>/dev/null; do :; done
exit $status
"""
UNSHARE = ["unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child=TERM", "--mount-proc"]


def go_apart() -> None:
    """Begins this program anew there; only there it returns."""
    if os.environ.pop(INSIDE, None):
        return
    os.environ[INSIDE] = "1"
    program = [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    os.execvp(UNSHARE[0], [*UNSHARE, "bash", "-c", FIRST, "apart", *program])
