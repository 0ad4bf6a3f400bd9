"""The buttons: what each does to an account, and which ones this policy has."""

from collections.abc import Callable

from dpsd.defences import parse_defence
from dpsd.errors import UserError
from dpsd.guard import actions
from dpsd.guard.policy import Level
from dpsd.serving.admin.board import Board

ACTS = {
    "clear": "Forget the evidence so far, and take level and block away",
    "slow": "Answer fewer images a minute",
    "mark": "Put the account's own mark into its answers",
    "block": "Answer nothing any more",
    "unblock": "Answer again",
    "release": "Let evidence decide about the level again",
    "undo": "Take the latest step back",
}
"""Name of a button, and what it does."""
MARK = "account_marks"


def level_for(board: Board, name: str) -> str:
    """The policy's first level that slows or marks; empty: it has none."""
    wants: dict[str, Callable[[Level], bool]] = {
        "slow": lambda x: x.rate < 1,
        "mark": lambda x: any(parse_defence(t).name == MARK for t in x.defences),
    }
    return next((x.name for x in board.policy.levels if not x.block and wants[name](x)), "")


def missing(board: Board) -> dict[str, str]:
    """Buttons that do nothing here, and why."""
    words = {"slow": "lowers the rate", "mark": f"has the defence {MARK}"}
    return {name: f"the policy has no level that {does}"
            for name, does in words.items() if not level_for(board, name)}  # fmt: skip


def do(board: Board, account: str, name: str, by: str) -> None:
    """Do what a button says.

    Args:
        board: of the service.
        account: its id.
        name: a key of `ACTS`.
        by: who did it; goes into the log.

    Raises:
        UserError: an unknown button or account, one that does nothing here, or nothing to undo.
    """
    store = board.store
    if name not in ACTS:
        raise UserError(f"action: {name!r}; accepted: {', '.join(ACTS)}")
    if store.by_id(account) is None:
        raise UserError(f"account: {account!r} is unknown")
    if name in missing(board):
        raise UserError(f"action: {name}; {missing(board)[name]}")
    if name in ("slow", "mark"):
        done = {"slow": "Slowed", "mark": "Marked"}[name]
        level = level_for(board, name)
        actions.hold(store, board.policy, account, level, by, f"{done} by the operator.")
    else:
        plain = {"clear": actions.clear, "block": actions.block, "unblock": actions.unblock,
                 "release": actions.release, "undo": actions.undo}  # fmt: skip
        plain[name](store, account, by)
