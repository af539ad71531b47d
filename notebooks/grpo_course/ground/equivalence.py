"""Ask math-verify whether two short expressions are equal, in bounded time.

math-verify bounds its own time with `signal.alarm`, which works in a process's main
thread only, cannot stop one long operation on huge integers, and counts the time that
other programs take. So it runs in a process of its own (this same file, started as a
script): there it is the main thread, whichever thread asks, its limits are seconds of
its own computing, so that a busy machine gives the same scores as an idle one, and what
it cannot stop the system ends.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec

ALARM_SECONDS = 0.8  # of computing: the worker gives up by itself and stays alive
CPU_SECONDS = 2  # of computing, at least: it did not notice; the system ends it
KILL_SECONDS = 20  # by the clock: it computes nothing either; killed and replaced
START_SECONDS = 60  # importing sympy takes about a second on an idle machine
PRECISION = 1e-9  # relative: numbers nearer to each other than this are equal
MEMORY_BYTES = 4 << 30  # address space of the worker, where the system can limit it


class _Worker:
    """One process that answers one question at a time; started at the first."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process = None
        self.ready = False

    def ask(self, guess: str, answer: str) -> bool:
        with self.lock:
            try:
                if self.process is None:
                    self._start()
                if not self.ready:
                    self.ready = self._read_line(START_SECONDS) == "ready\n"
                self.process.stdin.write(json.dumps([guess, answer]) + "\n")
                self.process.stdin.flush()
                reply = self._read_line(KILL_SECONDS)
            except OSError:  # the pipe broke: the worker is gone
                reply = ""
            except BaseException:  # interrupted: a late reply must not be read next
                self.stop()
                raise
            if not reply:
                self.stop()
                with suppress(OSError):
                    self._start()  # loads while the caller goes on
            return reply == "True\n"

    def _start(self):
        if find_spec("math_verify") is None:
            raise ModuleNotFoundError(
                "math-verify is not installed: install the packages of the "
                "requirements file, or run `pip install math-verify[antlr4_13_2]`."
            )
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__],  # -P: our file names shadow nothing
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the trainer, not for the worker
        )

    def _read_line(self, seconds: float) -> str:
        """The worker's next line, or "" where it died or had to be killed."""
        begun = time.monotonic()
        timer = threading.Timer(seconds, self.process.kill)
        timer.daemon = True
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        timer.join()
        return line if time.monotonic() - begun < seconds else ""

    def stop(self):
        process, self.process, self.ready = self.process, None, False
        if process is not None:
            process.kill()
            process.wait()
            with suppress(OSError):
                process.stdin.close()
            process.stdout.close()


_worker = _Worker()


@atexit.register
def _stop_worker():
    _worker.stop()


def _forget_worker():
    """In a forked child: the worker and its pipes belong to the parent."""
    global _worker
    _worker = _Worker()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_worker)


@lru_cache(maxsize=4096)
def equivalent(guess: str, answer: str) -> bool:
    """Are two expressions (LaTeX or plain, without `$`) equal by math-verify's rules?

    An expression that it cannot read, or not in a second of computing, is not equal.
    Callers bound the length. Not symmetric: "x = 2" is equal to the answer "2".
    """
    return _worker.ask(guess, answer)


def _serve():
    """The worker: one JSON pair [guess, answer] a line in, "True" or "False" out."""
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing else may print there
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no file when it is ended
    from math_verify import LatexExtractionConfig, parse, verify

    class OutOfTime(BaseException):  # not an Exception: math-verify catches those
        pass

    def give_up(signum, frame):
        raise OutOfTime

    def read(text):
        return parse(
            f"${text}$",
            [LatexExtractionConfig()],
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )

    can_alarm = hasattr(signal, "setitimer")  # elsewhere the parent's kill is enough
    if can_alarm:
        signal.signal(signal.SIGPROF, give_up)
        most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        equal = False
        try:
            if can_alarm:
                signal.setitimer(signal.ITIMER_PROF, ALARM_SECONDS)
                until = int(time.process_time()) + 1 + CPU_SECONDS
                resource.setrlimit(resource.RLIMIT_CPU, (until, most))
            guess, answer = map(read, json.loads(line))
            numbers = [texts[0] for texts in (guess, answer) if texts]
            if len(numbers) == 2 and all(n.is_number and n.is_finite for n in numbers):
                # verify rounds to decimals: 10^{-12} would be equal to 3*10^{-11}
                distance, true = abs((numbers[0] - numbers[1]).evalf()), abs(numbers[1])
                equal = bool(distance <= PRECISION * true.evalf())
            else:
                equal = verify(answer, guess, timeout_seconds=None)
        except (Exception, OutOfTime):
            pass  # unreadable or too long: not equal
        finally:
            if can_alarm:
                signal.setitimer(signal.ITIMER_PROF, 0)
        print(equal is True, file=replies, flush=True)


if __name__ == "__main__":
    _serve()
