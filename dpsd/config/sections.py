"""The sections of the configuration: every key with its type, default and accepted range."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from dpsd.config.splits import SplitFile, resolve_split

ONE_LINE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*"
"""Text without line breaks and other control characters: it stands in lines of the statement."""


def _one_line(text: str) -> str:
    if not re.fullmatch(ONE_LINE, text):
        raise ValueError("accepted is text of one line, without control characters")
    return text


Line = Annotated[str, AfterValidator(_one_line)]


class Section(BaseModel):
    """A part of the configuration: unknown keys, inf and nan are refused; values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def default_root() -> Path:
    """Where teachers and ledgers lie: `$DPSD_HOME`, else the user's data folder."""
    if home := os.environ.get("DPSD_HOME"):
        return Path(home)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "dpsd"


def check_name(name: str) -> str:
    """A data set's name, if it is one.

    Raises:
        ValueError: characters that no name has.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError(
            "a data set's name has up to 100 letters, digits, dots, dashes and underscores, and "
            "begins with a letter or digit"
        )
    return name


class DataConfig(Section):
    """The private data, and the facts about it that are declared public."""

    name: str = "digits"
    """digits | mnist | fashion_mnist | cifar10 | cifar10_jpeg | att_faces | image_folder |
    webdataset | npz | none (a checkpoint only) | an import path `package.module:callable`."""
    root: Path | None = None
    """Folder (or npz file) of the data; default `$DPSD_DATA`, else `data/`. A relative path starts
    at the working folder, not at the configuration. Images of a folder, of WebDataset shards and of
    an uncompressed npz stay on disk where they take more than 2 GiB once decoded."""
    classes: int | None = Field(default=None, ge=2)
    """Number of classes, public. Named data sets know theirs."""
    shape: tuple[int, int, int] | None = None
    """Channels, height, width of an image, public. Named data sets know theirs."""
    class_names: tuple[str, ...] | None = None
    """What people call the classes, in the order of their numbers; public. Null: their numbers.
    Named data sets know theirs."""
    dataset: str | None = None
    """The name that you give to these people's data: letters, digits, dots, dashes, underscores.
    All that is released about them is entered in one ledger under this name, whatever teacher,
    route or folder. Null: a named data set has its own name; any other data need one for the units
    record, user and client. Keep it when rows are mended or added; the statement repeats it."""
    units: int | None = Field(default=None, ge=2)
    """Number of units of privacy in the training data, public: rows, or users with unit user. Null:
    known for a named data set, else counted when the run begins."""
    rows: Path | None = None
    """Manifest from `dpsd manifest` that numbers the rows of an image folder or of WebDataset
    shards, in advance and independently of content. Unit `record` on them needs it."""
    user_ids: Path | None = None
    """Which user each row belongs to, over a public roster. Unit `user` needs it."""
    split: SplitFile | None = None
    """For attacks: private classes, public classes and rows, as `dpsd.config.splits.SplitFile` or
    the name of one that ships: digits | mnist | fashion_mnist | att_faces. The teacher then knows
    the private classes alone. Null: all classes are private."""

    @field_validator("dataset")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        return None if value is None else check_name(value)

    @field_validator("split", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return resolve_split(value)

    @model_validator(mode="after")
    def _rows_by_number(self) -> "DataConfig":
        if self.split is not None and (self.user_ids is not None or self.rows is not None):
            key = "user_ids" if self.user_ids is not None else "rows"
            raise ValueError(f"data.{key}: {getattr(self, key)} with data.split; accepted: null")
        return self

    def folder(self) -> Path:
        """Where the data lie."""
        return self.root or Path(os.environ.get("DPSD_DATA", "data"))


class Normalize(Section):
    """The teacher's own input normalisation, on a pixel range of 0 to 1, one entry a channel."""

    mean: tuple[float, ...]
    """Subtracted from each channel of an image whose pixels lie from 0 to 1."""
    std: tuple[float, ...]
    """Each channel is divided by it, after the mean is subtracted."""
    public: bool = False
    """You declare that the numbers were not computed on the private data. Then they are released,
    and listed as declared public; otherwise they stay in the private part of the run."""


