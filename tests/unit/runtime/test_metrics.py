"""The figures of the metrics endpoint that are read from events."""

from ostraka.drivers.metrics import Metrics


def read(metrics: Metrics, name: str, **labels: str) -> float | None:
    value: float | None = metrics._registry.get_sample_value(name, labels)
    return value


def test_every_party_shows_the_bytes_on_its_own_links_whatever_event_tells_them() -> None:
    metrics = Metrics("t", "server-1")
    own = {"sent": {"server-0": 5, "workers": 1}, "received": {"workers": 40}}
    metrics({"event": "followed", "round": 3, "rounds": 9, **own})
    assert read(metrics, "ostraka_round") == 3
    name = "ostraka_message_bytes"
    assert read(metrics, name, direction="sent", role="workers") == 1
    assert read(metrics, name, direction="received", role="workers") == 40
    metrics({"event": "traffic", "sent": {"server-0": 7}, "received": {}})
    assert read(metrics, name, direction="sent", role="server-0") == 7
    assert read(metrics, name, direction="received", role="server-0") is None
