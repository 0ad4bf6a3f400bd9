"""Two processes of one run, as torchrun would start them: `run_pair` here, the scenarios below.

Each scenario runs on both ranks and leaves what the tests look at in the folder.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

RANKS = 2


def run_pair(root: Path, scenarios: list[str], timeout: float = 300) -> list[subprocess.Popen]:
    """Run scenarios one after another on two processes with a core each; they must not hang."""
    environment = os.environ | {
        "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }  # fmt: skip
    ports = [str(free_port()) for _ in [*scenarios, "resumed"]]
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(root), *scenarios],
            env=environment | {"RANK": str(r), "LOCAL_RANK": str(r), "PORTS": " ".join(ports)},
        )
        for r in range(RANKS)
    ]
    try:
        for process in ranks:
            process.wait(timeout)
    finally:
        for process in ranks:
            process.kill()
    return ranks


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def one_round(root, answers=1000, **sections):
    """One round of 1,000 images: two teacher calls, and batches that two ranks share unevenly."""
    from products import tiny_config

    from dpsd.config import parse_config

    tree = tiny_config(root).model_dump(mode="json")
    tree["student"] |= {"batch_size": 99, "refit_epochs": 0}
    tree["generator"] |= {"kind": "procedural", "shares": {"spectra": 1.0}}
    tree["loop"] |= {"rounds": 1}
    tree["privacy"] |= {"answers": answers}
    for section, values in sections.items():
        tree[section] |= values
    return parse_config(tree)


def two_rounds(root):
    """Two rounds and a pass of a fresh student, with a window that slides."""
    return one_round(root, 1200, loop={"rounds": 2, "window": 900}, student={"refit_epochs": 1})


@contextmanager
def in_float64():
    """Students that compute in float64.

    In float32 a gradient depends on the order of its sums (two per cent, where max-pooling has near
    ties), and Adam's first steps are signs of gradients. So weights tell nothing there.
    """
    from dpsd.student import student

    before, start = student.as_input, student.Student._start

    def started(own, seed, steps):
        start(own, seed, steps)
        own.model.double(), own.average.double()

    student.as_input, student.Student._start = lambda x: x.double() / 255, started
    yield
    student.as_input, student.Student._start = before, start


class Watched:
    """Notes what a rank draws, what its teacher sees, and the student that the rank ends with."""

    def __init__(self, root: Path, name: str, fails=lambda: False) -> None:
        import torch

        from dpsd.generator import synthesizer
        from dpsd.privacy.ledger import image_hashes
        from dpsd.student import student
        from dpsd.transcription import session

        transcribing = sys.modules["dpsd.transcription.transcribe"]
        self.out, self.seen, self.students, self.drawn = root / name, [], [], []
        self.load, self.transcribing = transcribing.load_teacher, transcribing
        rank = os.environ["RANK"]

        class Student(student.Student):
            def __init__(own, *args, **named):
                super().__init__(*args, **named)
                self.students.append(own)

        def load_teacher(config, home):
            teacher = self.load(config, home)

            def ask(images: torch.Tensor) -> torch.Tensor:
                if fails():
                    raise RuntimeError("this teacher is broken")
                self.seen += [h.tobytes().hex() for h in image_hashes(images)]
                return teacher(images)

            return ask

        def procedural(family, n, *args):
            self.drawn.append(n)
            return draw(family, n, *args)

        draw, synthesizer.procedural = synthesizer.procedural, procedural
        session.Student, self.notes = Student, root / f"{name}-rank{rank}.json"
        transcribing.load_teacher = load_teacher

    def transcribe(self, config, **named):
        """Transcribe, and write down what happened on this rank."""
        from safetensors.torch import save_file

        error = None
        try:
            self.transcribing.transcribe(config, out=self.out, **named)
        except Exception as e:
            error = [type(e).__name__, str(e)]
        self.transcribing.load_teacher = self.load
        if self.students:
            state = self.students[-1].average.state_dict()
            save_file({k: v.clone().contiguous() for k, v in state.items()},
                      self.notes.with_suffix(".safetensors"))  # fmt: skip
        self.notes.write_text(json.dumps({"seen": self.seen, "drawn": self.drawn, "error": error}))


def plain(root):
    """One round."""
    with in_float64():
        Watched(root, "plain").transcribe(one_round(root))


def mapped(root):
    """The same with a bank on disk."""
    from dpsd.student import bank

    bank.MAPPED_ABOVE, kept = 0, bank.MAPPED_ABOVE
    with in_float64():
        Watched(root, "mapped").transcribe(one_round(root))
    bank.MAPPED_ABOVE = kept


def gaussian(root):
    """Answers that show every bit of what the teacher and the student say."""
    privacy = {"mechanism": "gaussian", "vector": "gradient"}
    Watched(root, "gaussian").transcribe(one_round(root, privacy=privacy))


def whole(root):
    """Two rounds."""
    Watched(root, "whole").transcribe(two_rounds(root))


def cut(root):
    """The same, stopped after the first round and resumed."""
    module = sys.modules["dpsd.transcription.transcribe"]
    module._CHECKPOINT_SECONDS = 0.0

    def stop(record):
        raise RuntimeError("stop")

    Watched(root, "cut").transcribe(two_rounds(root), progress=stop)
    os.environ["MASTER_PORT"] = os.environ["PORTS"].split()[-1]
    Watched(root, "cut").transcribe(two_rounds(root), resume=True)


def breeding(root):
    """Variants of earlier queries, where each rank holds other classes for likely."""
    from dpsd.transcription import loop

    rows, loop.rows_at_once = loop.rows_at_once, lambda shape: 60
    watched = Watched(root, "breeding")
    session = sys.modules["dpsd.transcription.session"]

    class Turned(session.Student):
        def predict(own, images):
            p = super().predict(images)
            return p.flip(1) if os.environ["RANK"] == "1" else p

    session.Student = Turned
    generator = {"kind": "procedural", "shares": {"spectra": 1.0}, "select": 2, "recombine": 0.25}
    watched.transcribe(one_round(root, 400, loop={"rounds": 2}, generator=generator))
    loop.rows_at_once = rows


def broken(root):
    """Rank 1's teacher raises an error."""
    Watched(root, "broken", lambda: os.environ["RANK"] == "1").transcribe(one_round(root))


