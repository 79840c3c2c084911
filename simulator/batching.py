"""Batching policies: who runs in the next iteration. Exact semantics; ``simulator.kernel`` executes them.

Common to all. A scheduling step of a micro-batch happens when its previous iteration has left the last
pipeline stage. Requests that have arrived wait in one queue per model replica, ordered by arrival
(``fcfs``) or by prompt length, then arrival (``sjf``); the head of the queue blocks those behind it. An
attention rank runs at most ``max_seqs`` sequences per micro-batch; with several ranks a request goes to
the rank that runs fewest (lowest number on ties) and can take it. The iteration that completes a prompt
emits its first token; each decode emits one. Decoding token k + 1 needs KV room for prompt + k tokens.

============  ==================  ==================  =====================  ======================  ==========
policy        admits when         prefill             mixes prefill, decode  KV of a new request     preempts
============  ==================  ==================  =====================  ======================  ==========
static        its batch is empty  whole prompts       no                     longest request, until  never
                                                                             the batch ends
orca          every step          whole prompts       yes                    longest request         never
vllm-v0       every step, before  whole prompts       no: a step with new    its prompt, keeping     last
              decodes             (several, <= token  requests is prefill    the watermark free      admitted
                                  budget)             only
sarathi       after decodes and   chunks fill the     yes                    its whole prompt,       last
              running chunks      token budget                               keeping the watermark   admitted
vllm-v1       as sarathi          chunks fill the     yes                    its whole prompt        last
                                  token budget                                                       admitted
============  ==================  ==================  =====================  ======================  ==========

Whole prompts: together they stay within the token budget, but a single longer prompt runs alone.
Preemption takes the sequence of the same micro-batch and rank that was admitted last. ``recompute``
frees its KV and queues it again; its prompt and the tokens generated so far are then one prefill.
``swap`` moves its KV to the host and back (its time is added to the iteration); while a sequence is
swapped out nothing new is admitted. After a preemption nothing is admitted in that step.

Differences from the engines, stated: preempted requests return to the queue by their own arrival, which
is its front under ``fcfs``; a micro-batch of a pipeline keeps its sequences for life and preempts only
among them; vLLM V1 checks that a prompt fits and then takes its blocks chunk by chunk, here they are taken
at once; reserved lengths are those of the longest request of the trace.
"""

STATIC, ORCA, VLLM_V0, SARATHI, VLLM_V1 = range(5)

POLICY_CODE = {
    "static": STATIC,
    "orca": ORCA,
    "vllm-v0": VLLM_V0,
    "sarathi": SARATHI,
    "vllm-v1": VLLM_V1,
}
