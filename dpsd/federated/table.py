"""Tables of a federated run: bytes, seconds, answers and failures, for each round and client.

Public events alone: what the server sees on the wire. No figure on private data stands here.
"""

import csv
from collections.abc import Mapping
from typing import Any

from dpsd.federated.collect import Collected
from dpsd.federated.messages import Request
from dpsd.federated.roster import Roster
from dpsd.run import Run, append_lines, read_lines

_COLUMNS = ("round", "node", "clients", "answers", "bytes_down", "bytes_up", "seconds", "failure")


class Table:
    """`release/clients.csv`, a line for each round and node, and `release/rounds.csv`.

    All attempts stand in `private/rounds.jsonl`.
    """

    def __init__(self, run: Run) -> None:
        self._lines = run.private / "rounds.jsonl"
        self._clients = run.release / "clients.csv"
        self._rounds = run.release / "rounds.csv"

    def add(
        self,
        request: Request,
        roster: Roster,
        collected: Collected[Any],
        down: Mapping[int, int],
        unlabelled: Mapping[int, str],
    ) -> None:
        """Enter one attempt at a round; `unlabelled` says who gave no label histogram, and why."""
        rows = []
        for node, clients in roster.clients.items():
            failure = collected.failures.get(node, unlabelled.get(node, ""))
            if node in collected.twice:
                failure = failure or "answered twice; the first counts"
            rows.append({
                "round": request.round,
                "node": roster.name(node),
                "clients": len(clients),
                "answers": len(request) * len(clients) * (node in collected.found),
                "bytes_down": down[node],
                "bytes_up": collected.up.get(node, 0),
                "seconds": round(collected.seconds.get(node, 0.0), 3),
                "failure": failure,
            })  # fmt: skip
        append_lines(self._lines, rows)
        self._write()

    def rows(self) -> list[dict[str, Any]]:
        """One line for each round and node, of the last attempt where a round was asked again."""
        found = read_lines(self._lines)
        return list({(r["round"], r["node"]): r for r in found}.values())

    def _write(self) -> None:
        rows = self.rows()
        with self._clients.open("w", newline="") as f:
            writer = csv.DictWriter(f, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        with self._rounds.open("w", newline="") as f:
            summed = csv.writer(f)
            summed.writerow(["round", "clients", "answered", *_COLUMNS[4:7], "failures"])
            for number in sorted({r["round"] for r in rows}):
                mine = [r for r in rows if r["round"] == number]
                summed.writerow(
                    [number, sum(r["clients"] for r in mine),
                     sum(r["clients"] for r in mine if r["answers"]),
                     *(sum(r[c] for r in mine) for c in ("bytes_down", "bytes_up")),
                     max(r["seconds"] for r in mine), sum(bool(r["failure"]) for r in mine)]
                )  # fmt: skip


def totals(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By node: rounds answered, answers, bytes and failures."""
    found: dict[str, dict[str, Any]] = {}
    for r in rows:
        mine = found.setdefault(
            r["node"],
            {"clients": r["clients"], "rounds": 0, "answers": 0, "bytes_down": 0, "bytes_up": 0,
             "failures": []},
        )  # fmt: skip
        mine["rounds"] += bool(r["answers"])
        for key in ("answers", "bytes_down", "bytes_up"):
            mine[key] += r[key]
        if r["failure"]:
            mine["failures"].append(f"round {r['round']}: {r['failure']}")
    return found
