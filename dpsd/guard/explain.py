"""What an account's owner may be told: what was done and why, and no detector's threshold."""

import time

from dpsd.guard.storage.store import Account, Watched


def sentence(text: str) -> str:
    """A reason as a sentence: a capital first, a full stop last."""
    text = text.strip()
    return text and text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def explanation(account: Account, watched: Watched | None, asked: int, dry_run: bool) -> str:
    """A short text for the owner of an account.

    Args:
        account: whose owner asks.
        watched: what the detectors hold of it.
        asked: images so far.
        dry_run: levels are written down, and those that the guard chose change no answer.
    """
    lines = [f"Your account {account.name} has asked about {asked:,} images."]
    blocked, level = account.state == "blocked", watched.level if watched else ""
    if not (blocked or level):
        lines.append("Nothing is limited beyond what your tier says.")
        return " ".join(lines)
    what = "it is blocked" if blocked else f'it is at the level "{level}"'
    if watched is not None and level:
        since = time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(watched.since))
        lines.append(f"Since {since} {what}. {sentence(watched.reason)}".rstrip())
        if dry_run and not watched.held and not blocked:
            lines.append("The service only watches at present, so your answers are unchanged.")
    else:
        lines.append(f"At present {what}.")
    lines.append("Tell us how you use the service if you think that this is wrong.")
    return " ".join(lines)
