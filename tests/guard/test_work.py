"""Puzzles: what is solved is accepted once, for who asked and what was asked."""

import hashlib
import math
from dataclasses import replace

import pytest

from dpsd.errors import UserError
from dpsd.guard.proof_of_work.work import (
    LEAST_BITS,
    PARTS,
    Puzzle,
    Spent,
    bits_of,
    make_puzzle,
    refused,
    solve,
)

SECRET = bytes(range(32))


def solved(bits=8.0, account="alice", images=4, now=1_000.0, **more):
    answer = solve(make_puzzle(SECRET, account, images, bits, now, **more))
    assert answer is not None
    return answer


def check(solution, account="alice", images=4, now=1_000.0, spent=None, secret=SECRET):
    return refused(secret, account, images, solution, now, spent or Spent())


def test_a_solution_is_accepted_once_for_at_most_its_images():
    solution, spent = solved(), Spent()
    assert check(solution, images=5) == "the puzzle was for 4 images"
    assert check(solution, images=3, spent=spent) is None
    assert check(solution, images=3, spent=spent) == "the solution was used before"


def test_nobody_else_can_use_it_nor_later_nor_after_a_change():
    solution = solved(lifetime=60)
    assert check(solution, now=1_060.0) is None
    assert check(solution, now=1_061.0) == "the puzzle has expired"
    foreign = "no puzzle of this service for this account"
    assert check(solution, account="bob") == foreign
    assert check(solution, secret=bytes(32)) == foreign
    assert check("A" + solution[1:]) == foreign  # another count of images, say
    body, mac, nonces = solution.split(".")
    wrong = [f"{body}.{mac}.{'-'.join(nonces.split('-')[:-1])}", f"{body}.{mac}.", f"{body}.{mac}",
             f"{body}.{mac}.{nonces}-0"]  # fmt: skip
    assert [check(s) for s in wrong] == ["the solution is wrong"] * 4
    for rubbish in ("", "...", "x" * 500, "\u00e9.b.c", f"{body}.{mac}.-1-2", solution + "g"):
        assert check(rubbish) is not None


def test_a_solution_has_small_hashes_by_plain_sha256():
    solution = solved(bits=10.0)
    body, mac, nonces = solution.split(".")
    for part, nonce in enumerate(nonces.split("-")):
        text = f"{body}.{mac}:{part}:".encode() + int(nonce, 16).to_bytes(8, "big")
        assert int.from_bytes(hashlib.sha256(text).digest()[:8], "big") < 2 ** (64 - 10) * PARTS
    easier = nonces.replace(nonces.split("-")[0], "0", 1)
    assert nonces.split("-")[0] == "0" or check(f"{body}.{mac}.{easier}") == "the solution is wrong"


def test_the_work_is_what_the_difficulty_says():
    """The sum of eight geometric numbers of trials: mean 2^bits, standard deviation a third."""
    bits, n = 9.0, 60
    tries = []
    for k in range(n):
        nonces = solve(Puzzle(f"c{k}", bits)).rsplit(".", 1)[1].split("-")
        tries.append(sum(int(nonce, 16) + 1 for nonce in nonces))
    mean, spread = 2**bits, 2**bits / math.sqrt(PARTS)
    assert abs(sum(tries) / n - mean) < 5 * spread / math.sqrt(n)
    assert max(tries) < mean + 8 * spread  # one part alone would vary far more


def test_difficulties_stay_within_bounds():
    assert bits_of(0) == LEAST_BITS and bits_of(2**12) == 12 and bits_of(1e30) == 40
    assert make_puzzle(SECRET, "a", 1, 99, 0.0).bits == 40
    with pytest.raises(UserError, match=r"bits: 41.*0 to 40"):
        solve(Puzzle("c", 41))


def test_a_client_may_give_up():
    hard = replace(make_puzzle(SECRET, "a", 1, 40, 0.0))
    assert solve(hard, seconds=0.01) is None


def test_used_solutions_take_bounded_memory_and_a_full_memory_accepts_nothing():
    spent = Spent(most=3)
    assert [spent.take(c, 10.0, 0.0) for c in "abc"] == [True] * 3
    assert not spent.take("d", 10.0, 9.0)  # what was used must not be forgotten
    assert spent.take("d", 20.0, 11.0) and spent.take("e", 20.0, 11.0)  # the old ones expired
