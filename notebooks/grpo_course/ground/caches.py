"""Where compilers keep their work, so that the next notebook starts warm.

The first load with vLLM and the first training step are mostly compiling. All of it is
kept in COURSE_HOME/cache: on a rented machine, where only COURSE_HOME survives, the
second session starts as warm as the second notebook.
"""

import os

from .stages import home

FOLDERS = {
    "UNSLOTH_COMPILE_LOCATION": "unsloth",  # Unsloth's generated trainers
    "UNSLOTH_MEGA_CACHE_DIR": "compiled",  # its compiled training graphs
    "VLLM_CACHE_ROOT": "vllm",  # vLLM's compiled graphs
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",  # kernels that vLLM compiles with nvcc
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}


def keep_caches() -> None:
    """Send the caches to COURSE_HOME/cache; a variable that is set already stays."""
    for variable, folder in FOLDERS.items():
        os.environ.setdefault(variable, str(home() / "cache" / folder))
