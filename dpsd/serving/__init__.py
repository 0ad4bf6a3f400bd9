"""Serve a released student over HTTP, guarded.

Example:
    client = Client("http://127.0.0.1:8000", key)
    labels = client.predict(images).labels
"""

from dpsd.serving.client import Answers, Client, Refused

__all__ = ["Answers", "Client", "Refused"]
