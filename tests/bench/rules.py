"""500 rules on what is known of a study: the processor time of one evaluation, as the service does it."""

import random
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from statistics import quantiles
from typing import Any, Final

from rich.progress import Progress

from contracts.definition import Definition
from contracts.fact import Attributes, Source
from libs.definition.ruleset import RuleSet
from tests.bench.figure import Figure, at_most, measured

_RULES: Final = 500
_ROUNDS: Final = 5
_EVALUATIONS: Final = 400
_MOST_MS: Final = 10
_MODALITIES: Final = ("CT", "MR", "CR", "DX", "US", "MG", "XA", "NM", "PT", "RF")
_PARTS: Final = ("HEAD", "CHEST", "ABDOMEN", "KNEE", "SPINE", "PELVIS", "NECK", "HAND")
_WORDS: Final = ("TRAUMA", "STROKE", "ANGIO", "CONTROL", "TB", "SCREENING", "LOW DOSE", "PREOP")
_SITES: Final = tuple(f"site{number}" for number in range(40))
_NOW: Final = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def run(progress: Progress) -> list[Figure]:
    """Evaluate rules as a country has them; and such that none can be left out by what it demands."""
    task = progress.add_task("rules: rounds", total=2 * _ROUNDS)
    figures = []
    for name, whens in (
        (f"{_RULES} rules on a study's attributes", [_when(number) for number in range(_RULES)]),
        (f"{_RULES} rules that all have to be evaluated", [_open(number) for number in range(_RULES)]),
    ):
        start = time.thread_time()
        rules = RuleSet(_definition(whens))
        compiled = time.thread_time() - start
        medians, late = [], []
        for number in range(_ROUNDS):
            times = _times(rules, random.Random(number))
            cuts = quantiles(times, n=20)
            medians.append(cuts[9] * 1000)
            late.append(cuts[18] * 1000)
            progress.advance(task)
        figures += [
            measured(f"{name}: median", "ms", medians),
            at_most(f"{name}: p95", "ms", late, _MOST_MS),
            measured(f"{name}: to compile them", "s", [compiled]),
        ]
    return figures


def _times(rules: RuleSet, chance: random.Random) -> list[float]:
    times = []
    for _ in range(_EVALUATIONS):
        source, study = _source(chance), _study(chance)
        start = time.thread_time()
        rules.evaluate("study", replace(rules.circumstances(source, "national", _NOW), study=study))
        times.append(time.thread_time() - start)
    return times


def _definition(whens: list[str | Mapping[str, Any]]) -> Definition:
    return Definition.model_validate(
        {
            "kivuko": 1,
            "name": "national",
            "timezone": "Africa/Malabo",
            "sites": {key: {"name": key, "tenant": "national"} for key in _SITES},
            "calendars": {"office": {"hours": "08:00-16:00", "holidays": "GQ"}},
            "nodes": {"ARCHIVE": {"site": _SITES[0], "host": "10.0.0.1", "port": 104}},
            "destinations": {f"d{number}": {"node": "ARCHIVE"} for number in range(50)},
            "rules": [
                {"name": f"rule {number}", "trigger": "study", "deliver": f"d{number % 50}", "when": when}
                for number, when in enumerate(whens)
            ],
        }
    )


def _when(number: int) -> str | Mapping[str, Any]:
    """Give a condition of the kinds that people write, with values of its own."""
    modality, other = _MODALITIES[number % 10], _MODALITIES[(number // 10) % 10]
    part, word, site = _PARTS[number % 8], _WORDS[number % 7], _SITES[number % 40]
    kinds: tuple[str | Mapping[str, Any], ...] = (
        f'study.Modality == "{modality}" && study.StudyDescription.upperAscii().contains("{word}")',
        f'source.site == "{site}" && study.Modality in ["{modality}", "{other}"]',
        {"all": [{"Modality": [modality, other]}, {"not": {"calendar": "office"}}, f'source.site == "{site}"']},
        f'study.Modality == "{modality}" && study.BodyPartExamined == "{part}" && !calendars["office"]',
        f'"SR" in study.ModalitiesInStudy && study.InstitutionName.startsWith("H{number}")',
        f'study.PatientID.startsWith("P{number}-") || study.IssuerOfPatientID == "I{number}"',
        f'study.StudyDescription.matches("(?i)^{word}.*{part}$")',
        f'order.priority == "STAT" && study.NumberOfStudyRelatedInstances > {number}',
        {"any": [{"ReferringPhysicianName": f"D{number}"}, {"RequestedProcedureID": [f"R{number}"]}]},
        f'study.Modality == "{modality}" && source.address.inNetwork("10.{number % 250}.0.0/16")',
    )
    return kinds[number % len(kinds)]


def _open(number: int) -> str | Mapping[str, Any]:
    return (
        f'study.StudyDescription.contains("W{number}") || study.Rows > {2000 + number} || '
        f'study.PatientID.startsWith("P{number}-")'
    )


def _source(chance: random.Random) -> Source:
    site = chance.choice(_SITES)
    return Source(
        site=site, node="ARCHIVE", calling_aet="CT1", called_aet="KIVUKO", address=f"10.{chance.randrange(250)}.0.9"
    )


def _study(chance: random.Random) -> Attributes:
    modality = chance.choice(_MODALITIES)
    part = chance.choice(_PARTS)
    named = {f"Text{number}": f"value {number}" for number in range(36)}
    return {
        "Modality": modality,
        "ModalitiesInStudy": [modality, "SR"] if chance.random() < 0.2 else [modality],
        "StudyDescription": f"{modality} {part} {chance.choice(_WORDS)}",
        "BodyPartExamined": part,
        "PatientID": f"P{chance.randrange(600)}-{chance.randrange(10**6)}",
        "IssuerOfPatientID": f"I{chance.randrange(600)}",
        "PatientName": "Nguema^Ana",
        "PatientBirthDate": "19700101",
        "PatientSex": "F",
        "PatientAge": "056Y",
        "StudyDate": "20261120",
        "StudyTime": "093000",
        "AccessionNumber": f"A{chance.randrange(10**6)}",
        "InstitutionName": f"H{chance.randrange(600)}",
        "ReferringPhysicianName": f"D{chance.randrange(600)}",
        "RequestedProcedureID": f"R{chance.randrange(600)}",
        "Rows": 512,
        "Columns": 512,
        "SliceThickness": 1.25,
        "NumberOfStudyRelatedInstances": chance.randrange(1, 900),
        "NumberOfStudyRelatedSeries": 4,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Sites": [chance.choice(_SITES)],
        "StationName": "CT1",
        **named,
    }
