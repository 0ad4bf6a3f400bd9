import numpy as np
import pytest
from PIL import Image

from dpsd.config import parse_config
from dpsd.planning.describe import describe
from dpsd.planning.text import describe_text

TREE = {
    "device": "cpu",
    "data": {"name": "none", "shape": [1, 12, 12], "classes": 3},
    "teacher": {"model": "cnn-small"},
    "student": {"model": "cnn-small"},
    "loop": {"rounds": 2},
    "privacy": {"mechanism": "randomized_response", "epsilon": 1, "answers": 600},
}


def described(**sections):
    return describe(parse_config(TREE | sections))


def near_lines(facts):
    return [x for x in describe_text(facts).splitlines() if x.startswith("Near-duplicates")]


def test_the_rate_of_near_duplicates_is_printed():
    facts = described(generator={"select": 2})
    found = facts["near_duplicates"]
    assert 0 < found["share"] < 0.5
    assert (found["distance"], found["compared"]) == (8, 600)
    (line,) = near_lines(facts)
    assert f"expected: {100 * found['share']:.1f} % of 600 images" in line
    assert "root mean square of 8 of 255 grey levels (8 x 8 averages)" in line
    assert described(generator={"select": 2})["near_duplicates"] == found


def test_time_is_told_in_hours_and_what_shortens_a_long_run():
    facts = described(generator={"select": 2})
    told = {}
    for seconds in (4 * 3600, 124_485):
        facts["estimate"] |= {"seconds": seconds, "seconds_by_part": {"student": 7500.0}}
        told[seconds] = describe_text(facts)
    assert (
        "Time, estimated: 34 h 34 min on " in told[124_485] and "student 2 h 5 min" in told[14400]
    )
    assert "Shorter with fewer answers" in told[124_485]
    assert "Time, estimated: 4 h 0 min" in told[14400] and "Shorter" not in told[14400]


def test_repeats_that_the_oracle_refuses_are_not_counted(tmp_path):
    """A folder of three pictures, two of which look alike."""
    for i, level in enumerate((40, 45, 200)):
        Image.fromarray(np.full((12, 12), level, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    facts = described(generator={"kind": "images", "source": str(tmp_path)})
    assert facts["near_duplicates"]["compared"] == 3
    assert facts["near_duplicates"]["share"] == 1 / 3
    assert "33.3 % of 3 images" in near_lines(facts)[0]


@pytest.mark.parametrize("sections", [
    {"privacy": {"mechanism": "none", "answers": 600}},
    {"data": {"name": "digits"}, "teacher": {"model": "cnn-tiny", "shards": 8},
     "privacy": {"route": "ensemble", "unit": "record", "mechanism": "noisy_votes", "epsilon": 1,
                 "answers": 600}},
])  # fmt: skip
def test_other_units_have_no_such_line(sections):
    facts = described(**sections)
    assert facts["unit"] in ("none", "record")
    assert facts["near_duplicates"] is None
    assert near_lines(facts) == []


def test_a_single_answer_has_no_earlier_one():
    facts = described(loop={"rounds": 1}, privacy=TREE["privacy"] | {"answers": 1})
    assert facts["near_duplicates"]["share"] is None
    assert near_lines(facts) == []


def priors_of(**sections):
    facts = described(**sections)
    (line,) = [x for x in describe_text(facts).splitlines() if x.startswith("Query images")]
    return facts["priors"], line


def test_the_planner_names_the_priors_that_fit():
    colour = {"name": "none", "shape": [3, 12, 12], "classes": 3}
    found, line = priors_of(data=colour)
    assert found["fits"][0] == "photographs"
    assert "strokes 40 %" in line
    assert "set generator.shares.photographs (the statement lists them as declared public)" in line
    taken, line = priors_of(data=colour, generator={"shares": {"photographs": 3, "leaves": 1}})
    assert taken["asked"] == {"photographs": 0.75, "leaves": 0.25}
    assert "this run takes none" not in line
    said = describe_text(described(data=colour, generator={"shares": {"photographs": 1}}))
    assert "12 x 12, 3 classes, the photographs china.jpg, flower.jpg." in said
    assert priors_of(data={"name": "digits"})[0]["fits"] == ["strokes"]
    xray = {"name": "none", "shape": [1, 64, 64], "classes": 2}
    assert priors_of(data=xray)[0]["fits"][0] == "photographs"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({}, None),
        ({"name": "image_folder"}, " More than 14,266 private images stay on disk."),
        ({"name": "webdataset", "units": 14_000}, " 14,000 private images are held in memory."),
        ({"name": "image_folder", "units": 1_200_000},
         " 1,200,000 private images take 168.2 GiB once decoded, more than 2: they stay on disk, "),
    ],
)  # fmt: skip
def test_the_plan_says_where_private_images_will_lie(data, line):
    """2 GiB are 14,266.3 images of 3 x 224 x 224; 1.2 million of them are 168.2 GiB."""
    from dpsd.planning.describe import _where_images_lie
    from dpsd.planning.text import _data_line

    shape = [3, 224, 224]
    config = parse_config(TREE | {"data": TREE["data"] | {"shape": shape} | data})
    said = _data_line({"private_images": _where_images_lie(config)})
    assert said == "" if line is None else said.startswith(line)


