"""Seconds of an evaluation of an exported model: onnxruntime against eager torch, on the same threads.

    python -m src.export run=RUN format=onnx
    python -m tests.benchmarks.export RUN --threads 2

The two take turns, so that other programs slow both. An evaluation is that of the graph: guidance included.
"""

import argparse
import statistics
import time
from pathlib import Path

import onnxruntime
import torch

from src.api import load
from src.formats.tracing import TracedDenoiser, named_cond


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run with exports/onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(args.run / "exports/onnx/model.onnx", options)
    pipeline = load(args.run)
    denoise = TracedDenoiser(pipeline).eval()
    print("| batch | eager torch, ms | onnxruntime, ms | ratio |\n|---|---|---|---|")
    for n in args.batch_sizes:
        x, t = torch.randn(n, *pipeline.shape), torch.full((n,), 0.5, dtype=torch.float64)
        cond = named_cond(pipeline.conditions(range(n)))
        given = {"x_t": x.numpy(), "t": t.numpy(), **{name: value.numpy() for name, value in cond.items()}}
        seconds: dict[str, list[float]] = {"torch": [], "onnx": []}
        for _ in range(args.rounds):
            with torch.inference_mode():
                began = time.perf_counter()
                denoise(x, t, cond)
                seconds["torch"].append(time.perf_counter() - began)
            began = time.perf_counter()
            session.run(["x_0"], given)
            seconds["onnx"].append(time.perf_counter() - began)
        torch_ms, onnx_ms = (1000 * statistics.median(seconds[name][2:]) for name in ("torch", "onnx"))
        print(f"| {n} | {torch_ms:.2f} | {onnx_ms:.2f} | {torch_ms / onnx_ms:.2f} |")


if __name__ == "__main__":
    main()
