"""Units of privacy: relations, scope, trust, and the units that each release can protect."""

RELATION = (
    "two teachers that agree on every image but one, where an image is the exact uint8 tensor that "
    "reaches the teacher"
)
RELATIONS = {
    "answer": RELATION,
    "none": RELATION,
    "record": "two data sets of the same size that differ in the content of one row (replace-one)",
    "user": "two data sets over the same public roster of users, where the rows of one user are "
    "replaced by any number of other rows, also none",
}

FEDERATED_RELATIONS = {
    "answer": "two teachers of one client that agree on every image but one, where an image is the "
    "exact uint8 tensor that reaches the teacher",
    "none": "two teachers of one client that agree on every image but one",
    "record": "two worlds in which one row of one client's training data differs in content "
    "(replace-one)",
    "client": "two worlds in which everything that one client holds is replaced by anything else "
    "(replace-one client); which clients take part is public",
}
_UNTRUSTED = (
    "the server is not trusted: in each run the client's own oracle enforces its budget and its "
    "no-image-twice rule against it, and federated.runs in the client's own configuration says how "
    "many runs it answers"
)
FEDERATED_TRUST = {
    "answer": f"each client holds its teacher and adds its own noise; {_UNTRUSTED}",
    "record": f"each client holds its data and teachers and adds its own noise; {_UNTRUSTED}",
    "client": "the server sees each client's votes and is trusted to add the noise and to keep "
    "the votes to itself; there is no secure aggregation, so that nothing is claimed against the "
    "server; readers of release/ are not trusted",
    "none": "nothing is privatised: the server sees every client's probabilities",
}
TRUST = (
    "whoever runs the transcription holds the teacher and is trusted; readers of release/ are not"
)
ADD_OR_REMOVE = "two data sets of which one has one row more (add-or-remove-one)"
UNITS = {
    ("single", "open"): ("none",),
    ("single", "gaussian"): ("answer",),
    ("single", "pure"): ("answer",),
    ("ensemble", "votes"): ("record", "user"),
    ("inherited", "dp_sgd"): ("record",),
    ("federated", "votes"): ("record", "client"),
}
"""(Route, kind of release) -> units. Releases that all routes may make stand under `single`."""


TEST_RECORD = "test record"
"""The unit of an accuracy that is released: one row of the test data, which trains no teacher."""


def scope_of(unit: str) -> str:
    """`total` where epsilon covers all answers together, else `per_answer`."""
    return "total" if unit in ("record", "user", "client") else "per_answer"


def covers(run_unit: str | None, unit: str) -> bool:
    """Whether a run's noise was made for this unit or for a larger one."""
    return run_unit == unit or (run_unit, unit) in (("user", "record"), ("client", "record"))
