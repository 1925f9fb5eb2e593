"""The command ``bitnetc``: ``python -m bitnetc`` and the script of the package."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from . import _bitnetc


def main() -> NoReturn:
    """Runs the command with the words of the process, and ends with its exit code."""
    # The command handles signals itself. Python would raise KeyboardInterrupt for one that is dealt with.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_bitnetc.command(["bitnetc", *sys.argv[1:]], [sys.executable, "-m", "bitnetc"]))


if __name__ == "__main__":
    main()
