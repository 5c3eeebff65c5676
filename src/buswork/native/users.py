"""Users, as they are named on a command line."""

import argparse
import pwd


def uid_of(text: str) -> int:
    """By name or number."""
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"there is no user {text!r}") from error
