import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from products import few_config

from dpsd.data.photographs import hash_of
from dpsd.errors import UserError
from dpsd.privacy.verify import verify_release
from dpsd.runs.samples import draw_samples
from dpsd.transcription.transcribe import transcribe


def config(root, file):
    generator = {"shares": {"photographs": 1}, "photographs": [str(file)]}
    return few_config(root, generator=generator)


def picture(path, seed):
    pixels = np.random.RandomState(seed).randint(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_run_on_photographs_lists_them_by_name_and_hash(tmp_path, monkeypatch):
    file = picture(tmp_path / "park.png", 0)
    run = transcribe(config(tmp_path, file), out=tmp_path / "run")
    pinned = [{"file": "park.png", "sha256": hash_of(file, None)}]
    facts = json.loads((run.release / "statement.json").read_text())
    assert facts["declared_public"]["photographs"] == pinned
    assert facts["declared_public"]["query_images"] == "crops of the photographs listed"
    tree = yaml.safe_load((run.release / "config.yaml").read_text())
    assert tree["generator"]["photographs"] == pinned
    for path in run.release.rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path
    verify_release(run.release, ledger=run.ledger_folder)

    images = draw_samples(run, 30).images
    alone = tmp_path / "given" / "away"
    shutil.copytree(run.release, alone)
    monkeypatch.chdir(tmp_path / "given")
    with pytest.raises(UserError, match=r"generator.photographs: park.png cannot be read"):
        draw_samples(alone, 30)
    shutil.copy(file, "park.png")
    assert torch.equal(draw_samples(alone, 30).images, images)

    picture(file, 1)
    with pytest.raises(UserError, match=r"generator.photographs: .*park.png has SHA-256"):
        transcribe(config(tmp_path, file), out=tmp_path / "run", resume=True)


def test_the_default_photographs_are_listed_too(tmp_path):
    run = transcribe(
        few_config(tmp_path, generator={"shares": {"photographs": 1, "strokes": 1}}),
        out=tmp_path / "run",
    )
    declared = json.loads((run.release / "statement.json").read_text())["declared_public"]
    assert [p["file"] for p in declared["photographs"]] == ["china.jpg", "flower.jpg"]
    assert all(len(p["sha256"]) == 64 for p in declared["photographs"])
    assert (
        declared["query_images"]
        == "crops of the photographs listed, and procedural images (strokes)"
    )
    verify_release(run.release, ledger=run.ledger_folder)


def test_a_run_on_a_public_folder_goes_on_with_the_same_folder_alone(tmp_path):
    folder = tmp_path / "public"
    folder.mkdir()
    for i in range(400):
        picture(folder / f"{i}.png", i)
    generator = {"kind": "images", "source": str(folder)}
    run = transcribe(few_config(tmp_path, generator=generator), out=tmp_path / "run")
    listed = json.loads((run.release / "statement.json").read_text())["declared_public"]
    of, digest = run.config.generator.source_sha256.split(":")
    assert of == "contents"
    assert listed["query_folder"] == {"sha256": digest, "of": "sorted file names and contents"}
    verify_release(run.release, ledger=run.ledger_folder)
    samples = draw_samples(run, 10)
    assert torch.equal(samples.images, draw_samples(run, 10).images)
    picture(folder / "0.png", 401)
    with pytest.raises(UserError, match=r"generator.source: .*public has changed"):
        draw_samples(run, 10)
    with pytest.raises(UserError, match=r"generator.source: .*public has changed"):
        transcribe(few_config(tmp_path, generator=generator), out=tmp_path / "run", resume=True)
