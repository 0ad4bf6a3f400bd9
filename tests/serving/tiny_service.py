"""A service with a model that is a formula, as a process: python tiny_service.py FOLDER [LOOK]."""

import socket
import sys
import time
from pathlib import Path

import torch
import uvicorn

from dpsd.config import PublicFacts
from dpsd.guard.accounts import add_account
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.serving.app import Service, make_app
from dpsd.serving.server import server_config
from dpsd.serving.settings import LimitSettings, ServeSettings, TierSettings

FACTS = PublicFacts(shape=(1, 6, 5), classes=3, class_names=("a", "b", "c"))
PEPPER, SECRET = bytes(32), bytes(range(32))
SETTINGS = ServeSettings(
    tiers={"open": TierSettings(per_minute=1_000_000)},
    limits=LimitSettings(images_per_minute=1_000_000, network_images_per_minute=1_000_000,
                         images_per_request=8, body_bytes=20_000, pixels=10_000,
                         requests_at_once=50),
)  # fmt: skip


def model(images):
    """Answers and features that follow from the pixels."""
    features = images.float().flatten(1)[:, :3] / 100
    return features.softmax(1), features


def main(folder, look=10.0):
    """Serve until killed; the first line says port and key."""
    torch.set_num_threads(1)
    store = SqliteStore(Path(folder) / "guard.sqlite")
    key = add_account(store, PEPPER, f"alice{time.time_ns()}", "open")[1]
    app = make_app(Service(FACTS, model, {}, SETTINGS, store, PEPPER, SECRET))
    listener = socket.create_server(("127.0.0.1", 0), backlog=2_048)
    sys.stdout.write(f"{listener.getsockname()[1]} {key}\n")
    sys.stdout.flush()
    config = server_config(app, SETTINGS.limits.requests_at_once, look)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
