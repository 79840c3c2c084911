"""Every JSON document follows its published schema, whatever the answer is."""

import copy
import json
from pathlib import Path

import pytest
from referencing import Registry, Resource

from planner import capacity_text, minimum_text, whatif_text
from planner.capacity import capacity
from planner.minimum import minimum
from planner.question import Question, parse_slo
from planner.store import Store
from planner.vary import parse_axes
from planner.whatif import sweep
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from traces.synth import synthesize

FOLDER = Path(__file__).parents[2] / "planner"
NAMES = ("answer", "whatif", "capacity", "minimum")
SCHEMAS = {name: json.loads((FOLDER / f"{name}.schema.json").read_text()) for name in NAMES}
REGISTRY: Registry = Registry().with_resources(
    (f"{name}.schema.json", Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)
SHARED = Store()


def validator(name):
    import jsonschema

    return jsonschema.Draft202012Validator(SCHEMAS[name], registry=REGISTRY)


def question(*slos, **changes):
    base = {
        "model": load_model("opt-125m"),
        "fleet": homogeneous("l40s", gpus=2),
        "trace": synthesize(requests=25, rate=20.0, output_mean=20),
        "slos": tuple(map(parse_slo, slos)),
    }
    return Question(**(base | changes))


def whatif_document(*texts, asked=None, **limits):
    found = sweep(asked or question(), parse_axes(texts), silicon=False, store=SHARED, **limits)
    return json.loads(whatif_text.to_json(found))


def capacity_document(*slos, **limits):
    found = capacity(question(*slos), silicon=False, store=SHARED, tolerance=0.2, **limits)
    return json.loads(capacity_text.to_json(found))


def minimum_document(of, *slos, **limits):
    found = minimum(question(*slos), of, silicon=False, store=SHARED, **limits)
    return json.loads(minimum_text.to_json(found))


DOCUMENTS = {
    "whatif": [
        lambda: whatif_document("gpus=1,2", "rate=x1,x4", "slo.ttft_p95=1us,1s,none"),
        lambda: whatif_document("objective=latency,cost,throughput", "tp=1,2"),
        lambda: whatif_document("gpus=1,8", asked=question(model=load_model("llama-3.1-70b"))),
        lambda: whatif_document("slo.itl_p99=1us", max_simulations=1),
    ],
    "capacity": [
        lambda: capacity_document("ttft_p95<=100ms", "e2e_p95<=1s"),
        lambda: capacity_document("ttft_p95<=1us"),
        lambda: capacity_document("tpot_mean<=1s"),
        lambda: capacity_document("e2e_p95<=400ms", max_simulations=1),
        lambda: capacity_document("itl_p99<=1us", max_simulations=2),
    ],
    "minimum": [
        lambda: minimum_document("gpus", "ttft_p95<=1s"),
        lambda: minimum_document("cost", "tpot_p95<=1ms"),
        lambda: minimum_document("power", "e2e_p95<=1s"),
        lambda: minimum_document("power", "itl_p99<=1us", max_simulations=1),
    ],
}
ALL = [(name, i) for name, made in DOCUMENTS.items() for i in range(len(made))]


@pytest.mark.parametrize(("name", "i"), ALL)
def test_a_document_follows_its_schema(name, i):
    validator(name).check_schema(SCHEMAS[name])
    document = DOCUMENTS[name][i]()
    validator(name).validate(document)
    assert document["schema"] == f"zenith-{name}-1"


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_the_schema_refuses_a_document_without_any_of_its_parts_or_with_others(name):
    document = DOCUMENTS[name][0]()
    check = validator(name)
    for key in document:
        spoiled = {k: v for k, v in document.items() if k != key}
        assert not check.is_valid(spoiled), key
    assert not check.is_valid({**document, "more": 1})
    answers = copy.deepcopy(document)
    holder = answers["scenarios"][-1] if name == "whatif" else answers
    del holder["answer"]["plans"]
    assert not check.is_valid(answers), "the answer inside is checked too"
