"""How much personal data is found, how much else is taken for it, and what it costs: `python -m benchmarks.redaction`

Texts are drawn by `benchmarks.personal_samples` from seeds that the patterns were not adjusted on (those were 0 to 9).
Something counts as found when every letter and digit of it is replaced, by whatever kind; a replacement is right when
it touches personal data. Where `presidio_analyzer` can be imported its pattern recognizers run on the same texts (with
the words around, and without a language model: no spaCy model is to be had offline); where `faker` can be, numbers that
it makes for twenty locales are redacted as well. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.personal_samples import Sample, make_samples
from share.kernel.privacy.redaction import ENTITIES, RedactionConfig, Redactor

RECALL_MIN, PRECISION_MIN = 0.99, 0.95

Found = tuple[str, int, int]
Finder = Callable[[str], Sequence[Found]]

PRESIDIO_ENTITIES = {
    "CREDIT_CARD": "CARD",
    "EMAIL_ADDRESS": "EMAIL",
    "IBAN_CODE": "IBAN",
    "IP_ADDRESS": "IP",
    "MAC_ADDRESS": "MAC",
    "PHONE_NUMBER": "PHONE",
}
"""Everything else that names a person by a number is a NATIONAL_ID."""
PRESIDIO_LACKS = ("BIRTHDATE", "KEY")
PRESIDIO_LEFT_OUT = {"UUID", "DATE_TIME", "URL", "CRYPTO", "PERSON", "LOCATION", "NRP", "ORGANIZATION"}
"""What our texts have no truths for: URLs, dates of anything, names, ids that are nobody's."""

