"""Which routes are open for what a user has, what each guarantees, and which one to take.

The planner reads the configuration, counts of rows and users (public), and a teacher's DP ledger
where there is one. It never reads data, votes or weights. What it expects comes from
shard_figures.yaml.
"""

from pathlib import Path
from typing import Any, Literal

from dpsd.config import NAMED, Config, parse_config, public_facts
from dpsd.data.users import read_roster
from dpsd.errors import UserError
from dpsd.planning.candidates import (
    AUGMENT,
    MODEL,
    Holdings,
    Unit,
    ensemble_route,
    federated_route,
    inherited_route,
    single_route,
)
from dpsd.planning.describe import describe
from dpsd.planning.timing import ensemble_cost, inherited_cost
from dpsd.planning.votes import Choice
from dpsd.privacy.inherited import DP_LEDGER, read_dp_ledger
from dpsd.privacy.units import RELATIONS
from dpsd.teachers.folder import read_folder

Route = Literal["auto", "single", "ensemble", "inherited"]

ROUNDS = 8  # divides every number of answers tried
_KEPT = ("epsilon", "delta", "answers", "asks_per_image")


def planning_config(tree: dict[str, Any]) -> Config:
    """A configuration without its choice of route, unit and mechanism: the planner finds these.

    Raises:
        UserError: bad input, or no epsilon.
    """
    privacy = tree.get("privacy") or {}
    if isinstance(privacy, dict):
        tree = tree | {"privacy": {k: v for k, v in privacy.items() if k in _KEPT}}
        if privacy.get("epsilon") is None:
            raise UserError(
                "privacy.epsilon: null; accepted with --route: a number above 0, as in --epsilon 1"
            )
    return parse_config(tree)


def plan_routes(
    config: Config, route: Route, unit: Unit, *, rows: int | None = None, assume: str | None = None
) -> dict[str, Any]:
    """The routes, their guarantees and the choice, as plain values.

    Args:
        config: from `planning_config`; its epsilon is meant for `unit`.
        route: the wanted one, or `auto`.
        unit: what the guarantee must protect.
        rows: number of training records, public; None takes it from the data set or the manifest.
        assume: the benchmark in shard_figures.yaml whose votes are assumed; None takes the nearest.

    Returns:
        For each route `open` and `why`. `open` says whether the user can take the route with what
        there is. `why` says why not, or why the route does not protect the unit. `chosen` is an
        open route that protects the unit, or None.

    Raises:
        UserError: bad input, in one line; or the wanted route is closed or for another unit.
    """
    has = _holdings(config, rows, unit)
    if unit == "user" and has.data and has.users is None:
        raise UserError("data.user_ids: null; unit user needs a file of user ids")
    routes = [
        single_route(config, has, unit),
        ensemble_route(config, has, unit, assume),
        inherited_route(config, has, unit),
        federated_route(),
    ]
    wanted = next((r for r in routes if r["route"] == route), None)
    if wanted is not None and wanted["why"]:
        raise UserError(f"--route {route} --unit {unit}: {wanted['why']}")
    fit = [r["route"] for r in routes if r["open"] and not r["why"]]
    serving = fit if wanted is None else [route]
    preferred = [r for r in ("inherited", "ensemble", "single") if r in serving]
    chosen = preferred[0] if preferred else None
    _add_costs(config, has, routes, serving)
    return {
        "epsilon_asked": config.privacy.epsilon,
        "delta": config.privacy.delta,
        "unit": unit,
        "relation": RELATIONS[unit],
        "has": {
            "data": config.data.name if has.data else None,
            "own_teacher": has.own_teacher,
            "rows": has.rows,
            "users": has.users,
            "dp_ledger": has.ledger is not None,
        },
        "checkpoint_only": not has.data,
        "routes": routes,
        "chosen": chosen,
    }


def _holdings(config: Config, rows: int | None, unit: Unit) -> Holdings:
    t, d = config.teacher, config.data
    facts, data = public_facts(d), d.name != "none"
    ledger = None
    if t.path is not None and (t.path / DP_LEDGER).exists():
        ledger = read_dp_ledger(t.path, read_folder(t.path).uuid)
    own = t.weights is not None or t.path is not None or ":" in t.model
    if rows is None and data:
        named = NAMED.get(d.name)
        rows = _listed(d.rows) if named is None else named.rows
        if rows is None and unit != "answer":  # which a claim for answers does not ask for
            raise UserError(
                f"--rows: missing; with data.name {d.name} say how many training records there "
                "are, from 2 (a public number); without any left, data.name none"
            )
    users = None if d.user_ids is None else read_roster(d.user_ids)
    return Holdings(facts, data, own, rows, users, ledger)


