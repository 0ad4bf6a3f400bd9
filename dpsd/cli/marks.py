"""Commands on ownership: watermark marks a run's student, claim tests a suspect for a mark."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsd.cli.options import Commands, add_command, add_json, as_json
from dpsd.console import note, say
from dpsd.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dpsd.config import PublicFacts
    from dpsd.hardening.suspects import Suspect

_KINDS = ("trigger", "cosine", "account_marks", "fingerprint", "nasty", "robust")


def add_watermark(commands: Commands) -> None:
    """`dpsd watermark RUN --mark KIND`."""
    text = "mark or harden a run's student, beside its release"
    added = add_command(commands, "watermark", run_watermark, text, "RUN")
    added.add_argument("--mark", choices=_KINDS, required=True,
                       help="trigger, nasty and robust change a copy of the student; cosine and "
                       "account_marks are for whoever serves it; a fingerprint changes "
                       "nothing")  # fmt: skip
    added.add_argument("--name", metavar="NAME", help="of the mark; default: its kind")
    added.add_argument("--set", action="append", default=[], metavar="A=X",
                       help="a parameter of the mark, as in steps=1000; repeat it")  # fmt: skip
    added.add_argument("--seed", type=int, default=0, metavar="N", help="of the training")
    add_json(added)


def run_watermark(args: argparse.Namespace) -> int:
    """Make a mark."""
    from dpsd.device import use_threads
    from dpsd.hardening.make import make_mark
    from dpsd.hardening.marks import private_folder
    from dpsd.runs.folder import open_run

    run, parameters = open_run(args.target), _numbers(args.set)
    threads = use_threads(run.config.threads)
    if not args.json:
        note(threads)
    mark = make_mark(run, args.mark, name=args.name, seed=args.seed, parameters=parameters)
    if args.json:
        say(as_json(mark.facts))
        return 0
    student = mark.facts["student"] is not None
    say(f"{mark.kind} in {mark.folder}{': student.safetensors and mark.json' if student else ''}")
    for name, value in mark.facts["measured"].items():
        say(f"  {name} on synthetic images: {100 * value:.2f} %")
    if student:
        say(f"its price on test rows: dpsd attack extraction {run.path} --target {mark.name}")
    say(f"key (secret): {private_folder(run) / f'{mark.name}.key'}")
    return 0


def add_claim(commands: Commands) -> None:
    """`dpsd claim RUN --suspect MODEL`."""
    text = "test whether a suspected copy carries a mark: a p-value and a file of evidence"
    added = add_command(commands, "claim", run_claim, text, "RUN")
    added.add_argument("--name", metavar="NAME", help="of the mark; default: the only one")
    suspect = added.add_argument_group("the suspect")
    suspect.add_argument("--suspect", type=Path, metavar="PATH",
                         help="a run, a release, or a student.safetensors")  # fmt: skip
    suspect.add_argument("--suspect-model", metavar="NAME",
                         help="as teacher.model names it, with --suspect-weights")  # fmt: skip
    suspect.add_argument("--suspect-weights", type=Path, metavar="FILE",
                         help="of --suspect-model")  # fmt: skip
    added.add_argument("--account", metavar="NAME", help="whose account marks are looked for")
    added.add_argument("--images", type=Path, metavar="FILE.npz",
                       help="ask about its `images`, uint8 [N, C, H, W]; default: synthetic "
                       "ones. A wave shows best in images like those that the copy was made "
                       "from; account marks need those that the account asked")  # fmt: skip
    added.add_argument("--independent", type=Path, action="append", default=[], metavar="PATH",
                       help="a model trained without the student's answers; repeat it")  # fmt: skip
    added.add_argument("--alpha", type=float, default=1e-6, metavar="P",
                       help="claim below this p-value, default 1e-6")  # fmt: skip
    add_json(added)


def run_claim(args: argparse.Namespace) -> int:
    """Test a suspect: 0 where it is claimed, 1 where it is not."""
    from dpsd.config import load_config
    from dpsd.device import use_threads
    from dpsd.hardening.claims import claim
    from dpsd.hardening.marks import open_mark
    from dpsd.hardening.suspects import open_suspects
    from dpsd.runs.folder import open_run
    from dpsd.runs.release import release_folder

    run = open_run(args.target)
    facts = load_config(release_folder(run) / "config.yaml").facts
    mark = open_mark(run, args.name or _only_mark(run.path))
    suspect = _suspect(args, facts)
    images = None if args.images is None else _images(args.images, facts)
    threads = use_threads(run.config.threads)
    if not args.json:
        note(threads)
    found = claim(
        mark, suspect, images=images, account=args.account, alpha=args.alpha,
        independent=open_suspects(args.independent, facts),
    )  # fmt: skip
    if args.json:
        say(as_json({"p_value": found.p_value, "alpha": found.alpha, "claimed": found.claimed,
                     "figures": found.figures, "evidence": str(found.evidence)}))  # fmt: skip
    else:
        verdict = "claimed" if found.claimed else "not claimed"
        say(f"{suspect.source}: {verdict}, p = {found.p_value:.2g} ({mark.kind}, alpha "
            f"{found.alpha:g})")  # fmt: skip
        say(f"{found.method}; evidence: {found.evidence}")
    return 0 if found.claimed else 1


def _suspect(args: argparse.Namespace, facts: "PublicFacts") -> "Suspect":
    from dpsd.hardening.suspects import open_own_suspect, open_suspect

    own = args.suspect_model, args.suspect_weights
    if (args.suspect is None) == (own == (None, None)) or (own[0] is None) != (own[1] is None):
        raise UserError(
            "claim: give either --suspect PATH, or --suspect-model NAME and --suspect-weights FILE"
        )
    if args.suspect is not None:
        return open_suspect(args.suspect, facts)
    return open_own_suspect(own[0], own[1], facts)


def _only_mark(path: Path) -> str:
    names = sorted(p.parent.name for p in (path / "marked").glob("*/mark.json"))
    if len(names) != 1:
        made = ", ".join(names) or "none made; dpsd watermark makes one"
        raise UserError(
            f"--name: {len(names)} marks in {path}; accepted: one of its names ({made})"
        )
    return names[0]


def _numbers(settings: list[str]) -> dict[str, Any]:
    found = dict[str, Any]()
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            number = float(value)
            whole = value.lstrip("-").isdigit() and abs(number) < math.inf
            found[name] = int(value) if whole else number
        except ValueError:
            raise UserError(f"--set {setting!r}; accepted: NAME=NUMBER") from None
    return found


def _images(path: Path, facts: "PublicFacts") -> "Tensor":
    import zipfile

    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as file:
            images = torch.from_numpy(file["images"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as e:
        raise UserError(f"--images {path}: no readable npz with `images` ({e})") from e
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != facts.shape or not len(images):
        raise UserError(
            f"--images {path}: {images.dtype} {list(images.shape)}; accepted: uint8 "
            f"[N, {', '.join(map(str, facts.shape))}], N from 1"
        )
    return images
