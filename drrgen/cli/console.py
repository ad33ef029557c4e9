"""What all commands share: where words go, and how errors become exit codes.

Results go to stdout, everything else to stderr, so commands can be piped.
"""

import errno
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import typer
from rich.console import Console
from rich.logging import RichHandler

from drrgen.errors import DrrgenError, EngineError, InputError

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)


class ExitCode(IntEnum):
    """What the shell sees."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    SOME_FAILED = 3
    INTERRUPTED = 130


def set_up_logging(verbose: int, log_file: Path | None) -> None:
    """Send drrgen's log to stderr, and to a file when one is named.

    Args:
        verbose: -1 errors only, 0 warnings, 1 one line a study, 2 every step.
        log_file: Gets every line from one a study upwards, with its time.
    """
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logger, *others = map(logging.getLogger, ("drrgen", "drrgen_pipelines", "drrgen_training"))
    screen = RichHandler(console=stderr, show_time=False, show_path=False, rich_tracebacks=False)
    screen.setLevel(level)
    handlers: list[logging.Handler] = [screen]
    if log_file is not None:
        handlers.append(_open_log(log_file))
    for old in logger.handlers:
        old.close()  # of an earlier command in this process
    for each in (logger, *others):
        each.handlers = handlers
        each.setLevel(min(level, logging.INFO))
        each.propagate = False


def _open_log(path: Path) -> logging.Handler:
    """Open the log file, appending."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write the log file {path}: {error.strerror}; give another --log-file"
        ) from error
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


@contextmanager
def exit_on_error(*, resumes: bool = True) -> Iterator[None]:
    """Turn what drrgen raises on purpose into one sentence and an exit code.

    SIGTERM, which a batch system sends before it kills, ends a command as Ctrl-C does.

    Args:
        resumes: Whether the same command goes on where it was interrupted, or begins again.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as error:
        then = "goes on where this one stopped" if resumes else "begins again"
        stderr.print(f"interrupted; the same command {then}")
        raise typer.Exit(ExitCode.INTERRUPTED) from error
    except BrokenPipeError as error:
        # The reader of our output has gone (head, less): that is no error of ours.
        sys.stderr.close()
        raise typer.Exit(ExitCode.DONE) from error
    except InputError as error:
        _say_error(error)
        raise typer.Exit(ExitCode.USAGE) from error
    except (DrrgenError, OSError) as error:
        _say_error(error)
        raise typer.Exit(ExitCode.ERROR) from error
    except Exception as error:
        from drrgen.io.stores import is_store_error

        if not is_store_error(error):
            raise
        told = f"the store does not answer as it should: {type(error).__name__}: {error}"
        _say_error(EngineError(f"{told}; the same command goes on when it does"))
        raise typer.Exit(ExitCode.ERROR) from error


def _say_error(error: Exception) -> None:
    """Say an error in plain words; its traceback only with -vv."""
    is_full = isinstance(error, OSError) and error.errno in _FULL
    then = (
        "; make room there, or write elsewhere, and run the same command again" if is_full else ""
    )
    stderr.print(f"[bold red]error:[/] {_escape(str(error))}{then}")
    log.debug("traceback", exc_info=error)


def _escape(text: str) -> str:
    """Keep rich from reading brackets in a message as markup."""
    return text.replace("[", r"\[")


def read_version() -> str:
    """Look up the installed version, without importing the package's insides."""
    from importlib.metadata import version

    return version("drrgen")
