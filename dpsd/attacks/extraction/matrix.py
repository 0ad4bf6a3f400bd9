"""One cell: one attack on one victim under one set of defences, with one seed."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from dpsd.attacks.extraction.attacks import ATTACKS
from dpsd.attacks.extraction.clone import Holdings, predict
from dpsd.attacks.extraction.endpoint import Service, VictimFailed
from dpsd.attacks.extraction.victim import Victim
from dpsd.attacks.store import Arrays, kept
from dpsd.console import Say, track
from dpsd.defences import Defence, answered, in_order, parse_defence
from dpsd.errors import UserError

VERSION = 1  # of what a cell does; parts of another are made again
UNDEFENDED = "none"
ACCOUNTS = 10
"""Names in which an attacker may ask; plain attacks use one."""
KEY = hashlib.blake2b(b"dpsd extraction laboratory", digest_size=16).digest()
"""Of the defences: fixed, so that figures repeat; a service draws its own."""


@dataclass(frozen=True)
class Cell:
    """What is run.

    Attributes:
        target: the victim's name.
        attack: a name in `ATTACKS`.
        defence: `none`, or names with options joined by `/`, as `honey:threshold=1.5/rounding`.
        seed: of clone and questions.
    """

    target: str
    attack: str
    defence: str
    seed: int

    @property
    def name(self) -> str:
        """For people and files."""
        return f"{self.target}-{self.attack}-{self.defence}-seed{self.seed}"


def defences_of(text: str) -> Sequence[Defence]:
    """The defences that a cell's text names.

    Raises:
        UserError: an unknown name or option, or one defence twice.
    """
    return () if text == UNDEFENDED else in_order(map(parse_defence, text.split("/")))


def refusal(cell: Cell, victim: Victim) -> str | None:
    """Why the attack cannot be made against the defence; None where it can.

    Raises:
        UserError: an unknown attack or defence.
    """
    if cell.attack not in ATTACKS:
        raise UserError(f"attack: {cell.attack!r}; accepted: {', '.join(ATTACKS)}")
    hides = victim.labels_only or any(d.hides_probabilities for d in defences_of(cell.defence))
    if hides and ATTACKS[cell.attack].needs == "probabilities":
        return f"{cell.attack} needs probabilities, {cell.defence} gives labels alone"
    of = ATTACKS[cell.attack].of
    if of and victim.architecture not in of:
        what = victim.architecture or "unknown"
        return f"{cell.attack} solves {', '.join(of)}; the {victim.name} is {what}"
    return None


def run_cell(
    cell: Cell,
    victim: Victim,
    holdings: Holdings,
    rows: Tensor,
    *,
    folder: Path,
    identity: str,
    say: Say,
) -> Arrays:
    """Attack once, or read what a stopped attack kept.

    Args:
        cell: what to run.
        victim: the target.
        holdings: of the attacker; the seed is the cell's.
        rows: uint8 [N, C, H, W] to measure on.
        folder: keeps a file for each cell.
        identity: of all that the figures depend on and the cell does not name.
        say: receives a line for each clone.

    Returns:
        For S steps of the ladder: `asked` int64 [S], `predicted` int16 [S, N], `held` float64 [S]
        (agreement with held-out answers; nan: none), `seconds` float64 [S]; or `refused`, a text,
        where the attack itself cannot make its first clone.

    Raises:
        VictimFailed: the victim does not answer. Nothing is kept of the cell.
    """
    whole = json.dumps([VERSION, asdict(cell), identity], sort_keys=True)

    def make() -> Arrays:
        defences = defences_of(cell.defence)
        attack = ATTACKS[cell.attack]
        model = victim.architecture if attack.of else holdings.model
        mine = replace(holdings, seed=cell.seed, known=tuple(defences), model=model)
        service = Service(
            victim.far or victim.ask, victim.facts, budget=max(holdings.ladder), key=KEY,
            defences=defences, labels_only=victim.labels_only,
            accounts=ACCOUNTS if victim.far is None else 1,
        )  # fmt: skip
        asked, predicted, held, seconds = [], [], [], []
        start = time.perf_counter()
        try:
            with service as endpoint:
                for clone in attack.run(endpoint, mine):
                    asked.append(service.asked)
                    predicted.append(predict(clone.model, rows).argmax(1).numpy().astype(np.int16))
                    held.append(np.nan if clone.agreement is None else clone.agreement)
                    seconds.append(time.perf_counter() - start)
                    say(f"{cell.name}: {service.asked:,} images asked, {seconds[-1]:.0f} s")
        except VictimFailed:
            raise
        except UserError as e:
            say(f"{cell.name}: {e}")
            if not asked:
                return {"refused": np.array(str(e))}
        return {
            "asked": np.array(asked), "predicted": np.stack(predicted), "held": np.array(held),
            "seconds": np.array(seconds),
        }  # fmt: skip

    name = cell.name.replace("/", "_").replace(":", "_")
    return kept(folder / f"{name}.npz", whole, make)


def run_cells(
    cells: Sequence[Cell],
    victims: Sequence[Victim],
    holdings: Holdings,
    images: Tensor,
    *,
    folder: Path,
    identity: str,
    say: Say,
) -> Arrays:
    """What victims, defences and clones say of the images that are measured on.

    Args:
        cells: to run; those that cannot be run are noted with the reason.
        victims: that the cells name.
        holdings: of the attacker.
        images: uint8 [N, C, H, W].
        folder: keeps finished cells.
        identity: of all that the figures depend on and the cells do not name.
        say: receives progress.

    Returns:
        All arrays of `extraction_report` but `labels`.
    """
    arrays: Arrays = {}
    by_name = {victim.name: victim for victim in victims}
    for victim in victims:
        said = victim.ask(images).float()
        arrays[f"{victim.name}/said"] = said.numpy()
        if victim.before is not None:
            arrays[f"{victim.name}/before"] = victim.before(images).float().numpy()
        for defence in dict.fromkeys(c.defence for c in cells if c.target == victim.name):
            given = answered(said, images, defences_of(defence), KEY, "account-0").float()
            arrays[f"{victim.name}/price/{defence}"] = given.numpy()
    for cell in track(cells, "extraction: cells"):
        why = refusal(cell, by_name[cell.target])
        if why is not None:
            arrays[f"{cell.name}/refused"] = np.array(why)
            continue
        victim = by_name[cell.target]
        found = run_cell(cell, victim, holdings, images, folder=folder, identity=identity, say=say)
        arrays |= {f"{cell.name}/{k}": v for k, v in found.items()}
    return arrays
