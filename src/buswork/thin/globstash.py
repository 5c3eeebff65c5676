"""globstash: sets and gets values that every process of this machine shares.

Text is printed as it is; whatever a C string can't be (a number, a list, text with NUL or half of
a character) as its JSON, without blanks.

Exit status: 0 done, and also for a key that is not set; 1 refused, or no daemon; 2 wrong arguments.
"""

import sys

from buswork.thin import wire

USAGE = """\
usage: globstash set KEY VALUE    an empty VALUE clears KEY
       globstash get KEY          nothing when KEY is not set
"""


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    try:
        match words:
            case ["set", key, value] if key:
                return _set(key, value)
            case ["get", key] if key:
                return _get(key)
            case ["-h" | "--help"]:
                wire.write(USAGE)
                return 0
            case _:
                wire.complain(USAGE.rstrip())
                return 2
    except (OSError, ValueError) as error:
        wire.complain(f"globstash: {wire.printable(wire.reason(error))}")
        return 1


def _set(key: str, value: str) -> int:
    request = wire.set_request(key, value)
    if wire.exchange(wire.place(wire.SET), request) == request:
        return 0
    wire.complain(f"globstash: {wire.printable(key)} was not set: refused, see the daemon's log")
    return 1


def _get(key: str) -> int:
    reply = wire.exchange(wire.place(wire.GET), wire.get_request(key))
    text = wire.string_of(reply)
    if text is None or not wire.is_text(text):
        return _get_other(reply)
    wire.write(text)
    return 0


def _get_other(reply: bytes) -> int:
    """What is no plain string: not set, refused, or JSON, which is shown as it is."""
    try:
        members = wire.members_of(reply)
    except ValueError:
        members = None
    if not isinstance(members, dict) or "value" not in members:
        reason = members.get("message") if isinstance(members, dict) else None
        wire.complain(f"globstash: {wire.printable(str(reason or 'the answer makes no sense'))}")
        return 1
    value = members["value"]
    if isinstance(value, str) and wire.is_text(value):
        wire.write(value)
    elif value is not None:
        wire.write(wire.compact_value(reply))
    return 0


if __name__ == "__main__":
    sys.exit(main())