class DpConfig(Section):
    """Training of the teacher by DP-SGD. Unit: one record; relation: replace-one.

    With an epsilon here, `epochs`, `batch_size`, `lr` and `augment` of `teacher` are not read.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """For one record. Null trains the teacher without DP."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """Of the guarantee for one record. At or above 1/M, M the number of records, it is refused."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """In units of the clipping norm. Null: the least within epsilon. Otherwise epsilon is a cap."""
    max_grad_norm: float = Field(default=0.1, gt=0)
    """The gradient of each row is clipped to this L2 norm."""
    batch_size: int = Field(default=4096, ge=1)
    """Expected size; rows are drawn by Poisson sampling."""
    epochs: float = Field(default=20, gt=0)
    """Expected number of times that a row is drawn."""
    lr: float = Field(default=4.0, gt=0)
    """Learning rate of SGD."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""


class TeacherConfig(Section):
    """The private model: one to train here (model and recipe), or the user's own (weights)."""

    model: str = "cnn"
    """cnn | cnn-small | cnn-lite | cnn-tiny | resnet20 | a torchvision model |
    `package.module:callable`; for an ensemble cnn | cnn-small | cnn-tiny | scatter-linear; for
    DP-SGD also scatter-linear | scatter-public | cnn-tanh."""
    weights: Path | None = None
    """The user's own trained weights (.pt, .safetensors), TorchScript or `torch.export` file. A
    relative path starts at the working folder, not at the configuration. A checkpoint may hold them
    below `state_dict`, `model_state_dict` or `model`; the prefixes `module.`, `_module.` and
    `_orig_mod.` of names are removed where the model lacks them."""
    path: Path | None = None
    """A teacher folder made by `dpsd teacher`; default: found by recipe under `root`."""
    root: Path = Field(default_factory=default_root)
    """Where teachers, data sets' ledgers and keys lie; default: `$DPSD_HOME`, else the user's data
    folder. All work on the same data must use the same one."""
    normalize: Normalize | None = None
    """Input normalisation of your own model. Null: it takes pixels from 0 to 1."""
    shards: int | None = Field(default=None, ge=2)
    """Teachers of an ensemble, each trained on its own part of the data. None: one teacher."""
    epochs: int = Field(default=12, ge=1)
    """Passes over the training rows of a teacher that is trained here without DP."""
    batch_size: int = Field(default=256, ge=2)
    """Rows in one update."""
    lr: float = Field(default=0.01, gt=0)
    """Highest learning rate of the training."""
    augment: Literal["none", "shift", "shift-flip", "affine"] = "shift"
    """How training rows are varied: moved, also mirrored, or turned, sheared and scaled."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the teacher's training. The run's own `seed` does not change the teacher."""
    shard_steps: int = Field(default=350, ge=1)
    """Updates of each teacher of an ensemble, whatever its shard's size."""
    shard_batch: int = Field(default=16, ge=1)
    """Records drawn, with replacement, for each of these updates."""
    copies: int = Field(default=5, ge=1)
    """scatter-linear: versions of a record that a teacher sees, one plain, the others augmented."""
    ridge: float = Field(default=0.001, gt=0)
    """scatter-linear: penalty on the squared weights, for each of the `copies`."""
    dp: DpConfig = DpConfig()

    @model_validator(mode="after")
    def _trained_here(self) -> "TeacherConfig":
        if self.dp.epsilon is not None and self.shards is not None:
            raise ValueError(
                f"teacher.shards: {self.shards} with teacher.dp.epsilon {self.dp.epsilon:g}; an "
                "ensemble needs no DP-SGD; set one of the two to null"
            )
        own = self.weights or (self.model if ":" in self.model else None)
        if self.dp.epsilon is not None and own is not None:
            raise ValueError(
                f"teacher.dp.epsilon: {self.dp.epsilon:g}, but teacher {own} is your own and is "
                "not trained here; accepted: null"
            )
        return self


