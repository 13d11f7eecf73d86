"""The circuit: the first death costs nothing, a crash loop slows down, three within a minute end it."""

from __future__ import annotations

from share.kernel.transport.circuit import Circuit


def test_the_first_death_is_replaced_at_once_and_each_further_one_later() -> None:
    circuit = Circuit(deaths_max=100, window_s=60.0)
    delays = [circuit.record_death(float(now)) for now in range(12)]
    assert delays[:4] == [0.0, 0.25, 0.5, 1.0]
    assert delays == sorted(delays)
    assert delays[-1] == 30.0


def test_something_done_ends_the_waiting() -> None:
    circuit = Circuit(deaths_max=100, window_s=60.0)
    circuit.record_death(0.0)
    circuit.record_death(1.0)
    circuit.record_success()
    assert circuit.record_death(2.0) == 0.0


def test_three_deaths_within_the_window_open_it_until_it_is_closed() -> None:
    circuit = Circuit(deaths_max=3, window_s=60.0)
    for now in (0.0, 1.0, 61.0, 120.0):
        circuit.record_death(now)
        circuit.record_success()
        assert not circuit.is_open
    circuit.record_death(121.0)
    assert circuit.is_open
    circuit.record_success()
    assert circuit.is_open
    circuit.close()
    circuit.record_death(122.0)
    assert not circuit.is_open
