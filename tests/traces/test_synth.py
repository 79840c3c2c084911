"""Synthesis: exact where it is fixed, right in distribution where it is random, the same for a seed."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from profiles.errors import InputError
from traces.describe import describe
from traces.read import read_trace
from traces.synth import synthesize
from traces.trace import Trace

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"


def test_static_mode_is_fixed_lengths_all_at_once():
    trace = synthesize(requests=7, arrivals="at-once", prompt_mean=512, output_mean=64)
    assert trace.arrival_s.tolist() == [0] * 7
    assert trace.prompt_tokens.tolist() == [512] * 7 and trace.output_tokens.tolist() == [64] * 7


@pytest.mark.parametrize("mean", [1, 2, 3, 73, 1000, 131072])
def test_lengths_without_deviation_are_exact(mean):
    trace = synthesize(requests=3, prompt_mean=mean, output_mean=mean)
    assert trace.prompt_tokens.tolist() == trace.output_tokens.tolist() == [mean] * 3


@pytest.mark.parametrize(
    ("arrivals", "cv"), [("poisson", 1.0), ("gamma", 0.5), ("gamma", 1.0), ("gamma", 3.0)]
)
def test_rate_and_burstiness_are_those_asked_for(arrivals, cv):
    n = 40_000
    figures = describe(synthesize(requests=n, rate=5.0, arrivals=arrivals, cv=cv))
    # The mean gap has relative standard error cv / sqrt(n); four of them.
    assert figures.rate_per_s == pytest.approx(5.0, rel=4 * cv / n**0.5)
    assert figures.gap_cv == pytest.approx(cv, rel=0.05)
    # Over long windows the variance of a renewal process over its mean tends to the squared variation.
    assert figures.dispersion["60s"] == pytest.approx(cv**2, rel=0.4)


def test_log_normal_lengths_have_the_mean_and_deviation_asked_for():
    figures = describe(synthesize(
        requests=100_000, prompt_mean=2742, prompt_sd=944, output_mean=189, output_sd=174
    ))  # fmt: skip
    for lengths, mean, sd in ((figures.prompt, 2742, 944), (figures.output, 189, 174)):
        assert lengths.mean == pytest.approx(mean, rel=0.02) and lengths.sd == pytest.approx(sd, rel=0.05)
        # The median of a log-normal: mean / sqrt(1 + (sd / mean)**2).
        assert lengths.percentiles["p50"] == pytest.approx(mean / (1 + (sd / mean) ** 2) ** 0.5, rel=0.02)


def test_lengths_stay_between_one_and_the_most():
    trace = synthesize(
        requests=2000, prompt_mean=1, prompt_sd=50, output_mean=90, output_sd=300, most_tokens=99
    )
    for tokens in (trace.prompt_tokens, trace.output_tokens):
        assert tokens.min() == 1 and tokens.max() == 99


def test_empirical_lengths_are_pairs_of_the_other_trace_in_its_proportions():
    other = Trace(
        arrival_s=np.zeros(4), prompt_tokens=np.array([1, 1, 2, 3]), output_tokens=np.array([10, 10, 20, 30])
    )
    trace = synthesize(requests=8000, lengths_of=other)
    assert (trace.output_tokens == 10 * trace.prompt_tokens).all()
    shares = np.bincount(trace.prompt_tokens)[1:] / len(trace)
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.03)


def test_a_seed_fixes_the_trace_and_another_changes_it():
    def columns(seed):
        trace = synthesize(requests=50, prompt_mean=100, prompt_sd=50, seed=seed)
        return trace.arrival_s.tolist(), trace.prompt_tokens.tolist()

    assert columns(4) == columns(4) and columns(4)[0] != columns(5)[0] and columns(4)[1] != columns(5)[1]


@pytest.mark.parametrize(
    "wrong",
    [{"requests": 0}, {"rate": 0}, {"rate": float("nan")}, {"rate": float("inf")}, {"cv": 2.0},
     {"arrivals": "gamma", "cv": 0}, {"prompt_mean": 0.5}, {"output_sd": -1}, {"output_sd": float("nan")},
     {"prompt_mean": 1e9}, {"arrivals": "at-once", "rate": 1.0},
     {"lengths_of": synthesize(requests=2), "output_mean": 9.0}],
)  # fmt: skip
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match="must be"):
        synthesize(**{"requests": 5} | wrong)


def sample_commands():
    rows = re.findall(r"^\| `(\S+)` \| `zenith (.*?)` \|", (SAMPLES / "README.md").read_text(), re.MULTILINE)
    return dict(rows)


def test_every_sample_says_how_it_was_made():
    assert sorted(sample_commands()) == sorted(path.name for path in SAMPLES.glob("*.csv"))


@pytest.mark.parametrize("name", sorted(sample_commands()))
def test_samples_are_what_their_command_makes(name, tmp_path):
    arguments = sample_commands()[name].replace(f"synth {name}", f"synth {tmp_path / name}").split()
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    made, shipped = read_trace(tmp_path / name).trace, read_trace(SAMPLES / name).trace
    # Arrivals to the microsecond: exp and log may differ by a bit between platforms.
    assert made.arrival_s == pytest.approx(shipped.arrival_s, abs=2e-6)
    assert (made.prompt_tokens == shipped.prompt_tokens).all()
    assert (made.output_tokens == shipped.output_tokens).all()


@pytest.mark.parametrize("name", sorted(sample_commands()))
def test_samples_keep_to_the_published_means(name):
    line = next(x for x in (SAMPLES / "README.md").read_text().splitlines() if x.startswith(f"| `{name}`"))
    published, stated = line.split(" | ")[2:4]
    figures = describe(read_trace(SAMPLES / name).trace)
    means = [float(x) for x in re.findall(r"(\d+) ± \d+", published)]
    assert [figures.prompt.mean, figures.output.mean] == pytest.approx(means, rel=0.1)
    here = [figures.prompt.mean, figures.prompt.sd, figures.output.mean, figures.output.sd]
    assert [round(x) for x in here] == [int(x) for x in re.findall(r"\d+", stated)]