class StudentConfig(Section):
    """The model that is released, and how it learns from the answers."""

    model: str = "cnn-small"
    """cnn | cnn-small | cnn-lite | cnn-tiny | resnet20 | scatter-linear | scatter-bn |
    scatter-public | a torchvision model | `package.module:callable`."""
    loss: Literal["dkd", "kd", "likelihood"] = "dkd"
    """Decoupled KD, Hinton's KD, or the mixture likelihood -log sum_c p(c) exp(ll(c))."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of DKD's target part; KD's mixing weight (at most 1)."""
    beta: float = Field(default=1.0, ge=0)
    """Weight of DKD's non-target part."""
    temperature: float = Field(default=1.0, gt=0)
    """Losses dkd and kd soften student and target by it."""
    prior_temperature: float = Field(default=2.0, ge=1)
    """Flattens the student's prediction where it serves as prior for its own posterior labels."""
    epochs_per_round: float = Field(default=1.0, gt=0)
    """Examples trained on in a round, in units of `queries_per_round`."""
    refit_epochs: int = Field(default=4, ge=0)
    """Passes of a fresh student over the whole bank after the last round. The fresh student is
    released. With 0 passes, the student of the loop is released."""
    smoothing: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy to the uniform distribution, added to the loss. It falls to 0 in
    the first half of the steps. Where answers are few or noisy, a class that the student gives up
    early hardly gets a gradient and never comes back. This term keeps all classes alive."""
    augment: Literal["none", "shift", "shift-flip", "affine"] = "none"
    """Augmentation of answered images, drawn anew at each use; for runs with few answers."""
    balance: float = Field(default=0.0, ge=0, le=1)
    """Rows of the passes over all answers are drawn in proportion to the frequency of their
    likeliest class to the power of minus this. 0 shows each row once a pass; 1 shows all classes
    equally often. Synthetic images look like some classes far oftener than like others. Answers
    with noise, and those that name no class, are read with the prediction of the loop's student."""
    batch_size: int = Field(default=256, ge=2)
    """Answered images in one update."""
    micro_batch: int | None = Field(default=None, ge=2)
    """Images whose activations are held at once; a batch's gradients add up. Null: the whole batch.
    Batch normalisation reads each micro-batch by itself."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: the weights of inner layers by Muon, the rest by AdamW. It learns more from each pass
    over noisy answers; its batches should be of thousands."""
    lr: float = Field(default=0.01, gt=0)
    """Highest learning rate."""
    average: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the moving average of the weights. The average is released."""


class Photograph(Section):
    """A file that you declare public, and the hash that it must have."""

    file: Line
    """A file, or a folder of them."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Null: any. A run enters the hash that it found, and the statement lists it."""


Augmentation = Literal["scale", "aspect", "turn", "flip", "colour", "tone", "paste"]


