"""What every notebook of the course needs and no lesson teaches."""

import os

# Threads that wait shall sleep, not spin: on a machine that does something else as well,
# spinning made each training step about three times as long. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
