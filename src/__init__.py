"""Diffusion models in Lightning and Hydra."""

import os

__version__ = "0.2.0"

# What says how OpenMP's threads wait for each other, in GNU's, LLVM's and Intel's runtimes; read when torch is loaded.
THREAD_WAIT = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# GNU's spin for milliseconds and so hold the core that the thread they wait for needs, wherever another program runs:
# a fraction of that costs an idle machine nothing, and a busy one not nine tenths of its speed.
# The figures are in docs/performance.md, "Beside other programs".
if not any(name in os.environ for name in THREAD_WAIT):
    os.environ["GOMP_SPINCOUNT"] = "5000"