class GeneratorConfig(Section):
    """The synthesizer: makes query images from public knowledge alone."""

    kind: Literal["procedural", "adversarial", "mixed", "images"] = "procedural"
    """procedural: images drawn by rules and crops of photographs. adversarial: the trainable
    generator. mixed: both. images: images of `source`."""
    shares: dict[
        Literal["strokes", "blobs", "spectra", "leaves", "photographs", "adversarial"], float
    ] = {
        "strokes": 0.4,
        "blobs": 0.2,
        "spectra": 0.1,
        "leaves": 0.3,
    }
    """Shares of the mix, normalised to one. `adversarial` is read when kind is mixed."""
    photographs: tuple[Photograph, ...] | None = None
    """Files, or folders of them, that you declare public: `shares.photographs` of the images are
    crops of them. Null: the two photographs that ship with scikit-learn."""
    augment: tuple[Augmentation, ...] | None = None
    """How crops of photographs vary: scale | aspect | turn | flip | colour | tone | paste. Null: in
    all of these ways; but images of kind `images` are asked as they are, each once."""
    select: int = Field(default=1, ge=1)
    """Candidates drawn for each image asked; doubtful ones and rare classes are preferred."""
    recombine: float = Field(default=0.5, ge=0, lt=1)
    """Share of the candidates that are variants of earlier queries, spread evenly over the classes
    that the student predicts for them. Read with select above 1. `dpsd sample` varies its earlier
    candidates with --balanced alone."""
    source: Line | None = None
    """kind `images`: an image folder that you declare public, or `package.module:callable`."""
    source_sha256: Annotated[str | None, Field(pattern="^(contents|sizes):[0-9a-f]{64}$")] = None
    """Hash of the folder's sorted file names and their contents (above 1 GiB of files: their
    sizes). Null: any. A run enters the hash that it found, and refuses to go on with another."""
    steps: int = Field(default=50, ge=0)
    """Updates of the trainable generator in a round."""
    lr: float = Field(default=0.001, gt=0)
    """Learning rate of the trainable generator."""
    latent: int = Field(default=64, ge=1)
    """Numbers that each image of the trainable generator is made from."""
    network: Literal["decoder", "fields"] = "decoder"
    """The trainable generator: a plain decoder, or one whose random weights already make varied
    images (`dpsd.generator.fields`)."""
    untrained: float = Field(default=0.0, ge=0, le=1)
    """Share of the trainable generator's images that come from untrained networks of kind `fields`,
    with weights drawn anew for every 128 images."""
    restart: int | None = Field(default=None, ge=1)
    """The trainable generator gets new random weights after so many rounds. Null: never."""
    classification: float = Field(default=1.0, ge=0)
    """Weight in the trainable generator's loss: the student shall be sure of each image."""
    entropy: float = Field(default=5.0, ge=0)
    """Weight: a batch shall show all classes equally often."""
    activation: float = Field(default=0.1, ge=0)
    """Weight: an image shall excite the student's features."""
    disagreement: float = Field(default=1.0, ge=0)
    """Weight: student and its moving average shall differ on an image."""

    @field_validator("photographs", mode="before")
    @classmethod
    def _by_path(cls, value: Any) -> Any:
        entries = [value] if isinstance(value, str | Path | dict) else value
        if not isinstance(entries, list | tuple):
            return entries
        return [{"file": str(e)} if isinstance(e, str | Path) else e for e in entries]


class LoopConfig(Section):
    """Rounds of the loop. rounds times queries_per_round is privacy.answers."""

    rounds: int = Field(default=20, ge=1)
    """How often images are asked and learned from."""
    queries_per_round: int | None = Field(default=None, ge=1)
    """Images asked in a round. Null: what `privacy.answers` and `rounds` give, else 2000."""
    window: int = Field(default=400_000, ge=1)
    """The bank keeps this many images, the newest. This bounds its memory."""


