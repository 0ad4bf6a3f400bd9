"""What a run of a configuration will and will not protect, in a few plain lines."""

from collections.abc import Iterator

from dpsd.config import Config
from dpsd.console import show_epsilon
from dpsd.privacy.plan import make_plan
from dpsd.privacy.wording import whom_it_protects


def protects(config: Config) -> Iterator[str]:
    """What the run will protect, and what it will not; every sentence names the unit."""
    unit, delta = config.privacy.unit, config.privacy.delta
    epsilon = config.teacher.dp.epsilon if config.privacy.route == "inherited" else None
    epsilon = epsilon or config.privacy.epsilon
    assert epsilon is not None
    if unit == "answer":
        worst = make_plan(config).worst_case_epsilon(delta)
        yield (
            f"Will protect: one answer of the teacher (epsilon {epsilon:g} per answer): what the "
            "teacher says of one synthetic image."
        )
        yield (
            "Will not protect: a record, a user or a client. One changed training record may "
            f"change every answer; the worst case is epsilon {show_epsilon(worst)} for one record "
            f"at delta {delta:g}."
        )
        return
    dp = config.teacher.dp
    delta = dp.delta if config.privacy.route == "inherited" else delta
    yield (
        f"Will protect: one {unit} of the training data (epsilon {epsilon:g} for one {unit} at "
        f"delta {delta:g}, all answers together). {whom_it_protects(unit)}"
    )
    left = {
        "record": "all records of one person together, or what a whole class looks like",
        "user": "what all users have in common, as what a class looks like",
        "client": "what all clients have in common; a server that deviates from the protocol",
    }[unit]
    yield f"Will not protect: {left} (unit: one {unit})."


def next_commands(config: Config, file: str) -> Iterator[str]:
    """The commands to go on with, the first one first."""
    route = config.privacy.route
    if config.data.rows is not None:
        yield f"dpsd manifest {file} --out {config.data.rows}"
    yield f"dpsd plan {file}"
    if route == "single":
        yield f"dpsd check-teacher {file}"
    elif route != "federated":
        yield f"dpsd teacher {file}"
    yield f"dpsd {'federate' if route == 'federated' else 'transcribe'} {file} --out runs/first"
    yield "dpsd verify runs/first/release"