FAKER_LOCALES = [f"en_{country}" for country in ("AU", "CA", "GB", "IN", "US")] + [
    *(
        "da_DK",
        "de_AT",
        "de_CH",
        "de_DE",
        "es_ES",
        "fi_FI",
        "fr_FR",
        "it_IT",
        "ja_JP",
        "ko_KR",
        "nl_NL",
        "pl_PL",
        "pt_BR",
    ),
    *("sv_SE", "zh_CN"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.redaction", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(100, 110)))
    parser.add_argument("--samples", type=int, default=2000, help="texts of each seed")
    parser.add_argument("--errors", type=int, default=0, metavar="N", help="show the first N of each")
    options = parser.parse_args(arguments)
    samples = [sample for seed in options.seeds for sample in make_samples(seed, options.samples)]
    num_truths = sum(len(sample.truths) for sample in samples)
    print(f"{len(samples)} texts of seeds {options.seeds}, {num_truths} to be found, load {os.getloadavg()[0]:.1f}")
    redactor = Redactor(RedactionConfig())
    recall, precision = score("ours", samples, lambda text: _ours(redactor, text), options.errors)
    for name, find in presidio():
        score(name, samples, find, options.errors)
    if importlib.util.find_spec("faker") is not None:
        print_faker(redactor, options.errors)
    is_missed = recall < RECALL_MIN or precision < PRECISION_MIN
    print(f"bars: recall ≥ {RECALL_MIN}, precision ≥ {PRECISION_MIN}: {'missed' if is_missed else 'met'}")
    return int(is_missed)


def _ours(redactor: Redactor, text: str) -> list[Found]:
    return [(span.entity, span.start, span.end) for span in redactor.redact(text).spans]


def score(name: str, samples: Sequence[Sample], find: Finder, num_errors: int) -> tuple[float, float]:
    """Print the table of one finder; returns recall and precision over all."""
    total, found, typed, right, wrong = (Counter[str]() for _ in range(5))
    formats_total, formats_missed = Counter[str](), Counter[str]()
    errors: list[str] = []
    beyond = 0
    times = []
    for sample in samples:
        start = time.thread_time()
        spans = find(sample.text)
        times.append(time.thread_time() - start)
        covered = {place for _, begin, end in spans for place in range(begin, end)}
        personal = {place for truth in sample.truths for place in range(truth.start, truth.end)}
        beyond += sum(sample.text[place].isalnum() for place in covered - personal)
        for truth in sample.truths:
            total[truth.entity] += 1
            formats_total[f"{truth.entity} {truth.format}"] += 1
            if all(place in covered or not sample.text[place].isalnum() for place in range(truth.start, truth.end)):
                found[truth.entity] += 1
                typed[truth.entity] += any(e == truth.entity and b < truth.end and s > truth.start for e, b, s in spans)
            else:
                formats_missed[f"{truth.entity} {truth.format}"] += 1
                errors.append(f"missed {truth.entity} {sample.text[truth.start : truth.end]!r} in {sample.text!r}")
        for entity, begin, end in spans:
            if any(begin < truth.end and end > truth.start for truth in sample.truths):
                right[entity] += 1
            else:
                wrong[entity] += 1
                errors.append(f"wrong {entity} {sample.text[begin:end]!r} in {sample.text!r}")
    median, p99 = (sorted(times)[int(share * len(times))] * 1e6 for share in (0.5, 0.99))
    print(f"\n{name}: {median:.0f} µs of CPU a text at the median, {p99:.0f} at p99")
    print(f"{'':12} {'there':>6} {'recall':>7} {'as such':>8} {'precision':>10}")
    for entity in ENTITIES:
        told = (
            f"{right[entity] / max(1, right[entity] + wrong[entity]):10.4f}"
            if right[entity] + wrong[entity]
            else f"{'-':>10}"
        )
        count = max(1, total[entity])
        print(f"{entity:12} {total[entity]:6} {found[entity] / count:7.4f} {typed[entity] / count:8.4f} {told}")
    recall = found.total() / max(1, total.total())
    precision = right.total() / max(1, right.total() + wrong.total())
    print(f"{'all':12} {total.total():6} {recall:7.4f} {typed.total() / max(1, total.total()):8.4f} {precision:10.4f}")
    known = [entity for entity in total if entity not in PRESIDIO_LACKS]
    share = sum(found[entity] for entity in known) / max(1, sum(total[entity] for entity in known))
    print(f"{'but ' + ', '.join(PRESIDIO_LACKS)}: recall {share:.4f}")
    print(f"letters and digits replaced beyond them: {beyond / len(samples):.2f} a text")
    missed = ", ".join(f"{which} {count} of {formats_total[which]}" for which, count in formats_missed.most_common(8))
    print(f"missed most: {missed or 'nothing'}")
    for error in errors[:num_errors]:
        print(f"  {error}")
    return recall, precision


def presidio() -> list[tuple[str, Finder]]:
    """Presidio's recognizers of patterns at thresholds of their score, none where it is not installed."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        print("\nPresidio is not installed here: no comparison", file=sys.stderr)
        return []
    analyzer: Any = importlib.import_module("presidio_analyzer")
    engines: Any = importlib.import_module("presidio_analyzer.nlp_engine")
    spacy: Any = importlib.import_module("spacy")
    language: Any = importlib.import_module("spacy.language")

    @language.Language.component("small_letters")  # type: ignore[untyped-decorator]
    def small_letters(document: Any) -> Any:
        for token in document:
            token.lemma_ = token.lower_
        return document

    blank = spacy.blank("en")
    blank.add_pipe("small_letters")
    engine = engines.SpacyNlpEngine()
    engine.nlp = {"en": blank}

    def finder(recognizers: Sequence[Any], threshold: float) -> Finder:
        registry = analyzer.RecognizerRegistry(recognizers=list(recognizers))
        known = analyzer.AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])
        wanted = sorted(set(known.get_supported_entities("en")) - PRESIDIO_LEFT_OUT)

        def find(text: str) -> list[Found]:
            results = known.analyze(text=text, language="en", entities=wanted, score_threshold=threshold)
            return [(PRESIDIO_ENTITIES.get(r.entity_type, "NATIONAL_ID"), r.start, r.end) for r in results]

        return find

    registry = analyzer.RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"], nlp_engine=engine)
    default = [each for each in registry.recognizers if "Spacy" not in type(each).__name__]
    everyones = _all_recognizers(analyzer)
    thresholds = (0.0, 0.4)
    return [
        *(
            (f"Presidio's {len(default)} default recognizers, scores from {least}", finder(default, least))
            for least in thresholds
        ),
        *(
            (f"all {len(everyones)} of its patterns, scores from {least}", finder(everyones, least))
            for least in thresholds
        ),
    ]


def _all_recognizers(analyzer: Any) -> list[Any]:
    """Those of every country, most of which are off by default, and telephones of every region that our texts have."""
    module: Any = importlib.import_module("presidio_analyzer.predefined_recognizers")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    patterns = [kind for kind in kinds if issubclass(kind, analyzer.PatternRecognizer) and kind.__module__ != __name__]
    regions = ["US", "GB", "DE", "FR", "ES", "IT", "IN", "CN", "JP", "BR", "AU", "RU", "IE", "TR", "NL"]
    recognizers = []
    for kind in sorted(patterns, key=lambda kind: str(kind.__name__)):
        try:
            recognizers.append(kind(supported_language="en"))
        except TypeError:
            continue  # a base class
    return [*recognizers, module.PhoneRecognizer(supported_language="en", supported_regions=regions)]


def print_faker(redactor: Redactor, num_errors: int) -> None:
    """Numbers that somebody else's generator makes, 200 of each locale, in a sentence that tells little."""
    faker: Any = importlib.import_module("faker")
    print("\nvalues of Faker: found of made (nobody's patterns were written for them)")
    for kind in ("email", "phone_number", "credit_card_number", "iban", "ssn", "ipv4_public", "ipv6", "mac_address"):
        found: dict[str, int] = {}
        missed: list[str] = []
        for locale in FAKER_LOCALES:
            source = faker.Faker(locale)
            source.seed_instance(7)
            for _ in range(200):
                value = str(getattr(source, kind)())
                before = "Is this right, call " if kind == "phone_number" else "Is this right, "
                text = f"{before}{value} ?"
                spans = redactor.redact(text).spans
                covered = {place for span in spans for place in range(span.start, span.end)}
                start = len(before)
                is_found = all(start + i in covered or not c.isalnum() for i, c in enumerate(value))
                found[locale] = found.get(locale, 0) + is_found
                if not is_found:
                    missed.append(f"{locale} {value}")
        told = ", ".join(f"{locale} {count / 2:.0f} %" for locale, count in found.items() if count < 200)
        print(f"{kind:20} {sum(found.values()) / (200 * len(found)):.4f}  {told}")
        for each in missed[:: max(1, len(missed) // max(1, num_errors))][:num_errors]:
            print(f"  missed {each}")


if __name__ == "__main__":
    sys.exit(main())
