"""Commands around a served student: serve, account."""

import argparse
import time
from pathlib import Path

from dpsd.cli.options import Commands, add_command, count
from dpsd.console import say

_DAY = 86_400


def add_serve(commands: Commands) -> None:
    """`dpsd serve RUN`."""
    text = "serve the released student over HTTP, guarded"
    added = add_command(commands, "serve", run_serve, text, "RUN")
    added.add_argument("--config", type=Path, metavar="FILE", help="limits and tiers, YAML")
    added.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    added.add_argument("--port", type=int, default=8000, help="default: 8000")
    added.add_argument("--admin-host", default="127.0.0.1", metavar="HOST",
                       help="of the dashboard; default: this machine alone")  # fmt: skip
    added.add_argument("--admin-port", type=int, metavar="PORT",
                       help="of the dashboard; default: 8001 with an admin key")  # fmt: skip
    added.add_argument("--behind-proxy", action="store_true",
                       help="a proxy of yours ends TLS before the service")  # fmt: skip
    added.add_argument("--certificate", type=Path, metavar="PEM", help="for TLS")
    added.add_argument("--private-key", type=Path, metavar="PEM", help="for TLS")
    added.add_argument("--workers", type=count, default=1, metavar="N",
                       help="processes that answer; more than one needs --store")  # fmt: skip
    added.add_argument("--mark-key", type=Path, metavar="FILE",
                       help="key of a mark of dpsd watermark, so that copies of what is served "
                       "can be claimed; default: a key of the guard's own")  # fmt: skip
    add_store(added)


def run_serve(args: argparse.Namespace) -> int:
    """Serve the released student."""
    from dpsd.serving.serve import serve

    serve(
        args.target, config=args.config, host=args.host, port=args.port,
        admin_host=args.admin_host, admin_port=args.admin_port,
        behind_proxy=args.behind_proxy, certificate=args.certificate,
        private_key=args.private_key, store=args.store, workers=args.workers,
        mark_key=args.mark_key, say=say,
    )  # fmt: skip
    return 0


def add_store(parser: argparse.ArgumentParser) -> None:
    """`--store`."""
    parser.add_argument("--store", metavar="ADDRESS",
                        help="redis://HOST:PORT/DATABASE; default: $DPSD_STORE, else a file beside "
                        "the release")  # fmt: skip


def add_account(commands: Commands) -> None:
    """`dpsd account ACTION RUN [NAME]`."""
    text = "who may ask a served student"
    added = commands.add_parser("account", help=text, description=text)
    added.set_defaults(run=run_account)
    actions = added.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, about in _ACTIONS.items():
        action = actions.add_parser(name, help=about, description=about)
        action.add_argument("target", metavar="RUN", type=Path, help="a run or release folder")
        add_store(action)
        if name not in ("list", "admin"):
            action.add_argument("name", metavar="NAME", help="of the account")
        if name in ("add", "tier"):
            action.add_argument("--tier", required=name == "tier", default="trial",
                                help="of the service's configuration; default: trial")  # fmt: skip
        if name == "add":
            action.add_argument("--days", type=count, metavar="N", help="until it expires")
            action.add_argument("--reference", default="", metavar="TEXT",
                                help="contract or payment, for your own records")  # fmt: skip


_ACTIONS = {
    "add": "make an account and show its key, once",
    "list": "all accounts, and the images that each has asked",
    "tier": "move an account to another tier",
    "block": "answer an account no more",
    "unblock": "answer an account again",
    "rotate": "give an account a new key; the old one is void at once",
    "admin": "make a key for the dashboard and show it, once; an older one is void at once",
    "forget": "delete an account and all that is kept about it",
}


def run_account(args: argparse.Namespace) -> int:
    """Change or show accounts."""
    from dataclasses import replace

    from dpsd.guard.accounts import add_account as make
    from dpsd.guard.accounts import read_pepper, rotate_key
    from dpsd.guard.admin_key import make_admin_key
    from dpsd.serving.service import guard_folder, store_of
    from dpsd.tables import Table

    folder = guard_folder(args.target)
    store = store_of(args.target, args.store)
    try:
        if args.action == "list":
            rows = [(a.name, a.tier, a.state, _day(a.made), _day(a.expires),
                     f"{store.spent(a.id):,}") for a in store.accounts()]  # fmt: skip
            columns = ("account", "tier", "state", "made", "expires", "images asked")
            say(Table(columns, rows, align="lllllr").text())
            return 0
        pepper = read_pepper(folder / "pepper")
        if args.action == "admin":
            key = make_admin_key(folder, pepper)
            store.note("", "admin key made", time.time(), by="operator")
            say(f"the admin key, shown this once:\n{key}")
        elif args.action == "add":
            expires = None if args.days is None else time.time() + args.days * _DAY
            made, key = make(store, pepper, args.name, args.tier, expires=expires,
                             reference=args.reference)  # fmt: skip
            say(f"account {made.name}, tier {made.tier}; its key, shown this once:\n{key}")
        elif args.action == "rotate":
            say(f"a new key for {args.name}, shown this once:\n"
                f"{rotate_key(store, pepper, args.name)}")  # fmt: skip
        elif args.action == "forget":
            store.forget(store.by_name(args.name).id)
            say(f"account {args.name}: nothing is kept about it any more")
        else:
            account = store.by_name(args.name)
            states = {"block": "blocked", "unblock": "active"}
            update = (
                {"tier": args.tier} if args.action == "tier" else {"state": states[args.action]}
            )
            store.change(replace(account, **update))
            store.note(account.id, args.action, time.time(), **update, by="operator")
            say(f"account {args.name}: {', '.join(f'{k} {v}' for k, v in update.items())}")
    finally:
        store.close()
    return 0


def _day(at: float | None) -> str:
    return "never" if at is None else time.strftime("%Y-%m-%d", time.gmtime(at))
