"""The brute force of APEX+'s rules gives the counts that its own code gives."""

import pytest

from tests.planner.apex import enumerate_plans, llama_70b, mixtral

LLAMA_70B = llama_70b()
MIXTRAL_8X7B = mixtral(32, 4096, 14336, 32)
MIXTRAL_8X22B = mixtral(56, 6144, 16384, 48)


@pytest.mark.parametrize(
    ("model", "devices", "fit", "plans"),
    [
        (LLAMA_70B, 1, 0, 1),
        (LLAMA_70B, 2, 3, 5),
        (LLAMA_70B, 4, 11, 14),
        (LLAMA_70B, 8, 26, 30),
        (LLAMA_70B, 16, 50, 55),
        (LLAMA_70B, 32, 84, 90),
        (MIXTRAL_8X7B, 2, 9, 13),
        (MIXTRAL_8X7B, 4, 49, 58),
        (MIXTRAL_8X7B, 8, 154, 170),
        (MIXTRAL_8X7B, 16, 345, 370),
        (MIXTRAL_8X22B, 8, 103, 170),
        (MIXTRAL_8X22B, 16, 266, 369),
    ],
)
def test_counts_are_those_of_apex(model, devices, fit, plans):
    found = list(enumerate_plans(devices, *model))
    assert (sum(plan.fits for plan in found), len(found)) == (fit, plans)


@pytest.mark.parametrize(("model", "fit"), [(MIXTRAL_8X7B, 46), (MIXTRAL_8X22B, 35)])
def test_without_the_fictitious_cell_mixtral_has_50_plans(model, fit):
    """170 counts the dense MLP that Mixtral does not have; attention and experts alone allow 50."""
    layers, (attention, _, experts) = model
    found = list(enumerate_plans(8, layers, [attention, experts]))
    assert (sum(plan.fits for plan in found), len(found)) == (fit, 50)