def _listed(manifest: Path | None) -> int | None:
    """Number of records in a manifest, without the held-out tenth."""
    if manifest is None:
        return None
    try:
        lines = manifest.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"data.rows: {manifest} cannot be read ({type(e).__name__})") from e
    n = sum(bool(line) and not line.startswith("#") for line in lines)
    return max(0, n - max(1, n // 10))


def _add_costs(
    config: Config, has: Holdings, routes: list[dict[str, Any]], serving: list[str]
) -> None:
    """Add the cost here of each route that may be chosen, timed on synthetic images."""
    for r in routes:
        if r["route"] not in serving:
            continue
        if r["route"] == "single":
            r["estimate"] = describe(config)["estimate"]
        elif r["route"] == "ensemble":
            run = route_config(config, r)
            extra = ensemble_cost(run, has.facts, Choice(**_choice_fields(r["chosen"])))
            r["estimate"] = _joined(describe(run)["estimate"], extra)
            r["set"] = _settings(config, run)
        else:
            run = route_config(config, r)
            extra = {} if r["existing"] else inherited_cost(run, has.facts, has.rows or 2)
            r["estimate"] = _joined(describe(run)["estimate"], extra)
            r["set"] = _settings(config, run)


def _choice_fields(chosen: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in chosen.items() if k != "student"}


def route_config(config: Config, route: dict[str, Any]) -> Config:
    """The configuration of a run by this route."""
    tree = config.model_dump(exclude_unset=True)
    p, t = config.privacy, config.teacher
    if route["route"] == "ensemble":
        teacher = {"model": MODEL, "shards": route["chosen"]["shards"], "root": t.root}
        privacy = {"route": "ensemble", "unit": route["unit"], "mechanism": "noisy_votes",
                   "epsilon": p.epsilon, "delta": p.delta, "answers": route["answers"]}  # fmt: skip
        return parse_config(tree | {"teacher": teacher, "privacy": privacy,
                                    "loop": {"rounds": ROUNDS}})  # fmt: skip
    privacy = {"route": "inherited", "unit": "record", "mechanism": "none", "delta": p.delta}
    if p.answers is not None:
        privacy["answers"] = p.answers
    if route["existing"]:
        return parse_config(tree | {"privacy": privacy})
    dp = t.dp.model_dump(exclude_unset=True) | {"epsilon": p.epsilon, "delta": p.delta}
    teacher = {"model": route["model"], "root": t.root, "dp": dp}
    return parse_config(tree | {"teacher": teacher, "privacy": privacy})


def _settings(config: Config, run: Config) -> list[str]:
    """Overrides that turn the user's configuration into that of the run."""
    p, t = run.privacy, run.teacher
    out = [f"privacy.route={p.route}", f"privacy.unit={p.unit}", f"privacy.mechanism={p.mechanism}"]
    if p.route == "ensemble":
        out += [f"privacy.epsilon={p.epsilon}", f"privacy.delta={p.delta}",
                f"privacy.answers={p.answers}", f"loop.rounds={ROUNDS}",
                f"teacher.model={t.model}", f"teacher.augment={AUGMENT}",
                f"teacher.shards={t.shards}"]  # fmt: skip
    else:
        out += ["privacy.epsilon=null"]
    if p.route == "inherited" and t.path is None:
        out += [f"teacher.model={t.model}", f"teacher.dp.epsilon={t.dp.epsilon}",
                f"teacher.dp.delta={t.dp.delta}"]  # fmt: skip
    own = [name for name in ("weights", "path", "normalize") if getattr(config.teacher, name)]
    return out + [f"teacher.{name}=null" for name in own if getattr(t, name) is None]


def _joined(estimate: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The estimate of the loop plus the cost of training the teachers."""
    parts = dict(estimate["seconds_by_part"]) | extra.get("seconds_by_part", {})
    more = extra.get("bytes", 0)
    return estimate | {
        "seconds_by_part": parts,
        "seconds": sum(v for v in parts.values() if v is not None),
        "bytes": estimate["bytes"] + more,
    }
