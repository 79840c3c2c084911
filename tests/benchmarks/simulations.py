"""How many plans ``zenith optimize`` simulates before its certificate is complete: what tighter bounds save.

    PYTHONPATH=. python tests/benchmarks/simulations.py

First 1,000 requests of the traces beside the checkout (or in ZENITH_SHARED), roofline. ``docs/bounds.md`` has the
counts.
"""

import time
from dataclasses import replace

from planner.pipeline import optimize
from planner.question import Question
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from tests.benchmarks.tightness import SHARED
from traces.read import read_trace
from traces.transform import first

CONVERSATIONS, CHAT = "AzureLLMInferenceTrace_conv.csv", "apex_llama_lmsys_05.jsonl"
QUESTIONS = (
    ("llama-3.1-70b", 8, CONVERSATIONS, "energy"),
    ("mixtral-8x7b", 8, CONVERSATIONS, "energy"),
    ("llama-3.1-70b", 8, CONVERSATIONS, "latency"),
    ("mixtral-8x7b", 8, CONVERSATIONS, "latency"),
    ("llama-3.1-8b", 4, CHAT, "energy"),
)


def main() -> None:
    print("| model | H100 | trace | objective | plans | simulated | s |\n|---|---|---|---|---|---|---|")
    for model, gpus, name, objective in QUESTIONS:
        trace = first(read_trace(SHARED / name, skip_bad_rows=True).trace, 1000)
        trace = replace(trace, arrival_s=trace.arrival_s - trace.arrival_s[0])
        question = Question(
            model=load_model(model), fleet=homogeneous("h100", gpus=gpus), trace=trace, objective=objective
        )
        start = time.perf_counter()
        found = optimize(question, silicon=False).certificate
        print(
            f"| {model} | {gpus} | {name} | {objective} | {found.feasible} | {found.simulated} "
            f"| {time.perf_counter() - start:.1f} |"
        )


if __name__ == "__main__":
    main()
