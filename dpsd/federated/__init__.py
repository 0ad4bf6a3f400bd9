"""FedDPSD: transcription across clients that share neither data nor models, on Flower."""

import os

OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Flower's switches for reports to its makers, update checks and installations at run time."""

for _name, _value in OFF.items():  # Flower reads some of them when it is imported
    os.environ.setdefault(_name, _value)
