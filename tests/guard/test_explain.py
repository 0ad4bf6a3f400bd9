"""What an account's owner may be told."""

from dpsd.guard.explain import explanation, sentence
from dpsd.guard.storage.store import Account, Watched

ALICE = Account("a1", "alice", "trial", "active", "", 0.0)
SLOW = Watched("a1", b"", 9, 5.0, 1.1, 0.0, "slow", 1_795_732_200.0, 0, "it asks like a clock")


def test_an_account_without_a_level_is_told_so():
    text = explanation(ALICE, None, 1_234, dry_run=False)
    assert text == (
        "Your account alice has asked about 1,234 images. "
        "Nothing is limited beyond what your tier says."
    )


def test_level_time_and_reason_are_named_and_no_number_of_the_detectors():
    text = explanation(ALICE, SLOW, 10, dry_run=False)
    assert (
        'Since 26 November 2026, 22:30 UTC it is at the level "slow". It asks like a clock.' in text
    )
    assert "1.1" not in text and "answers are unchanged" not in text
    assert "answers are unchanged" in explanation(ALICE, SLOW, 10, dry_run=True)


def test_a_block_is_named_also_in_a_dry_run():
    blocked = Account("a1", "alice", "trial", "blocked", "", 0.0)
    for watched in (None, SLOW):
        text = explanation(blocked, watched, 10, dry_run=True)
        assert "it is blocked" in text and "unchanged" not in text


def test_reasons_become_sentences():
    assert sentence("it asks; it repeats") == "It asks; it repeats."
    assert sentence("Done.") == "Done." and sentence(" ") == ""
