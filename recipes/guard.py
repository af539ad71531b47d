"""No process waits for ever, and none ends without a sentence."""

import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable


def ends_with_its_parent() -> None:
    """Ask Linux for SIGTERM when the process that started this one ends, however."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


class Guard(threading.Thread):
    """Ends this process when a step takes too long, or when it is asked to stop.

    torchrun asks (SIGTERM) as soon as another process has ended. The main thread may
    then wait inside NCCL, where Python cannot act; a thread that reads what the signal
    writes into a pipe can. `where` gives the end of the sentence: how to go on.
    """

    def __init__(self, who: str, where: Callable[[], str]) -> None:
        super().__init__(daemon=True)
        self.who, self.where, self.over = who, where, threading.Lock()
        self.allow(600, "the start")
        self.asked, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        ends_with_its_parent()
        self.start()

    def allow(self, seconds: float, what: str) -> None:
        """From now on, `what` may take so long; math.inf: as long as it likes."""
        self.seconds, self.what = seconds, what
        self.deadline = time.monotonic() + seconds

    def run(self) -> None:
        while (left := self.deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self.asked], [], [], min(left, 1.0))
            if ready and signal.SIGTERM in os.read(self.asked, 64):
                self.end("was asked to stop: another process ended, or somebody did it")
        self.end(f"gave up: {self.what} took more than {self.seconds:.0f} s")

    def end(self, why: str) -> None:
        """Say it, once, and leave without waiting for anybody."""
        self.over.acquire()  # never released: the other one who wants to is too late
        sentence = f"\n{self.who} {why}. {self.where()}".rstrip(" ")
        print(sentence, file=sys.stderr, flush=True)
        os._exit(1)