class PrivacyConfig(Section):
    """What is guaranteed. Epsilon belongs to the unit named beside it."""

    route: Literal["single", "ensemble", "inherited", "federated", "none"] = "single"
    """single: a checkpoint, unit answer. ensemble: votes of teachers on disjoint shards, unit
    record or user. inherited: a teacher trained with DP; the student inherits its guarantee.
    federated: clients that keep data and teachers, unit answer, record or client."""
    unit: Literal["answer", "record", "user", "client", "none"] = "answer"
    """What epsilon protects: one answer of the teacher, one record, all rows of one user, or all
    that one client holds. none: nothing."""
    mechanism: Literal["gaussian", "randomized_response", "noisy_votes", "none"] = (
        "randomized_response"
    )
    """What is released for an image. gaussian: a bounded vector with Gaussian noise.
    randomized_response: a label, at times another one. noisy_votes: the ensemble's votes with
    noise. none: the teacher's probabilities, without noise."""
    epsilon: float | None = Field(default=None, gt=0)
    """For one `unit`: with unit answer for each answer, otherwise for all answers together. Null
    with mechanism none alone."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """Of the same guarantee. At or above 1/M, M the number of records, users or clients, it is
    refused."""
    answers: int | None = Field(default=None, ge=1)
    """Images asked in the whole run, at most: `loop.rounds` times `loop.queries_per_round`. Null:
    as these two say."""
    asks_per_image: int = Field(default=1, ge=1)
    """How often a run may ask one image; epsilon per answer covers all these asks together."""
    vector: Literal["gradient", "probabilities", "onehot"] = "onehot"
    """gaussian: the teacher's KD gradient at the student's prediction, its probabilities, or its
    class."""
    bound: Literal["normalize", "clip"] = "normalize"
    """gaussian: the vector is brought to the norm `bound_norm`, or only shortened to it."""
    bound_norm: float = Field(default=1.0, gt=0)
    """gaussian: the L2 norm C."""
    top_k: int | None = Field(default=None, ge=1)
    """Only the classes that the student ranks highest are asked about. Null: all. At most the
    number of classes; randomized_response needs 2 or more."""
    prior: Literal["student", "uniform"] = "student"
    """randomized_response: the belief by which an answer is drawn, the student's or a uniform
    one."""
    ask: Literal["label", "group", "graded"] = "label"
    """randomized_response: for the class itself; yes or no to a public group of classes (for a
    small epsilon); or the first class, the second and their distance (for a large one)."""
    explore: float = Field(default=0.3, ge=0, le=1)
    """Share of images with a uniform prior: randomised response then draws over all classes. The
    share falls from 1 to this over the first half of the rounds. Without it, no answer would
    contradict a student that trusts a wrong prior."""
    insecure_seeded_noise: bool = False
    """Noise from `seed`, for tests and benchmarks. The run is then stamped NOT PRIVATE."""
    allow_open: bool = False
    """Go on although the run, or one before it, has no finite epsilon for the unit of a budget of
    the data set (`dpsd budget`). It is entered in the ledger and printed in the statement."""
    allow_large_delta: bool = False
    """Accept a delta at or above 1/M, M the number of records, users or clients: a mechanism that
    publishes one unit whole could meet it. For unit answer: a delta at or above 0.001."""


class FederatedConfig(Section):
    """Clients that share neither data nor models; read with privacy.route federated."""

    clients: int = Field(default=5, ge=2)
    """Number of clients that take part."""
    partition: Literal["iid", "dirichlet", "classes", "users", "own"] = "dirichlet"
    """Who holds which training rows. iid: at random. dirichlet: Dirichlet(alpha) over labels.
    classes: `client_classes` classes each. users: all rows of a user together. own: each client's
    own `data`, whole."""
    alpha: float = Field(default=0.5, gt=0)
    """partition dirichlet: the smaller, the fewer classes a client holds."""
    client_classes: int = Field(default=2, ge=1)
    """partition classes: how many classes each client holds."""
    least_rows: int = Field(default=10, ge=1)
    """Training rows that each client must get."""
    tries: int = Field(default=100, ge=1)
    """Most Dirichlet draws until each client has `least_rows`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the partition."""
    rounds: int | None = Field(default=None, ge=1)
    """Another name of loop.rounds; 1 is one-shot."""
    quorum: int | None = Field(default=None, ge=1)
    """Clients that must answer in each round; null: all."""
    deadline_s: float = Field(default=600, gt=0)
    """Seconds that clients have for a round; a client that is later counts as silent."""
    runtime: Literal["in-process", "simulation", "deployment"] = "in-process"
    """in-process: clients in this process. simulation: by Flower's engine, needs
    `dpsd[simulation]`. deployment: separate processes with TLS and node keys."""
    aggregate: Literal["plain", "labels", "confidence", "learned", "logits"] = "plain"
    """How the clients' answers become one answer (`dpsd.privacy.mechanisms.aggregate`)."""
    labels_share: float = Field(default=0.05, gt=0, lt=1)
    """Share of the budget (in zCDP) for each client's label histogram, with aggregate labels."""
    nodes: int | None = Field(default=None, ge=1)
    """Processes or threads that host the clients, evenly. Null: one each. For unit client alone."""
    runs: int | None = Field(default=None, ge=1)
    """Most runs that a client answers with its teacher: a bound against an untrusted server. Null:
    one with partition own, else any number. All runs compose in the client's ledger."""


class AttacksConfig(Section):
    """Attacks on the finished run; their results are private."""

    profile: str | None = None
    """Name of the split (`data.split`) that the run must have been made with. Null: the run's own
    split, whichever it is."""
    budget: Literal["fast", "standard", "full"] = "standard"
    """Seeds, steps and attacks; the same for every target."""
    cache: Path | None = None
    """Folder of priors trained on public data; default: `priors` beside the teacher's folder."""
