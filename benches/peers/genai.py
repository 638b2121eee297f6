"""One case of OpenVINO GenAI, in this process, without HTTP: `genai.py MODEL THREADS CASE` prints what `load` does."""

import json
import random
import resource
import statistics
import sys
import time

began = time.perf_counter()
import openvino_genai  # noqa: E402  its own start is part of the start

# The words of `load`.
WORDS = ("river stone cloud market engine garden silver window paper winter bridge forest signal copper harbor candle "
         "mirror valley thread ladder pocket orange violin desert").split()
KV_GIB = 2


def words(count):
    return random.choices(WORDS, k=count)


def quantile(samples, q):
    return sorted(samples)[round((len(samples) - 1) * q)] * 1e3 if samples else None


class Pipeline:
    def __init__(self, path, threads):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size, scheduler.enable_prefix_caching = KV_GIB, True
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(path, scheduler, "CPU",
                                                                  {"INFERENCE_NUM_THREADS": threads})
        self.tokenizer = self.pipeline.get_tokenizer()
        self.requests = 0

    def add(self, prompt, tokens):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": " ".join(prompt)}], True)
        self.requests += 1
        return self.tokenizer.encode(text).input_ids.shape[1], self.pipeline.add_request(self.requests, text, config)

    def burst(self, prompts, tokens):
        """All prompts at once: seconds, prompt tokens, and the times at which each got its tokens."""
        start = time.perf_counter()
        added = [self.add(prompt, tokens) for prompt in prompts]
        times = [[] for _ in added]
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            now = time.perf_counter() - start
            for (_, handle), seen in zip(added, times):
                if handle.can_read():
                    seen += [now] * sum(len(output.generated_ids) for output in handle.read().values())
        return time.perf_counter() - start, sum(count for count, _ in added), times


def main():
    model, threads, case = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    random.seed(case["seed"])
    pipeline = Pipeline(model, threads)
    pipeline.burst([["Hello"]], 1)
    start_s = time.perf_counter() - began
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if not case["requests"]:
        print(json.dumps({"start_s": start_s, "peak_mib": peak()}))
        return
    shared = words(case["shared_words"])
    prompts = [shared + words(case["words"] - len(shared)) for _ in range(case["requests"] + case["warm"])]
    for _ in range(case["warm"]):
        pipeline.burst([prompts.pop()], case["max_tokens"])
    wall, tokens_in, first, gaps, rates, tokens_out = 0, 0, [], [], [], 0
    while prompts:
        seconds, count, times = pipeline.burst(prompts[:case["concurrency"]], case["max_tokens"])
        del prompts[:case["concurrency"]]
        wall, tokens_in = wall + seconds, tokens_in + count
        for seen in times:
            tokens_out += len(seen)
            first.append(seen[0])
            gaps += [b - a for a, b in zip(seen, seen[1:])]
            if len(seen) > 1:
                rates.append((len(seen) - 1) / (seen[-1] - seen[0]))
    print(json.dumps({
        "requests": len(first), "errors": 0, "wall_s": wall, "in_rate": tokens_in / wall, "out_rate": tokens_out / wall,
        "stream_rate": statistics.median(rates) if rates else None,
        "ttft_p50_ms": quantile(first, 0.5), "ttft_p99_ms": quantile(first, 0.99),
        "gap_p50_ms": quantile(gaps, 0.5), "gap_p99_ms": quantile(gaps, 0.99), "start_s": start_s,
        "peak_mib": peak()}))


main()
