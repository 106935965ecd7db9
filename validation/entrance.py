"""Where the command `cascade` begins: until all of it is loaded, Ctrl-C ends it without a word."""

from __future__ import annotations

import signal
import sys

# What a shell reports of a program that Ctrl-C ended (128 + SIGINT).
INTERRUPTED = 130


def main() -> None:
    """Load the command line and run it; an interrupt leaves no traceback, whether it comes before or after."""
    asked = signal.getsignal(signal.SIGINT)
    # A program in the background (`nohup cascade ... &`) is told to ignore interrupts, and goes on doing so.
    ours = asked is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main as run

    if ours:
        signal.signal(signal.SIGINT, asked)
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
