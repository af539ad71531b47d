"""What every notebook of the course needs and no lesson teaches."""

import os

from .ground.caches import keep_caches

# A thread that has to wait may spin only briefly before it sleeps: on a machine that
# does something else as well, long spinning makes every training step two to four times
# as slow. Read by the OpenMP runtime when torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
keep_caches()  # read by unsloth, triton and vLLM when they load
