"""An apply checks conditions, runs the tests on them and looks for mistakes in them, and compiles each once."""

import json

from contracts.definition import Definition
from libs.definition import condition
from libs.definition.lint import lint
from libs.definition.reading import read
from libs.definition.validation import check

COUNT = 20


def test_each_condition_is_compiled_once() -> None:
    rules = [
        {"name": f"rule {number}", "trigger": "study", "when": f"study.Rows > {77_000 + number}", "deliver": "archive"}
        for number in range(COUNT)
    ]
    text = {
        "kivuko": 1,
        "name": "Clinic",
        "sites": {"luba": {"name": "Clinic"}},
        "nodes": {"PACS": {"site": "luba", "host": "127.0.0.1", "port": 11200}},
        "destinations": {"archive": {"node": "PACS"}},
        "rules": rules,
        "tests": [{"study": {"Rows": 5}, "delivers": []}],
    }
    document = read(json.dumps(text), "clinic.yaml")
    before = condition._compile.cache_info().misses  # what the test is about
    definition = check(document)
    assert isinstance(definition, Definition)
    lint(document, definition)
    assert condition._compile.cache_info().misses - before == COUNT
