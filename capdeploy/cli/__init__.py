"""The door: one file per command, loaded when it is called. Nothing heavy is imported here."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from capdeploy import __version__, patience
from capdeploy.cli._output import aside, leave_stdout
from capdeploy.errors import INTERRUPTED, CapdeployError, MissingExtraError, printable

EPILOG = """
\b
Exit codes:
  0    ok
  1    negative verdict (parity, budget, digest or regression)
  2    usage or configuration
  3    environment (extra, device or runtime missing, silent fallback)
  4    a step failed
  5    no answer, under --strict
  130  interrupted
"""


class LazyGroup(click.Group):
    """A group whose commands are files of this folder, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the command files."""
        files = Path(__file__).parent.glob("*.py")
        return sorted(path.stem.rstrip("_") for path in files if not path.stem.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        # A command called `list` lives in list_.py: its file may not hide the builtin.
        suffix = "_" if (Path(__file__).parent / f"{cmd_name}_.py").is_file() else ""
        module = importlib.import_module(f"capdeploy.cli.{cmd_name}{suffix}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Offer the nearest command names for an unknown one."""
        from capdeploy.catalog import nearest

        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            known = tuple(self.list_commands(ctx))
            ctx.fail(f"no command '{args[0]}'; {nearest(args[0], known)}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="capdeploy")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def root(debug: bool) -> None:
    """Cut a trained CNN classifier down to the classes that a device needs.

    Start with: capdeploy compress --demo
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command, and map every way it can stop to one line and an exit code.

    Parameters
    ----------
    arguments : list[str] | None
        The command line without the program's name; None takes that of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words  # anywhere on the line, as the hint of an error suggests
    words = [word for word in words if word != "--debug"]
    # A CI job is ended by SIGTERM; it must clean up as well as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if os.name == "nt":  # processes are bound to cores and watched as POSIX has it
        sys.exit(_stop("Windows is not supported; use Linux, macOS, or WSL on Windows", 3))
    patience.shorten()
    sys.exit(_run(words, debug=debug))


def _run(arguments: list[str], *, debug: bool) -> int:
    try:
        result: Any = root.main(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return _stop("interrupted; nothing half-written stands in the output's place", INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return error.exit_code
    except click.ClickException as error:
        # click lists choices one a line; an error is one line here.
        return _stop(" ".join(error.format_message().split()), error.exit_code)
    except BrokenPipeError:
        leave_stdout()
        return 0
    except Exception as error:  # no traceback reaches a user without --debug
        if debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    if isinstance(error, CapdeployError):
        return _stop(str(error), error.exit_code)
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "a package").partition(".")[0]
        missing = MissingExtraError(package, "compress")
        return _stop(str(missing), missing.exit_code)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return _stop(
            f"{error.strerror or error}{where}; nothing half-written stands in the output's place",
            4,
        )
    line = (str(error).strip().splitlines() or [""])[0]
    return _stop(f"{type(error).__name__}: {line} (a bug? run again with --debug)", 4)


def _stop(message: str, code: int) -> int:
    aside(printable(f"capdeploy: {message}"))
    return code
