"""Alerts and dashboard ask for nothing that is not there.

What the alerts mean is tested by Prometheus' own tool, where it is installed.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from ruamel.yaml import YAML

from proxy.telemetry import METRICS, Metrics, render
from proxy.telemetry.metric_list import PREFIX, Kind

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
ALERTS: dict[str, Any] = YAML(typ="safe").load((FOLDER / "alerts.yaml").read_text())
ALERT_TESTS: dict[str, Any] = YAML(typ="safe").load((FOLDER / "alerts_test.yaml").read_text())
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())

OF_THE_SCRAPE = {"job", "instance"}

RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    found = {rule["alert"]: rule["expr"] for rule in RULES}
    for panel in panels():
        for target in panel["targets"]:
            # What Grafana replaces before it asks.
            text = re.sub(r"\$__(rate_interval|range)", "5m", target["expr"])
            found[f"{panel['title']} {target['refId']}"] = text
    return found


EXPRESSIONS = expressions()


def nodes(text: str) -> list[Any]:
    found: list[Any] = []

    def visit(node: promql_parser.Expr) -> bool:
        found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(text), visit)
    return found


def selectors(text: str) -> Iterator[promql_parser.VectorSelector]:
    for node in nodes(text):
        if isinstance(node, promql_parser.VectorSelector):
            yield node


def exported() -> dict[str, set[str]]:
    """Return every name on the metrics page, with its labels."""
    found = dict.fromkeys(("up", *process_metrics()), OF_THE_SCRAPE)
    for name, metric in METRICS.items():
        labels = {*metric.labels, *OF_THE_SCRAPE}
        match metric.kind:
            case Kind.COUNTER:
                found[f"{PREFIX}{name}_total"] = labels
            case Kind.GAUGE:
                found[PREFIX + name] = labels
            case Kind.HISTOGRAM:
                found[f"{PREFIX}{name}_bucket"] = labels | {"le"}
                found[f"{PREFIX}{name}_count"] = found[f"{PREFIX}{name}_sum"] = labels
    return found


def process_metrics() -> set[str]:
    page, _ = render(Metrics().snapshot())
    return set(re.findall(r"^(process_\w+) ", page.decode(), re.MULTILINE))


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_metric_that_is_asked_for_exists_with_these_labels(where):
    known = exported()
    asked = list(selectors(EXPRESSIONS[where]))

    assert asked
    for selector in asked:
        assert selector.name in known
        assert {matcher.name for matcher in selector.matchers.matchers} <= known[selector.name]


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_what_is_grouped_by_is_a_label_of_every_metric_below(where):
    known = exported()
    for node in nodes(EXPRESSIONS[where]):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            for selector in selectors(str(node.expr)):
                assert selector.name is not None
                assert set(node.modifier.labels) <= known[selector.name]


def test_texts_name_only_labels_that_the_alert_has():
    for rule in RULES:
        outermost = promql_parser.parse(rule["expr"])
        for text in rule["annotations"].values():
            for label in re.findall(r"\$labels\.(\w+)", text):
                assert re.search(rf"\b{label}\b", rule["expr"]) or label in {
                    *OF_THE_SCRAPE,
                    *(
                        name
                        for one in selectors(str(outermost))
                        for name in exported()[one.name or ""]
                    ),
                }


def test_every_alert_says_what_to_do_and_how_bad_it_is():
    names = [rule["alert"] for rule in RULES]

    assert len(set(names)) == len(names) >= 10
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_the_first_event_of_a_counter_with_labels_is_seen(where):
    for text in re.findall(r"increase\(([^\[]+)\[", EXPRESSIONS[where]):
        (counter,) = selectors(text)
        if exported()[counter.name or ""] > OF_THE_SCRAPE:
            assert f"({text} unless {text} offset" in EXPRESSIONS[where].replace("\n", " ")


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool: Debian's prometheus has it")
@pytest.mark.parametrize(
    "words", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")]
)
def test_promtool_itself_reads_the_alerts_and_they_fire_as_they_should(words):
    done = subprocess.run(
        ["promtool", *words], cwd=FOLDER, check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_promtool_tests_are_alerts_of_ours():
    tested = {
        case["alertname"] for test in ALERT_TESTS["tests"] for case in test["alert_rule_test"]
    }

    assert ALERT_TESTS["rule_files"] == ["alerts.yaml"]
    assert tested <= {rule["alert"] for rule in RULES}


def test_panels_do_not_overlap_and_each_has_a_name_of_its_own():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
