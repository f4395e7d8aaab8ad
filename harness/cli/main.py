"""`tdprace`: one command, the same as `python -m harness`.

Commands are imported when they are asked for: help and reports do not pay for numba.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from harness import VERSION
from workloads.errors import TdpraceError

COMMANDS = {
    "stress": "run a workload in real processes",
    "scale": "vCPU-scaling table over counts and policies",
    "explore": "explore a scenario's interleavings, all of them if possible",
    "replay": "replay a reproducer, or tell its story",
    "bugs": "real bugs: list, show, check that each is found, refresh their diffs",
    "mutants": "take away each flush, lock, test or mark in turn: who notices?",
    "results": "list, show and compare stored runs",
    "list": "workloads, scenarios, strategies, policies, oracles and bugs",
    "doctor": "what this machine can run",
}

DESCRIPTION = """\
tdprace runs a faithful model of the Linux KVM TDP MMU, the page tables that map
guest memory, in many processes over shared memory.

  tdprace stress dirty-log -g -v 4 -b 64M -s 2m -w 5 --compare huge-split
  tdprace stress access-trace --trace FILE -v 2
  tdprace explore map-map-same
  tdprace bugs show b17
  tdprace scale dirty-log -g --vcpus 1,2,4,8 -b 64M -s 2m --compare huge-split
"""
EPILOG = """\
exit status: 0 clean, 1 a violation was found, 2 wrong usage or input, 3 this machine
cannot run it, 4 the run failed, 130 interrupted"""


class Parser(argparse.ArgumentParser):
    """Errors are one line: what, where; `--help` has the rest."""

    def error(self, message: str) -> NoReturn:
        """One line, exit status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The whole parser; only the options of the command in `words` are loaded."""
    command = next((word for word in words if not word.startswith("-")), None)
    parser = Parser(
        prog="tdprace",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tdprace {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, text in COMMANDS.items():
        each = commands.add_parser(name, help=text, description=text)
        if name == command:
            import_module(f"harness.cli.{name}").add_arguments(each, words)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run the command, turn foreseen errors into one line and their exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = build_parser(words)
        args = parser.parse_args(words)
        if args.command is None:
            parser.print_help()
            return 0
        args.words = words
        return int(import_module(f"harness.cli.{args.command}").run(args))
    except TdpraceError as error:
        print(f"tdprace: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("tdprace: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (a pager, head): nothing is wrong, but Python would
        # complain when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def script() -> NoReturn:
    """Console script."""
    sys.exit(main())
