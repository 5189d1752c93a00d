"""The console script: signals, standard streams and warnings are settled before anything slow is imported.

A signal that ends the program raises KeyboardInterrupt once, so that files are put away; whatever happens after it, the
exit code is 128 plus the signal's number. The process then ends without waiting for threads that compute.
"""

from __future__ import annotations

import codecs
import io
import locale
import os
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

PATIENCE = 1.0  # seconds for putting away; a signal after that ends the process at once
AGAIN = 0.01  # seconds until an interrupt is raised again that Python could not pass on


class Signals:
    """Which signal has come, if any. One that was ignored when the program began, as with nohup, stays so."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._watched: list[int] = []

    def watch(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._stop)
                self._watched.append(number)
        sys.unraisablehook = self._lost

    def ignore(self) -> None:
        """From now on: the work is done."""
        for number in self._watched:
            signal.signal(number, signal.SIG_IGN)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self._since > PATIENCE:
            os._exit(128 + self.received)

    def _lost(self, args: Any) -> None:
        """An exception in a finalizer, which Python prints and forgets: no news for who runs a command."""
        if self.received is None or not issubclass(args.exc_type, KeyboardInterrupt):
            if "--debug" in sys.argv:
                sys.__unraisablehook__(args)
            return
        number, self.received = self.received, None
        signal.signal(signal.SIGALRM, lambda _, frame: self._stop(number, frame))
        signal.setitimer(signal.ITIMER_REAL, AGAIN)


class Stdout(io.TextIOWrapper):
    """Standard output whose errors say that they are of it; characters that its encoding lacks become "?"."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            error.filename = error.filename or "stdout"
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            error.filename = error.filename or "stdout"
            raise


def open_streams() -> None:
    """Give each closed standard stream a file, or the next file that is opened would take its place.

    Reading or writing such a one is an error, except on stderr.
    """
    for number, name, mode in ((0, "stdin", os.O_WRONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        sys.stdout = Stdout(out.detach(), encoding=out.encoding, errors="replace", line_buffering=out.line_buffering)


def read_utf_8() -> None:
    """Libraries that name no encoding read their own files as UTF-8, whatever the locale is: torch's compiler does."""
    if os.name == "posix" and codecs.lookup(locale.getencoding()).name != "utf-8":
        with suppress(locale.Error):  # where there is no such locale
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


def quiet_warnings() -> None:
    """Of warnings only slant's own are shown, a line each; those of libraries are no news for who runs a command."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from slant.cli.output import say

    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"slant(_kernels)?\b")
    warnings.showwarning = lambda message, *_: say(str(message))


def check_working_folder() -> None:
    """Exit if the working folder was deleted: MKL would end the process in the middle of a product."""
    try:
        Path.cwd()
    except FileNotFoundError:
        from slant.cli.output import say

        say("the working folder was deleted; change to one that exists.")
        sys.exit(2)


def main() -> NoReturn:
    """Run ``sys.argv`` and exit with its code."""
    signals = Signals()
    code = 0
    try:
        signals.watch()
        open_streams()
        read_utf_8()
        quiet_warnings()
        check_working_folder()
        from slant.cli.pools import limit_pools

        limit_pools()
        from slant.cli.app import INTERRUPTED, run

        code = run(sys.argv[1:], lambda: signals.received is not None)
        signals.ignore()
        if signals.received is not None and code != INTERRUPTED:  # a library swallowed it
            raise KeyboardInterrupt
    except BaseException:
        if signals.received is None:
            raise
        from slant.cli.output import say

        say("interrupted.")
    if signals.received is not None:
        os._exit(128 + signals.received)
    try:
        sys.stdout.flush()
    except OSError:
        # The error was reported by run; the flush at exit must not report it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)
