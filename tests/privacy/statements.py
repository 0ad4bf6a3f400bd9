"""Statements and release folders that several tests share, and a forger who knows all the code."""

import json
from contextlib import suppress

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dpsd.privacy.ledger import Ledger
from dpsd.privacy.signature import sign, signing_key
from dpsd.privacy.statement import Made, file_hashes, guarantee, statement_facts
from dpsd.privacy.statement_text import statement_text
from dpsd.runs.begin import released_config


def stated(config, plan, run, teacher, folder, owner="t", **made):
    """The facts of a run's statement, from the ledger in a folder."""
    ledger = Ledger(folder, owner)
    head = ledger.head
    fields = {"finished": "2024-01-02", "runs": ledger.runs(head),
              "allowances": ledger.allowances(head)} | made  # fmt: skip
    return statement_facts(config, plan, Made(run, teacher, owner, head, **fields))


def write_release(folder, facts, config, keys):
    """A sealed and signed release; `keys` is the ledger's folder."""
    (folder / "tb").mkdir(parents=True)
    (folder / "student.safetensors").write_bytes(b"weights")
    (folder / "tb" / "events").write_bytes(b"curves")
    tree = released_config(config.model_dump(mode="json"))
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    seal(folder, facts, signing_key(keys))
    return folder


def seal(folder, facts, key):
    """Write text, card, hashes and signature of the facts."""
    with suppress(Exception):  # a forger's facts may have no text: then the old one stays
        text = statement_text(facts)
        (folder / "statement.txt").write_text(text)
        (folder / "README.md").write_text(f"# Card\n\n```text\n{text}```\n")
    plain = json.loads(json.dumps(facts | {"files": file_hashes(folder)}))
    (folder / "statement.json").write_text(json.dumps(plain))
    sign(folder, key)


def forge(folder, change):
    """Change facts and configuration, then write all that follows from them, signed anew.

    `change` takes the facts and the tree of config.yaml. Where no figures follow from such facts,
    the old ones stay.
    """
    facts = json.loads((folder / "statement.json").read_text())
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    change(facts, tree)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    with suppress(Exception):
        facts["guarantee"] = json.loads(json.dumps(guarantee(facts)))
    seal(folder, facts, Ed25519PrivateKey.generate())
