"""The configurations in the documents are ones that dpsd takes."""

import pytest
import yaml
from pages import ROOT, blocks

from dpsd.config import parse_config
from dpsd.privacy.plan import make_plan

FOUND = [text for language, text in blocks((ROOT / "docs/teachers.md").read_text())
         if language == "yaml"]  # fmt: skip


@pytest.mark.parametrize("text", FOUND)
def test_a_configuration_of_the_page_on_teachers_plans(text):
    config = parse_config(yaml.safe_load(text))
    assert make_plan(config).unit == "answer"


def test_the_large_x_rays_fit_the_teacher_and_the_figures_that_the_page_names():
    """Disk: the window's images of 224 x 224 bytes and at most 20 bytes a class and 16 beside."""
    from dpsd.models.frozen import Teacher
    from dpsd.models.networks import torchvision_model
    from dpsd.planning.timing import activation_bytes
    from dpsd.transcription.session import disk_bytes

    (text,) = FOUND
    config = parse_config(yaml.safe_load(text) | {"device": "cpu", "precision": "float32"})
    model = torchvision_model(config.teacher.model, 2)
    teacher = Teacher(model, classes=2, shape=config.facts.shape,
                      normalize=config.teacher.normalize)  # fmt: skip
    assert teacher.in_channels == 3
    assert activation_bytes(config, config.facts)["batch"] / 2**30 == pytest.approx(0.7, abs=0.05)
    disk = disk_bytes(config, make_plan(config))
    assert disk == pytest.approx(100_000 * (224 * 224 + 56), rel=1e-3)
    assert disk / 2**30 == pytest.approx(4.7, abs=0.05)
