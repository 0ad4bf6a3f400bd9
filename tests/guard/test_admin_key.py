"""The admin key opens, nothing else does, and its file holds no secret."""

from dpsd.guard.accounts import add_account, who
from dpsd.guard.admin_key import admin_file, is_admin, make_admin_key
from dpsd.guard.storage.sqlite_store import SqliteStore

PEPPER = bytes(range(32))


def test_only_the_latest_key_under_the_right_pepper_opens(tmp_path):
    assert not is_admin(tmp_path, PEPPER, "dpsd_admin_")  # there is none yet
    old, new = make_admin_key(tmp_path, PEPPER), make_admin_key(tmp_path, PEPPER)
    assert is_admin(tmp_path, PEPPER, new) and not is_admin(tmp_path, PEPPER, old)
    assert not is_admin(tmp_path, bytes(32), new)
    secret = new.removeprefix("dpsd_admin_")
    for wrong in ("", secret, new[:-1], new + "x", f"dpsd_admjn_{secret}", admin_hash_of(tmp_path)):
        assert not is_admin(tmp_path, PEPPER, wrong)
    assert len(secret) >= 43  # 256 bits


def admin_hash_of(folder):
    return "dpsd_admin_" + admin_file(folder).read_text()


def test_the_file_has_no_secret_and_nobody_else_reads_it(tmp_path):
    key = make_admin_key(tmp_path, PEPPER)
    assert key.removeprefix("dpsd_admin_") not in admin_file(tmp_path).read_text()
    assert admin_file(tmp_path).stat().st_mode & 0o077 == 0


def test_the_admin_key_is_no_account_and_an_account_no_admin(tmp_path):
    store = SqliteStore(tmp_path / "guard.sqlite")
    _, key = add_account(store, PEPPER, "admin", "trial")
    admin = make_admin_key(tmp_path, PEPPER)
    assert who(store, PEPPER, admin) is None and not is_admin(tmp_path, PEPPER, key)
    store.close()
