"""What each command is for, and an example of it, as its help shows them."""

import argparse

from dpsd.cli.options import Help, add_talk

PURPOSES: dict[str, tuple[str, str]] = {
    "init": (
        "Start here: say what you have, and get a configuration with the route that fits.",
        "dpsd init my.yaml --weights my_resnet18.pt --model resnet18 --shape 3,64,64 --classes 10",
    ),
    "demo": (
        "See the whole way once, on data that come with the install, in some minutes.",
        "dpsd demo",
    ),
    "config": ("Look up a key while you write a configuration.", "dpsd config privacy.epsilon"),
    "plan": (
        "Read what a run would guarantee, for which unit, before anything is asked.",
        "dpsd plan my.yaml\n  dpsd plan my.yaml --route auto --unit record --epsilon 3",
    ),
    "check-teacher": (
        "Find out whether your own model is read as you mean it, before answers are paid for.",
        "dpsd check-teacher my.yaml --rows test.npz",
    ),
    "manifest": (
        "Number the records of files on disk, which a claim for one record or user needs.",
        "dpsd manifest my.yaml --out rows.txt",
    ),
    "teacher": (
        "Train a teacher beforehand; `dpsd transcribe` trains a missing one by itself.",
        "dpsd teacher configs/mnist_dp.yaml --dp epsilon=3",
    ),
    "transcribe": (
        "Turn the private model into a student that you may give away.",
        "dpsd transcribe my.yaml --out runs/mine",
    ),
    "federate": (
        "Learn one student from clients that keep their data and models at home.",
        "dpsd federate configs/mnist_federated.yaml --out runs/clients",
    ),
    "evaluate": (
        "See how good the student is beside its teacher, on rows that you hold.",
        "dpsd evaluate runs/mine --split test",
    ),
    "sample": (
        "Get labelled synthetic images to train other models on.",
        "dpsd sample runs/mine --n 10000 --out synthetic.npz",
    ),
    "export": (
        "Hand the student to people who do not have dpsd.",
        "dpsd export runs/mine --format torch",
    ),
    "report": (
        "Show a run to people who do not use a command line.",
        "dpsd report runs/mine",
    ),
    "verify": (
        "Check a release that somebody handed to you, as a data-protection officer would.",
        "dpsd verify runs/mine/release --key owner.pub",
    ),
    "ledger": (
        "See all that was ever released about a data set or by a teacher.",
        "dpsd ledger mnist --unit record",
    ),
    "budget": (
        "Say how much may ever be released about a data set, and see what is left.",
        "dpsd budget clinic --unit record --epsilon 3 --delta 1e-6",
    ),
    "key": (
        "Give those who verify your releases the key to do so.",
        "dpsd key mnist --out owner.pub",
    ),
    "attack": (
        "Try on your own run what others may try: reconstruct, identify members, steal.",
        "dpsd attack inversion runs/mine --fast\n  dpsd attack all runs/mine --standard",
    ),
    "audit": (
        "Check by attack that a run keeps the epsilon that it states for its unit.",
        "dpsd audit runs/mine --fast",
    ),
    "watermark": (
        "Mark a student before you give it away, so that copies can be told.",
        "dpsd watermark runs/mine --mark trigger",
    ),
    "claim": (
        "Find out whether a model that you met is a copy of yours.",
        "dpsd claim runs/mine --suspect runs/other",
    ),
    "serve": (
        "Let others ask the student over HTTP, with limits on who asks how much.",
        "dpsd serve runs/mine --port 8000",
    ),
    "guard": ("See who copies the model, and make that dear.",
              "dpsd guard calibrate runs/mine --images typical.npz"),
    "guard calibrate": ("Show the guard what your users usually send.",
                        "dpsd guard calibrate runs/mine --images typical.npz"),
    "guard scan": ("Look for copying in logs that you have already.",
                   "dpsd guard scan access.jsonl --out scan"),
    "guard clusters": ("See which accounts are one hand.", "dpsd guard clusters runs/mine"),
    "guard indicators": ("Tell other operators what you found.",
                         "dpsd guard indicators runs/mine --format stix --out found.json"),
    "guard import": ("Be warned by what others found.", "dpsd guard import runs/mine found.json"),
    "guard key": ("Make the key that you and other operators share.", "dpsd guard key runs/mine"),
    "account": (
        "Decide who may ask a served student, and how much.",
        "dpsd account add runs/mine alice --tier verified",
    ),
    "account add": ("Let somebody ask.", "dpsd account add runs/mine alice --tier verified"),
    "account list": ("See who asks how much.", "dpsd account list runs/mine"),
    "account tier": ("Change how much somebody may ask.",
                     "dpsd account tier runs/mine alice --tier trial"),
    "account admin": ("Let yourself into the dashboard.", "dpsd account admin runs/mine"),
    "account block": ("Stop somebody at once.", "dpsd account block runs/mine alice"),
    "account unblock": ("Let a blocked account ask again.", "dpsd account unblock runs/mine alice"),
    "account rotate": ("Replace a key that may have leaked.",
                       "dpsd account rotate runs/mine alice"),
    "account forget": ("Delete what is known about somebody.",
                       "dpsd account forget runs/mine alice"),
}  # fmt: skip
"""For each command (and action of `account`) a sentence and an example, or several lines of them.

A test walks all commands: each has an entry here, and each example is one that the parser takes.
"""


def explain(parser: argparse.ArgumentParser, name: str) -> None:
    """Give a command its purpose, example, shown defaults, `--quiet` and `--verbose`."""
    purpose, example = PURPOSES.get(name, ("", ""))
    about = parser.description or ""
    begin = f"{about[:1].upper()}{about[1:]}".rstrip(".")
    parser.description = f"{purpose}\n\n{begin}." if begin else purpose
    parser.epilog = f"example:\n  {example}" if example else None
    parser.formatter_class = Help
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in inner:
        for each, command in action.choices.items():
            explain(command, f"{name} {each}")
    if not inner:
        add_talk(parser)
