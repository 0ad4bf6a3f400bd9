"""Which classes a released student names on its own query images: few of them, and it collapsed."""

import torch

from dpsd.device import pick_device
from dpsd.privacy.releases import load_release
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller, load_student

_PER_CLASS, _LEAST_PER_CLASS, _MOST = 50, 10, 1000


def named_classes(run: Run) -> tuple[int, int] | None:
    """How many classes the student names, of how many there are; reads no private data.

    It looks at the newest query images that the run keeps: 50 for each class, at most 1,000.

    Args:
        run: finished.

    Returns:
        None where the run keeps fewer than 10 images for each class: too few to tell.

    Raises:
        UserError: a kept release is damaged, or the release holds no readable student.
    """
    classes = run.config.facts.classes
    wanted, kept = min(_PER_CLASS * classes, _MOST), 0
    batches = []
    for position in sorted((int(p.stem) for p in run.bank.glob("*.safetensors")), reverse=True):
        if kept >= wanted:
            break
        batches.append(load_release(run.bank, position)[0][: wanted - kept])
        kept += len(batches[-1])
    if kept < _LEAST_PER_CLASS * classes:
        return None
    student = Labeller(load_student(run), pick_device(run.config.device))
    return len(student.predict(torch.cat(batches)).argmax(1).unique()), classes
