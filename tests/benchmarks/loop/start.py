"""Seconds until an image folder is ready: `python -m tests.benchmarks.loop.start FOLDER INDEX CACHE_GB`."""

import sys
import time

from src.data.image_folder import ImageFolder

if __name__ == "__main__":
    root, index, gigabytes = sys.argv[1:]
    began = time.perf_counter()
    ImageFolder(root, cache_gb=float(gigabytes), index=index).setup()
    print(time.perf_counter() - began)
