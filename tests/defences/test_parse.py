"""Defences by name: what is accepted, and one line for what is not."""

import pytest

from dpsd.defences import DEFENCES, Honey, Labels, Noise, defence_text, in_order, parse_defence
from dpsd.defences.defence import ORDER
from dpsd.errors import UserError


def test_names_are_those_of_the_order() -> None:
    assert tuple(DEFENCES) == ORDER
    assert all(DEFENCES[name]().name == name for name in DEFENCES)


def test_fields_and_defaults() -> None:
    assert parse_defence("noise:size=0.5") == Noise(0.5) != parse_defence("noise")
    assert parse_defence("labels") == Labels()
    some = parse_defence("honey:accounts=a+b,threshold=2")
    assert some == Honey(2.0, frozenset({"a", "b"}))
    assert parse_defence(defence_text(some)) == some
    for name in DEFENCES:
        assert parse_defence(defence_text(DEFENCES[name]())) == DEFENCES[name]()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "defence: '' is unknown; accepted: dp_noise, honey,"),
        ("nosie:size=1", "'nosie' is unknown"),
        ("noise:sice=1", "defence noise: 'sice=1'; accepted: size=X, each once"),
        ("noise:size", "'size'; accepted: size=X"),
        ("noise:size=1,size=2", "'size=2'; accepted: size=X, each once"),
        ("labels:k=1", "'k=1'; accepted: no field"),
        ("noise:size=big", "noise: size 'big'; accepted: a number"),
        ("noise:size=nan", "noise: size nan; accepted: above 0, at most 2"),
        ("noise:size=2.1", "size 2.1; accepted"),
        ("top_k:k=1.5", "top_k: k '1.5'; accepted: a whole number"),
        ("top_k:k=0", "top_k: k 0; accepted: from 1"),
        ("rounding:digits=0", "rounding: digits 0; accepted: 1 to 12"),
        ("dp_noise:epsilon=inf", "dp_noise: epsilon inf; accepted: finite, above 0"),
        ("honey:threshold=0", "honey: threshold 0.0; accepted"),
        ("honey:accounts=", "honey: accounts ''; accepted"),
        ("inconsistency:moved=0.6", "inconsistency: moved 0.6; accepted: 0 to 0.5"),
        ("account_marks:share=1", "account_marks: share 1.0; accepted"),
        ("cosine:amplitude=0", "cosine: amplitude 0.0; accepted"),
        ("cosine:frequency=-1", "cosine: frequency -1.0; accepted"),
    ],
)
def test_bad_texts_are_one_line(text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_defence(text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_one_defence_twice_is_refused() -> None:
    with pytest.raises(UserError, match="noise twice"):
        in_order([Noise(), Noise(0.5)])
