"""What every notebook of the course needs and no lesson teaches."""

import os

# A thread that has to wait may spin only briefly before it sleeps: on a machine that
# does something else as well, long spinning makes every training step two to four times
# as slow. Read by the OpenMP runtime when torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
