"""What a run found is written and judged as it was found."""

import io

from rich.console import Console

from bench import catalogue, memory, report
from bench.meter import Look, used
from bench.row import Measured, Waits

KEYS = {
    "full_path_vs_hand_loop",
    "full_path_vs_faststream_batch",
    "full_path_vs_faststream_one",
    "single_vs_one_transaction",
    "full_path_vs_postgres_alone",
}
ROW_KEYS = {"name", "events_per_second", "cpu_us_per_event", "rss_mib", "latency_ms"}
FULL_PATH = catalogue.rows()[0]


def _results(*seconds: float) -> report.Results:
    rounds = [Measured(1000, each, {"function": 0.01 * each}, {"function": 40.0 + each}) for each in seconds]
    return report.Results(FULL_PATH, rounds, idle=Waits([float(n) for n in range(1, 101)]))


def test_the_file_holds_rows_and_ratios_and_nothing_else() -> None:
    found = report.document([_results(1.0)])
    assert {"rows", "ratios"} == found.keys()
    assert KEYS == found["ratios"].keys()
    assert [ROW_KEYS] == [row.keys() for row in found["rows"]]


def test_a_row_has_the_median_and_the_spread_of_its_rounds() -> None:
    row = _results(1.0, 4.0, 2.0).json()
    assert {"median": 500.0, "minimum": 250.0, "maximum": 1000.0} == row["events_per_second"]
    assert {"function": 20.0} == row["cpu_us_per_event"]
    assert {"function": 42.0} == row["rss_mib"]


def test_waits_are_the_middle_and_the_last_of_a_hundred() -> None:
    assert {"idle": {"p50": 51.0, "p99": 100.0}, "half_load": None} == _results(1.0).json()["latency_ms"]


def test_ratios_are_of_the_medians_and_of_the_faster_full_path() -> None:
    medians = {"full_path": 900.0, "full_path_two": 1000.0, "hand_loop": 2000.0, "faststream_one": 10.0}
    found = report.ratios(medians)
    assert 0.5 == found["full_path_vs_hand_loop"]
    assert 100.0 == found["full_path_vs_faststream_one"]
    assert None is found["full_path_vs_faststream_batch"]
    assert None is found["single_vs_one_transaction"]


def test_a_target_is_met_missed_or_not_run() -> None:
    targets = {target.what: target for target in report.targets(report.document([_results(1.0)]))}
    assert None is targets["full_path_vs_hand_loop"].met
    assert False is targets["full_path: idle p50, ms"].met
    assert True is report.Target("more", 2.0, 1.0).met
    assert True is report.Target("less", 1.0, 2.0, at_least=False).met


def test_the_table_names_every_row_and_target() -> None:
    shown = io.StringIO()
    results = [_results(1.0)]
    report.show(results, report.document(results), "about", Console(file=shown, width=200))
    assert FULL_PATH.title in shown.getvalue()
    assert "full_path_vs_postgres_alone" in shown.getvalue()


def test_cpu_between_two_looks_is_in_proportion() -> None:
    looks = [Look(10.0, {"function": 1.0}, {}), Look(20.0, {"function": 3.0}, {}), Look(30.0, {"function": 3.0}, {})]
    assert 1.0 == used(looks, "function", 15.0, 30.0)
    assert 2.0 == used(looks, "function", 0.0, 40.0)
    assert 0.0 == used(looks, "source", 10.0, 30.0)


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in catalogue.rows()]
    assert sorted(set(names)) == sorted(names)


def test_memory_that_grows_is_found_and_noise_is_not() -> None:
    flat, grown = [60.0] * 100, [60.0 + n for n in range(100)]
    assert [] == memory.grown({"function": [*flat, 61.0]})
    assert ["source grew from 89 to 159 MiB"] == memory.grown({"function": flat, "source": grown})
