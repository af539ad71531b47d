"""The regression guard: ratios of two processes, beside those that were kept."""

import sys

import pytest

from grpo_course.ground import hardware
from tools.measure import bench, ratios
from tools.report import tables


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """The tool without its processes: call it with what they find and its arguments."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(ratios, "detect_hardware", hardware.Hardware)

    def measure(machine, ours, plain, *arguments):
        rates = {ratios.OURS: ours, ratios.PLAIN: plain}

        def rows(command):
            kinds = zip(("generating", "grpo"), rates[command[-1]], strict=False)
            row = {"machine": machine, "n": 3}
            yield [row | {"step": k, "tokens_per_s": rate} for k, rate in kinds]

        monkeypatch.setattr(bench, "in_process", rows)
        monkeypatch.setattr(sys, "argv", ["ratios", *arguments])
        ratios.main()
        return [line.split() for line in capsys.readouterr().out.splitlines()[1:]]

    return measure


def test_ratios_stand_beside_the_last_kept_ones_of_the_same_machine(measured):
    first = measured("A", [300.0, 150.0], [200.0], "--keep")
    assert [row[-3:] for row in first] == [["1.50", "-", "-"], ["0.75", "-", "-"]]
    measured("B", [900.0, 900.0], [100.0], "--keep")
    slower = measured("A", [300.0, 120.0], [200.0])  # is not kept
    assert [row[-3:] for row in slower] == [
        ["1.50", "1.50", "+0%"],
        ["0.60", "0.75", "-20%"],
    ]
    assert measured("A", [300.0, 120.0], [200.0]) == slower
    both = measured("A", [300.0, 120.0], [200.0, 60.0])  # its own base, if there is one
    assert both[1][-3:] == ["2.00", "0.75", "+167%"]


def test_a_side_that_fails_ends_it_with_the_reason(measured, monkeypatch):
    monkeypatch.setattr(bench, "in_process", lambda command: [[{"error": "no memory"}]])
    monkeypatch.setattr(sys, "argv", ["ratios"])
    with pytest.raises(SystemExit, match="no memory"):
        ratios.main()
