"""Tables of a federated run: bytes, answers and failures for each round and node.

They hold public events alone: what the server sees on the wire. No figure on private data is here.
How long a node took may depend on its data, so the seconds stay in the private part.
"""

import csv
from collections.abc import Mapping
from typing import Any

from dpsd.federated.messages import Request
from dpsd.federated.roster import Roster
from dpsd.federated.rounds import Collected
from dpsd.files import append_lines, read_lines
from dpsd.privacy.plan import Plan
from dpsd.runs.folder import Run

_COLUMNS = ("round", "node", "clients", "answers", "bytes_down", "bytes_up", "failure")


class Table:
    """`release/clients.csv`, a line for each round and node, and `release/rounds.csv`.

    `private/rounds.jsonl` holds all attempts, with the seconds until each node's reply.
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
        """One line for each round and node. For a round asked again it is the last attempt's."""
        found = read_lines(self._lines)
        return list({(r["round"], r["node"]): r for r in found}.values())

    def _write(self) -> None:
        rows = self.rows()
        with self._clients.open("w", newline="") as f:
            writer = csv.DictWriter(f, _COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        with self._rounds.open("w", newline="") as f:
            summed = csv.writer(f)
            summed.writerow(["round", "clients", "answered", *_COLUMNS[4:6], "failures"])
            for number in sorted({r["round"] for r in rows}):
                mine = [r for r in rows if r["round"] == number]
                summed.writerow(
                    [number, sum(r["clients"] for r in mine),
                     sum(r["clients"] for r in mine if r["answers"]),
                     *(sum(r[c] for r in mine) for c in ("bytes_down", "bytes_up")),
                     sum(bool(r["failure"]) for r in mine)]
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


def federation_facts(run: Run, plan: Plan) -> dict[str, Any]:
    """The facts that the statement of a federated run adds to those of any run.

    Returns:
        `fewest` (the least number of clients that answered in a round) and `answered` (by node,
        what it gave).
    """
    rows = Table(run).rows()
    by_round = [sum(r["clients"] for r in rows if r["round"] == n and r["answers"])
                for n in range(plan.rounds)]  # fmt: skip
    return {"fewest": min(by_round), "answered": totals(rows)}
