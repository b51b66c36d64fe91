"""Runs a command, and prints as JSON what it took: `python tests/benchmarks/loop/peak.py COMMAND ...`.

It is a small process, since Linux counts as memory of a command also that of the one which starts it.
"""

import json
import os
import subprocess
import sys
import time

if __name__ == "__main__":
    began = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    seconds, unit = time.perf_counter() - began, 2**20 if sys.platform == "darwin" else 2**10
    took = {"seconds": seconds, "mib": usage.ru_maxrss / unit, "said": said, "code": os.waitstatus_to_exitcode(status)}
    print(json.dumps(took))
