import hashlib

import numpy as np
import pytest
from PIL import Image

from dpsd.config.sections import GeneratorConfig
from dpsd.data.photographs import pinned, read_photographs
from dpsd.errors import UserError

MIX = {"photographs": 1}


def picture(path, height=40, width=60, mode="RGB"):
    pixels = np.random.RandomState(height).randint(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def section(*files):
    return GeneratorConfig(shares=MIX, photographs=[str(f) for f in files])


def test_the_default_is_the_two_of_scikit_learn():
    found = read_photographs(GeneratorConfig(shares=MIX))
    assert [tuple(p.shape) for p in found] == [(3, 427, 640)] * 2
    assert pinned(GeneratorConfig(shares=MIX)).photographs is None


def test_files_and_folders_are_listed_by_hash(tmp_path):
    (tmp_path / "more").mkdir()
    files = [picture(tmp_path / "a.png"), picture(tmp_path / "more" / "b.png", mode="L")]
    given = section(files[0], tmp_path / "more")
    found = pinned(given)
    assert [p.file for p in found.photographs] == [str(f) for f in files]
    digests = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    assert [p.sha256 for p in found.photographs] == digests
    assert pinned(found) == found
    assert [tuple(p.shape) for p in read_photographs(found)] == [(3, 40, 60)] * 2


def test_what_no_run_uses_is_not_read():
    unused = GeneratorConfig(photographs=["nowhere.png"])
    assert pinned(unused) == unused


def test_a_file_that_changed_is_refused(tmp_path):
    found = pinned(section(picture(tmp_path / "a.png")))
    picture(tmp_path / "a.png", height=41)
    with pytest.raises(UserError, match=r"generator.photographs: .*a.png has SHA-256 .* accepted"):
        read_photographs(found)


def test_unusable_files_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    picture(tmp_path / "small.png", height=23)
    for name, says in (
        ("empty", "holds no images; accepted"),
        ("missing.png", "cannot be read"),
        ("text.png", "text.png is not a readable image"),
        ("small.png", "small.png has 60x23 pixels; accepted: from 24x24"),
    ):
        with pytest.raises(UserError, match=f"generator.photographs: .*{says}") as error:
            read_photographs(section(tmp_path / name))
        assert len(str(error.value).splitlines()) == 1


def test_many_large_images_are_shrunk_to_fit_in_memory(tmp_path, monkeypatch):
    picture(tmp_path / "a.png", height=100, width=200)
    monkeypatch.setattr("dpsd.data.photographs._MOST_FLOATS", 4 * 50 * 50)
    (found,) = read_photographs(section(tmp_path / "a.png"))
    assert tuple(found.shape) == (3, 35, 70)
    picture(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"generator.photographs: 2 images; accepted .* up to 1,"):
        read_photographs(section(tmp_path))


@pytest.mark.parametrize(("most", "of"), [(2**30, "contents"), (0, "sizes")])
def test_a_public_folder_is_pinned_by_names_and_contents(tmp_path, monkeypatch, most, of):
    monkeypatch.setattr("dpsd.data.photographs._HASHED_BYTES", most)
    folder = GeneratorConfig(kind="images", source=str(tmp_path))
    files = [picture(tmp_path / "b.png", 30), picture(tmp_path / "a.png", 40)]
    known = {
        "contents": lambda f: hashlib.sha256(f.read_bytes()).hexdigest(),
        "sizes": lambda f: f.stat().st_size,
    }[of]
    lines = "".join(f"5 {f.name} {known(f)}\n" for f in reversed(files))
    found = pinned(folder)
    assert found.source_sha256 == f"{of}:{hashlib.sha256(lines.encode()).hexdigest()}"
    assert pinned(found) == found
    picture(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"generator.source: .* has changed: .* accepted"):
        pinned(found)
    (tmp_path / "c.png").unlink()
    files[0].write_bytes(files[0].read_bytes()[::-1])  # as many bytes
    if of == "contents":
        with pytest.raises(UserError, match=r"generator.source: .* has changed"):
            pinned(found)
    else:
        assert pinned(found) == found


def test_a_callable_is_not_pinned():
    source = GeneratorConfig(kind="images", source="package.module:draw")
    assert pinned(source) == source
