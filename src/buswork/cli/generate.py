"""Man pages and completions, made from the parsers: python -m buswork.cli.generate KIND DIR

KIND is man, bash, zsh or fish. Needs argparse-manpage and shtab, which nothing else imports.
"""

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from buswork import __version__
from buswork.flipper.wire.modules import TABLES

PROGRAMS = {
    "buswork": ("buswork.cli.parser", "1", "talk to busworkd"),
    "busworkd": ("buswork.daemon", "8", "four small IPC worlds on the D-Bus system bus"),
    "buswork-appview": ("buswork.appviewd", "8", "processes under AppView on the D-Bus system bus"),
    "buswork-doors": ("buswork.doors", "8", "has the IP sockets of busworkd"),
    "buswork-agent": ("buswork.fsct.agent", "1", "shows a user's media players on displays"),
}
# Programs without a parser: what they say of themselves is all that there is to tell.
SMALL_PROGRAMS = {
    "globstash": ("buswork.thin.globstash", "1"),
    "mapipc": ("buswork.thin.mapipc", "1"),
    "buswork-probe-fsct": ("buswork.fsct.probe", "8"),
}
_FILES = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}
KINDS = ("man", *_FILES)

# Keys are other people's text, and what a completion offers lands on a command line. So only
# those are offered that no shell sees anything in, and that are no option.
_HARMLESS = "grep -E '^[A-Za-z0-9_.][A-Za-z0-9_./@%+,-]*$'"
# What is offered, and the command that lists it.
_LISTS = {
    "keys": f"buswork store list 2>/dev/null | {_HARMLESS}",
    "boards": f"buswork flipper list 2>/dev/null | sed '1d; s/[* ].*//' | {_HARMLESS}",
    "services": f"buswork ipc list --direct 2>/dev/null | sed '1d; s/ .*//' | {_HARMLESS}",
    "processes": "buswork view ps --all 2>/dev/null | sed '1d; s/^[0-9]* *//; s/ .*//'",
    "modules": "printf '%s\\n' "
    + " ".join(dict.fromkeys(name for table in TABLES.values() for name in table.modules)),
}


def _offered(what: str) -> dict[str, str]:
    name = f"_buswork_{what}"
    return {"bash": name, "zsh": name, "fish": f"({name})"}


_FILES_OF = {"bash": "_shtab_compgen_files", "zsh": "_files", "fish": "(__fish_complete_path)"}
_FUNCTIONS = {
    "bash": """\
_buswork_{what}() {{
  local word
  while IFS= read -r word; do
    [[ $word == "$1"* ]] && printf '%s\\n' "$word"
  done < <({list})
}}
""",
    "zsh": """\
_buswork_{what}() {{
  local -a words
  words=("${{(@f)$({list})}}")
  compadd -a words
}}
""",
    "fish": """\
function _buswork_{what}
  {list}
end
""",
}
_COMPLETED_AS = {
    **dict.fromkeys(("key", "keys", "prefix", "words"), _offered("keys")),
    "board": _offered("boards"),
    "process": _offered("processes"),
    "module": _offered("modules"),
    **dict.fromkeys(("service", "a", "b"), _offered("services")),
    **dict.fromkeys(("file", "image"), _FILES_OF),
}


def parser_of(program: str) -> argparse.ArgumentParser:
    """The daemon's parser is found by name: commands do not import the daemon."""
    from argparse_manpage.tooling import get_parser  # type: ignore[import-untyped]

    module, _, _ = PROGRAMS[program]
    parser: argparse.ArgumentParser = get_parser("import", module, "make_parser", "function")
    return parser


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The actions of a parser and of all below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from actions_of(child)


def man_page(program: str) -> str:
    from argparse_manpage.manpage import Manpage  # type: ignore[import-untyped]

    _, section, summary = PROGRAMS[program]
    data = {
        "prog": program,
        "project_name": "buswork",
        "version": __version__,
        "description": summary,
        "manual_section": section,
        "manual_title": "buswork",
    }
    text = str(Manpage(parser_of(program), format="single-commands-section", _data=data))
    # Epilogs land under COMMENTS; that of the command is what man pages call this:
    return text.replace(".SH COMMENTS\nexit status:\n", ".SH EXIT STATUS\n.nf\n")


def small_man_page(program: str) -> str:
    module, section = SMALL_PROGRAMS[program]
    said = importlib.import_module(module)
    first, _, rest = (said.__doc__ or "").partition("\n")
    summary = first.removeprefix(f"{program}: ").rstrip(".")
    usage = "".join(getattr(said, name, "") for name in ("USAGE", "HELP"))
    parts = {
        "NAME": f"{program} \\- {_roff(summary)}",
        "DESCRIPTION": f".nf\n{_roff(f'{usage}{rest}'.strip())}\n.fi",
        "SEE ALSO": ".BR buswork (1)",
    }
    head = f'.TH {program.upper()} {section} "" "buswork {__version__}" buswork\n'
    return head + "".join(f".SH {name}\n{text}\n" for name, text in parts.items())


def _roff(text: str) -> str:
    """As it is: a point or an apostrophe begins a command, a dash may be broken at."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub("^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def completion(program: str, shell: str) -> str:
    import shtab

    parser = parser_of(program)
    for action in actions_of(parser):
        complete = _COMPLETED_AS.get(action.dest)
        if complete is not None:
            setattr(action, "complete", complete)  # noqa: B010 (shtab looks for this)
    functions = (_FUNCTIONS[shell].format(what=what, list=_LISTS[what]) for what in _LISTS)
    preamble = "".join(functions) if program == "buswork" else ""
    text: str = shtab.complete(parser, shell, preamble=preamble)
    return text


def texts(kind: str) -> Iterator[tuple[str, str]]:
    """The name and the text of each file of a kind."""
    for program, (_, section, _) in PROGRAMS.items():
        if kind == "man":
            yield f"{program}.{section}", man_page(program)
        else:
            yield _FILES[kind].format(program), completion(program, kind)
    if kind == "man":
        for program, (_, section) in SMALL_PROGRAMS.items():
            yield f"{program}.{section}", small_man_page(program)


def write(kind: str, folder: Path) -> list[Path]:
    """Writes what is asked for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in texts(kind):
        files.append(folder / name)
        files[-1].write_text(text)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(prog="buswork.cli.generate", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path, metavar="DIR")
    options = parser.parse_args()
    for file in write(options.kind, options.folder):
        print(file)


if __name__ == "__main__":
    main()