def crowded(root):
    """Fewer images a round than ranks."""
    Watched(root, "crowded").transcribe(one_round(root, 1))


def full(root):
    """The disk of rank 0 is full."""
    from dpsd.transcription import session

    before, session.free_bytes = session.free_bytes, lambda folder: 1000
    Watched(root, "full").transcribe(one_round(root))
    session.free_bytes = before


class Undecided:
    """A student that finds all classes alike."""

    def predict(self, images):
        return images.new_ones((len(images), 10)) / 10


def alone(root):
    """Another oracle is given: rank 0 asks alone, and draws alone, as a client in its process."""
    import torch

    from dpsd.generator.synthesizer import Synthesizer
    from dpsd.privacy.oracle import Oracle
    from dpsd.teachers.folder import read_folder
    from dpsd.transcription.entries import enter, ledger_of

    watched = Watched(root, "alone")

    def open_oracle(plan, run, synthesizer):
        home = read_folder(run.teacher_folder)
        enter(run, plan, home)
        teacher = watched.transcribing.load_teacher(run.config, home)
        client = Synthesizer(run.config, plan.facts, torch.device("cpu"))
        assert len(client.sample(30, Undecided(), round=7)) == 30
        return Oracle(teacher, plan, ledger_of(run), run.id, run.started, run.bank)

    watched.transcribe(one_round(root), open_oracle=open_oracle)


def steps(root):
    """Gradients and running statistics of two ranks, beside those of the whole batch."""
    import copy

    import torch
    import torch.distributed as dist

    from dpsd.device import join_processes, leave_processes, own_share, sum_gradients
    from dpsd.models.networks import build_model
    from dpsd.models.together import see_whole_batches, without_rows

    join_processes(torch.device("cpu"))
    found = {}
    for name, shape in (("cnn-small", (1, 12, 12)), ("cnn", (1, 12, 12)),
                        ("resnet20", (3, 8, 8)), ("scatter-bn", (1, 8, 8))):  # fmt: skip
        for rows in (7, 1):
            torch.manual_seed(rows)
            one = build_model(name, shape, 4)
            two = see_whole_batches(copy.deepcopy(one))
            x, y = torch.rand(rows, *shape), torch.randn(rows, 4)
            state = torch.get_rng_state()
            ((one(x) - y) ** 2).sum().backward()
            torch.set_rng_state(state)
            if len(own_share(x)):
                ((two(own_share(x)) - own_share(y)) ** 2).sum().backward()
            else:
                with without_rows():
                    (0 * two(torch.rand(1, *shape))).sum().backward()
            sum_gradients(two)
            assert one.state_dict().keys() == two.state_dict().keys()
            pairs = [(p.grad, q.grad) for p, q in zip(one.parameters(), two.parameters(),
                                                      strict=True)]  # fmt: skip
            pairs += list(zip(one.buffers(), two.buffers(), strict=True))
            gap = max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
            size = max(float(a.abs().max()) for a, _ in pairs)
            found[f"{name} {rows}"] = gap / size
    dist.barrier()
    leave_processes()
    (root / f"steps-rank{os.environ['RANK']}.json").write_text(json.dumps(found))


def main() -> None:
    """Run the scenarios named on the command line."""
    import torch

    import dpsd.transcription.transcribe  # noqa: F401

    torch.set_num_threads(1)
    ports = os.environ["PORTS"].split()
    for name, port in zip(sys.argv[2:], ports, strict=False):
        os.environ["MASTER_PORT"] = port
        globals()[name](Path(sys.argv[1]))


if __name__ == "__main__":
    main()
