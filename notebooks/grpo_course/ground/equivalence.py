"""Are two short expressions equal? math-verify decides, in bounded time.

math-verify bounds its own time with `signal.alarm`, which works in a process's main
thread only, cannot stop one long operation on huge integers, and counts the time that
other programs take. So it runs in a process of its own (this same file, started as a
script): there it is the main thread, whichever thread asks, its limits are seconds of
its own computing, so that a busy machine gives the same scores as an idle one, and what
it cannot stop the system ends. The process starts with the first question.
"""

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from multiprocessing.connection import wait

ALARM_SECONDS = 0.8  # of computing: the worker gives up by itself and stays alive
CPU_SECONDS = 2  # of computing, at least: it did not notice; the system ends it
KILL_SECONDS = 60  # by the clock: it computes nothing either, and is killed
MEMORY_BYTES = 4 << 30  # address space of the worker
PRECISION = 1e-9  # relative: numbers nearer to each other than this are equal


@lru_cache(maxsize=4096)
def equivalent(guess: str, answer: str) -> bool:
    """Are two expressions (LaTeX or plain, without `$`) equal by math-verify's rules?

    An expression that it cannot read, or not in a second of computing, is not equal.
    Callers bound the length. Not symmetric: "x = 2" is equal to the answer "2".
    """
    return _worker.ask(guess, answer)


class _Worker:
    """One process that answers one question at a time; a lost one is replaced."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process = None

    def ask(self, guess: str, answer: str) -> bool:
        with self.lock:
            self.process = self.process or _start()
            told, reply = self.process.stdout, ""
            try:
                print(json.dumps([guess, answer]), file=self.process.stdin, flush=True)
                if wait([told], KILL_SECONDS):
                    reply = told.readline()
            except OSError:  # the pipe broke: the worker is gone
                pass
            finally:
                if not reply:  # or interrupted: a late reply must not be read next
                    self.stop()
            return reply == "True\n"

    def stop(self):
        process, self.process = self.process, None
        if process:
            process.kill()
            with suppress(OSError):  # what was not yet written
                process.communicate()


def _start() -> subprocess.Popen:
    if find_spec("math_verify") is None:
        advice = "install the packages of the requirements file"
        raise ModuleNotFoundError(f"math-verify is not installed: {advice}.")
    return subprocess.Popen(
        [sys.executable, "-P", __file__],  # -P: our file names shadow nothing
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the trainer, not for the worker
    )


_worker = _Worker()
atexit.register(lambda: _worker.stop())
# In a forked child: the worker and its pipes belong to the parent.
os.register_at_fork(after_in_child=lambda: globals().update(_worker=_Worker()))


class OutOfTime(BaseException):  # not an Exception: math-verify catches those
    pass


def _equal(guess: str, answer: str) -> bool:
    """In the worker: without any limit but those that `_serve` has set."""
    from math_verify import LatexExtractionConfig, parse, verify

    options = {"fallback_mode": "no_fallback", "extraction_mode": "first_match"}
    options |= {"parsing_timeout": None}
    read = [
        parse(f"${t}$", [LatexExtractionConfig()], **options) for t in (answer, guess)
    ]
    if all(read) and all(value[0].is_number and value[0].is_finite for value in read):
        # verify rounds to decimals: 10^{-12} would be equal to 3*10^{-11}
        true, guessed = (value[0] for value in read)
        return abs((guessed - true).evalf()) <= PRECISION * abs(true.evalf())
    return verify(*read, timeout_seconds=None)


def _serve():
    """The worker: one JSON pair [guess, answer] a line in, "True" or "False" out."""
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing else may print there
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no file when it is ended
    with suppress(ValueError, OSError):  # not every system can limit it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    import math_verify  # noqa: F401  before the first question's time runs

    def give_up(signum, frame):
        raise OutOfTime

    signal.signal(signal.SIGPROF, give_up)
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    for line in sys.stdin:
        equal = False
        try:
            signal.setitimer(signal.ITIMER_PROF, ALARM_SECONDS)
            until = int(time.process_time()) + 1 + CPU_SECONDS
            resource.setrlimit(resource.RLIMIT_CPU, (until, most))
            equal = bool(_equal(*json.loads(line)))
        except (Exception, OutOfTime):
            pass  # unreadable or too long: not equal
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(equal, file=replies, flush=True)


if __name__ == "__main__":
    _serve()
