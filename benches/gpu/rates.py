"""What PyTorch reaches on this GPU at the shapes of the bench: copies, matrix products, attention. Writes JSON."""

import json
import statistics
import sys

import torch
import torch.nn.functional as F


def seconds(run, repeats=10, runs=7):
    """Median seconds of `run`, by events around `repeats` of them."""
    run()
    found = []
    for _ in range(runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1e3 / repeats)
    return statistics.median(found)


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


rates = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
source, target = (torch.zeros(1 << 30, device="cuda", dtype=torch.uint8) for _ in range(2))
rates["copy_gb_s"] = 2 * (1 << 30) / seconds(lambda: target.copy_(source)) / 1e9
a, b = normal(8192, 8192), normal(8192, 8192)
rates["matmul_tflop_s"] = 2 * 8192**3 / seconds(lambda: a @ b) / 1e12
del source, target, a, b
for rows, cols in [(6144, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]:
    weight = normal(rows, cols)
    for m in [1, 8, 32, 256, 2048]:
        x = normal(m, cols)
        rates[f"linear bf16, {m} x {rows} x {cols}, us"] = seconds(lambda: x @ weight.T) * 1e6
for batch, context in [(1, 8192), (8, 8192), (32, 8192), (128, 2048), (256, 1024)]:
    q, k, v = normal(batch, 32, 1, 128), normal(batch, 8, context, 128), normal(batch, 8, context, 128)
    run = lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    rates[f"decode attention, {batch} x {context}, us"] = seconds(run) * 1e6
for tokens in [2048, 8192]:
    q, k, v = normal(1, 32, tokens, 128), normal(1, 8, tokens, 128), normal(1, 8, tokens, 128)
    run = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    rates[f"prefill attention, {tokens} of {tokens}, us"] = seconds(run) * 1e6
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(rates, file, indent=1)
print(json.dumps(rates, indent=1))
