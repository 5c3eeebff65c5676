"""What an exit status means, in one place: for the code, the help and the man page."""

import enum


class Exit(enum.IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    DENIED = 4
    TIMED_OUT = 5
    NOT_SET = 6
    LOST = 7
    GAP = 8
    WARNINGS = 9
    BROKEN = 10
    INTERRUPTED = 130
    NOBODY_READS = 141


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "failed; stderr names the error",
    Exit.USAGE: "the command line was not understood",
    Exit.NOT_RUNNING: "the daemon, or the service, is not running, or went away",
    Exit.DENIED: "access denied, or a password is needed and can't be asked for",
    Exit.TIMED_OUT: "timed out",
    Exit.NOT_SET: "a key is not set (get and delete: only with --require)",
    Exit.LOST: "set --if-revision: somebody else changed the key before",
    Exit.GAP: "watch: changes were missed; read the values again",
    Exit.WARNINGS: "doctor: all works that was looked at, but there are warnings",
    Exit.BROKEN: "doctor: something does not work",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
    Exit.NOBODY_READS: "nobody reads stdout any more",
}


def epilog() -> str:
    lines = [f"  {code.value:<3}  {meaning}" for code, meaning in MEANINGS.items()]
    return "exit status:\n" + "\n".join(lines)
