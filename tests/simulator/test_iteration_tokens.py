"""No iteration holds more tokens than memory for activations is set aside for; some hold as many."""

import numpy as np
import pytest

from planner.layouts import longest_of
from profiles.memory import iteration_tokens
from profiles.plan import POLICIES
from tests.profiles.handmade import LLAMA_8B, T5
from tests.simulator import reference, steps


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_iteration_holds_more_tokens_than_memory_is_kept_for(policy, preemption, monkeypatch):
    largest = [0]
    form = reference.Replica.form

    def formed(self, slot, now):
        batch, moved = form(self, slot, now)
        largest.append(max(batch.tokens(rank) for rank in range(self.step.ranks)))
        return batch, moved

    monkeypatch.setattr(reference.Replica, "form", formed)
    rng, equal, recomputed = np.random.default_rng(3), 0, 0
    for _ in range(80):
        case = steps.random_case(rng, policy=policy, preemption=preemption, token_budget=6)
        longest = longest_of(case.trace)
        del largest[1:]
        reference.simulate(**case.arguments)
        most = iteration_tokens(LLAMA_8B if case.step.chunkable else T5, case.engine, longest)
        assert max(largest) <= most
        equal += max(largest) == most
        recomputed += policy == "vllm-v0" and max(largest) > max(6, longest.prompt)
    if policy == "vllm-v0" and preemption == "recompute":
        assert recomputed > 0
    else:
        assert equal > 0
