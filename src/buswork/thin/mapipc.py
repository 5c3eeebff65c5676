"""mapipc: the original's command line, with its options, outputs and exit codes, typos included.

It differs in two things: it does not wait for ever for a daemon that does not answer, and in the
temporary directory it talks to nobody but root, the daemon's user and oneself, unless told to (-p).
"""

import os
import sys

from buswork.thin import wire

VERSION = "1.0 "
PROGRAM = "1.0"  # the original gives itself this name, and complains under it
MORE = "Use `mapipc get` or `mapipc set`. Run `mapipc -h` for more help."
NO_KEY = "Key (-k) argument must be provided for command. Run `mmapipc -h` for more help."
HELP = """\
Usage: mapipc [options] get set
Get and set values that every process of this machine shares.

Options:
  -h, --help     Displays help on commandline options.
  --help-all     Displays help including Qt specific options.
  -v, --version  Displays version information.
  -k, --key <key name>            The key; needed by both commands.
  -a, --value <value to be set>   The value; without it, or when it is empty, set clears the key.
  -p, --port <socket name>        Another socket, by path or by name in the temporary directory.

Arguments:
  get            Prints the value of a key; nothing when it is not set.
  set            Sets a key to a value. This is what happens without a command, too.
"""

_LONG = {"help": "h", "help-all": "help-all", "version": "v", "key": "k", "value": "a", "port": "p"}
_TAKES_VALUE = "kap"
_KNOWN = "hvkap"


class Failure(Exception):
    """What goes to stderr before the program ends with status 1."""


class Options:
    """The command line, read as the original's parser does."""

    def __init__(self, words: list[str]) -> None:
        self.values: dict[str, str] = {}
        self.positional: list[str] = []
        self._unknown: list[str] = []
        self._words = iter(words)
        problem = ""
        for word in self._words:
            if word == "--":
                self.positional.extend(self._words)
            elif word.startswith("--"):
                problem = self._long(word) or problem
            elif word.startswith("-") and word != "-":
                problem = self._short(word) or problem
            else:
                self.positional.append(word)
        if self._unknown:
            names = ", ".join(self._unknown)
            text = (
                f"Unknown option '{names}'."
                if len(self._unknown) == 1
                else (f"Unknown options: {names}.")
            )
            raise Failure(f"{PROGRAM}: {text}")
        if problem:
            raise Failure(f"{PROGRAM}: {problem}")

    def _long(self, word: str) -> str:
        name, has_value, value = word[2:].partition("=")
        option = _LONG.get(name, name if name in _KNOWN and len(name) == 1 else "")
        if not option:
            self._unknown.append(name)
            return ""
        if option in _TAKES_VALUE:
            return self._store(option, value) if has_value else self._next(option, word)
        if has_value:
            return f"Unexpected value after '--{name}'."
        return self._store(option, "")

    def _short(self, word: str) -> str:
        """Letters in a row; one that takes a value takes the rest of the word, or the next one."""
        for at, letter in enumerate(word[1:], 2):
            if letter not in _KNOWN:
                self._unknown.append(letter)
            elif letter not in _TAKES_VALUE:
                self._store(letter, "")
                if word[at : at + 1] == "=":
                    return f"Unexpected value after '{word[:at]}'."
            elif word[at:]:
                return self._store(letter, word[at:].removeprefix("="))
            else:
                return self._next(letter, word)
        return ""

    def _next(self, option: str, word: str) -> str:
        value = next(self._words, None)
        if value is None:
            return f"Missing value after '{word}'."
        return self._store(option, value)

    def _store(self, option: str, value: str) -> str:
        self.values[option] = value
        return ""


def main(arguments: list[str] | None = None) -> int:
    try:
        return _run(Options(sys.argv[1:] if arguments is None else arguments))
    except Failure as failure:
        wire.complain(str(failure))
        return 1
    except OSError as error:
        wire.complain(f"{PROGRAM}: {wire.reason(error)}")
        return 1


def _run(options: Options) -> int:
    values, words = options.values, options.positional
    if "v" in values:
        wire.write(f"{VERSION}\n")
        return 0
    if "h" in values or "help-all" in values:
        wire.write(HELP)
        return 0
    if len(words) > 1:
        raise Failure(f"Too many command arguments. {MORE}")
    if words and words[0] not in ("get", "set"):
        raise Failure(f"Unrecognized command arguemnt: {words[0]}. {MORE}")
    if not values.get("k"):
        raise Failure(NO_KEY)
    if not _is_unicode(values["k"] + values.get("a", "")):
        raise Failure(f"{PROGRAM}: The key or the value is not UTF-8.")
    if words == ["get"]:
        return _get(values)
    _exchange(values, wire.SET, wire.set_request(values["k"], values.get("a", "")))
    return 0  # whatever the answer is


def _get(values: dict[str, str]) -> int:
    reply = _exchange(values, wire.GET, wire.get_request(values["k"]))
    text = wire.string_of(reply)
    wire.write(_unusual(reply) if text is None else text)
    return 0


def _unusual(reply: bytes) -> str:
    """The string in an answer that is not laid out as usual; nothing for other values."""
    shown = reply.decode(errors="replace")
    try:
        members = wire.members_of(reply)
    except ValueError:
        raise Failure(f"Response from daemon is malformed: {shown}") from None
    if isinstance(members, list):
        raise Failure(f"Response from daemon does not follow expected protocol: {shown}")
    if not isinstance(members, dict):
        raise Failure(f"Response from daemon is malformed: {shown}")
    if "value" not in members:
        raise Failure(f"Response from daemon does not contain value member: {shown}")
    value = members["value"]
    return value if isinstance(value, str) else ""


def _ask(port: str | None, name: str, request: bytes) -> bytes:
    """Of whoever was named; else of the daemon, or of the original where it has no socket."""
    if port is not None:
        path = port if port.startswith("/") else wire.original_place(port)
        return wire.exchange(path, request)
    path = wire.place(name)
    if os.environ.get(name.upper()) or os.path.exists(path):
        return wire.exchange(path, request)
    # Anybody may take a name in a directory where everybody writes.
    return wire.exchange(wire.original_place(name), request, _trusted())


def _trusted() -> set[int]:
    """Root, the daemon's user, and ourselves."""
    import pwd

    uids = {0, os.geteuid()}
    try:
        uids.add(pwd.getpwnam("buswork").pw_uid)
    except KeyError:
        pass
    return uids


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _exchange(values: dict[str, str], name: str, request: bytes) -> bytes:
    try:
        return _ask(values.get("p"), name, request)
    except wire.Untrusted as error:
        raise Failure(f"error: {error}; to use it all the same, name it (-p)") from None
    except FileNotFoundError:
        reason = "Invalid name"
    except ConnectionRefusedError:
        reason = "Connection refused"
    except PermissionError:
        reason = "Access denied"
    except OSError as error:
        reason = wire.reason(error)
    raise Failure(f"error: QLocalSocket::connectToServer: {reason}")


if __name__ == "__main__":
    sys.exit(main())
