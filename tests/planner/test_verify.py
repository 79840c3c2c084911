"""The certificate is a theorem: whatever the bounds are, what was skipped cannot win."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.verify import WAVE, Bounded, verify

PLANS = st.lists(
    st.tuples(st.floats(0, 100), st.floats(0, 50), st.booleans()),  # score, slack of the bound, meets SLOs
    min_size=1,
    max_size=30,
)


def search(plans, **options):
    seen = []

    def simulate(i):
        seen.append(i)
        score, _, meets = plans[i]
        return score, meets, None

    bounded = [Bounded(item=i, bound=score - slack) for i, (score, slack, _) in enumerate(plans)]
    done, certificate = verify(bounded, simulate, **options)
    return seen, done, certificate


@settings(deadline=None, max_examples=200, derandomize=True)
@given(plans=PLANS)
def test_full_search_finds_what_exhaustive_simulation_finds(plans):
    seen, _, certificate = search(plans)
    good = [score for score, _, meets in plans if meets]
    assert certificate.best == (min(good) if good else None)
    assert certificate.gap == 0
    assert len(seen) == len(set(seen)) == certificate.simulated
    assert certificate.simulated + certificate.excluded_by_bound == len(plans)
    assert certificate.unexamined == 0
    for wave in range(0, len(seen), WAVE):  # nothing is simulated that cannot win by then
        before = [plans[i][0] for i in seen[:wave] if plans[i][2]]
        assert all(
            plans[i][0] - plans[i][1] < min(before, default=math.inf) for i in seen[wave : wave + WAVE]
        )


@settings(deadline=None, max_examples=200, derandomize=True)
@given(plans=PLANS, most=st.integers(0, 10))
def test_a_search_cut_short_states_a_true_gap(plans, most):
    _, _, certificate = search(plans, max_simulations=most)
    good = [score for score, _, meets in plans if meets]
    assert certificate.simulated <= most
    parts = certificate.simulated, certificate.excluded_by_bound, certificate.unexamined
    assert sum(parts) == certificate.feasible == len(plans)
    if certificate.proven is not None and good:
        assert certificate.proven <= min(good)
    if certificate.best is not None and math.isfinite(certificate.gap) and good and certificate.best:
        assert certificate.best - min(good) <= certificate.gap * abs(certificate.best) + 1e-9


@settings(deadline=None, max_examples=50, derandomize=True)
@given(plans=PLANS)
def test_workers_do_not_change_which_plans_are_simulated(plans):
    alone, _, one = search(plans, workers=1)
    shared, _, two = search(plans, workers=2)
    assert sorted(alone) == sorted(shared)
    assert one == two


def test_a_plan_that_cannot_win_is_not_simulated():
    seen, _, certificate = search([(1.0, 0.0, True)] * WAVE + [(1.02, 0.01, True), (1.04, 0.02, True)])
    assert sorted(seen) == list(range(WAVE)) and certificate.excluded_by_bound == 2


def test_hopeless_plans_are_not_simulated_and_are_counted():
    plans = [Bounded(item=0, bound=1.0, hopeless=True), Bounded(item=1, bound=2.0)]
    done, certificate = verify(plans, lambda i: (3.0, True, None))
    assert [v.item for v in done] == [1]
    assert (certificate.excluded_by_slo, certificate.simulated, certificate.gap) == (1, 1, 0.0)


def test_everything_simulates_what_the_proof_excludes():
    plans = [
        Bounded(item=0, bound=1.0, hopeless=True),
        Bounded(item=1, bound=5.0),
        Bounded(item=2, bound=9.0),
    ]
    done, _ = verify(plans, lambda i: (5.0, True, None), everything=True)
    assert [v.item for v in done] == [0, 1, 2]


def test_no_simulation_leaves_an_open_gap():
    _, certificate = verify([Bounded(item=0, bound=1.0)], lambda i: (1.0, True, None), max_simulations=0)
    assert certificate.best is None
    assert certificate.gap == math.inf
    assert certificate.unexamined == 1


def test_an_interrupt_keeps_what_is_finished():
    def simulate(i):
        if i == 6:
            raise KeyboardInterrupt
        return 10.0 + i, True, None

    plans = [Bounded(item=i, bound=float(i)) for i in range(9)]
    done, certificate = verify(plans, simulate)
    assert [v.item for v in done] == [0, 1, 2, 3]
    assert certificate.best == 10.0
    assert certificate.proven == 4.0
    assert certificate.gap == 0.6
