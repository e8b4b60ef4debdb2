"""How an engine hears SIGTERM and SIGINT whatever its main thread is doing.

Python calls a signal's handler in the main thread, between two instructions. A signal that comes when the last of these
is over and the system call that it makes has not begun interrupts nothing: where that call waits without end, as for a
pipe into which nobody writes, the handler is never called. A loop's own handlers wait for the loop besides. Here all
threads block both signals, and one thread does nothing but wait for them.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Callable

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def hold_signals_back() -> None:
    """Block them until `hear_signals`, in the main thread and in all that are started from now on.

    To be called before anything is imported that starts threads, as numpy does: a signal goes to any thread that does
    not block it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    # What the second one does; a process that a shell put in the background ignores SIGINT otherwise.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def hear_signals(stop: Callable[[], None], seconds: float) -> None:
    """Call `stop`, in another thread, at the first signal, be it that it came before.

    From then on the process has `seconds`: then it says where all its threads are and exits with 1. A second signal
    ends it at once.
    """
    threading.Thread(target=_hear, args=(stop, seconds), name="signals", daemon=True).start()


def _hear(stop: Callable[[], None], seconds: float) -> None:
    signal.sigwait(_SIGNALS)
    faulthandler.dump_traceback_later(seconds, exit=True)
    stop()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # A thread that has ended would take no signal, and all others block them.
    threading.Event().wait()