def test_activations_of_a_batch_are_counted_by_hand():
    """resnet20 keeps 371 numbers a pixel, and the 64 inputs of its last layer.

    These are the input (3), the first convolution and its ReLU (2 x 16), and of each block two
    convolutions and two ReLUs: 4 x 16, then 4 x 32 at a quarter of the pixels, then 4 x 64 at a
    sixteenth; three blocks each.
    """
    from dpsd.planning.timing import activation_bytes

    assert 3 + 2 * 16 + 3 * 4 * (16 + 32 / 4 + 64 / 16) == 371
    for side in (12, 224):
        config = parse_config(TREE | {
            "precision": "float32", "data": TREE["data"] | {"shape": [3, side, side]},
            "student": {"model": "resnet20", "batch_size": 300},
        })  # fmt: skip
        found, each = activation_bytes(config, config.facts), 4 * (371 * side**2 + 64)
        timed = 256 if side == 12 else 8
        assert found == {"images": 300, "batch": 300 * each, "untimed": (300 - timed) * each}
        parts = config.student.model_copy(update={"micro_batch": 5})
        found = activation_bytes(config.model_copy(update={"student": parts}), config.facts)
        assert found == {"images": 5, "batch": 5 * each, "untimed": 0}


def test_the_plan_says_what_a_large_batch_takes():
    shown = []
    for batch in (8, 24):
        facts = described(
            precision="float32", data=TREE["data"] | {"shape": [3, 224, 224]},
            student={"model": "resnet20", "batch_size": batch, "refit_epochs": 0},
            privacy=TREE["privacy"] | {"answers": 40},
        )  # fmt: skip
        shown.append(facts["estimate"])
        said = describe_text(facts)
    each = 4 * (371 * 224**2 + 64)
    assert [e["activation_bytes"] for e in shown] == [8 * each, 24 * each]
    assert shown[1]["bytes"] - shown[0]["bytes"] >= 16 * each
    assert ", of which 1.7 GiB for the activations of a batch of 24 images (student.bat" in said
    assert "activations" not in describe_text(described())
    facts["estimate"]["device"] = "cuda"
    assert "at the peak, and on cuda 1.7 GiB for the activations" in describe_text(facts)


def test_the_plan_prints_it(tmp_path):
    facts = described(data=TREE["data"] | {"name": "image_folder", "root": str(tmp_path)})
    assert "at the peak. More than 14,913,080 private images stay on disk.\n" in describe_text(
        facts
    )


def test_the_plan_says_which_answers_the_last_passes_do_not_see():
    short = describe_text(
        described(loop={"window": 1_000}, privacy={"epsilon": 1, "answers": 1_500})
    )
    assert "The bank keeps the newest 1,000 of them (loop.window)" in short
    whole = describe_text(
        described(loop={"window": 1_500}, privacy={"epsilon": 1, "answers": 1_500})
    )
    assert "loop.window" not in whole
