"""How does a run that is told to stop still leave a report?

pytest handles Ctrl-C. SIGTERM, which batch systems and CI services send, would end it without a
word; for runs with claims it is turned into the same.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from mechtest.plugin.session import ClaimSession

__all__ = ["interrupt_on_sigterm", "restore_sigterm"]


def interrupt_on_sigterm(session: ClaimSession) -> None:
    """Take SIGTERM as Ctrl-C, unless somebody else handles it already."""
    if threading.current_thread() is not threading.main_thread():
        return
    if session.terminable or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    session.terminable = True
    signal.signal(signal.SIGTERM, _interrupt)


def restore_sigterm(session: ClaimSession) -> None:
    """Leave SIGTERM as it was."""
    if session.terminable:
        session.terminable = False
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt("SIGTERM")
