"""The whole configuration, frozen: sections that agree with each other."""

from typing import Any, Literal

from pydantic import Field, model_validator

from dpsd.config.public import PublicFacts, public_facts
from dpsd.config.rules import check_sections
from dpsd.config.sections import (
    AttacksConfig,
    DataConfig,
    FederatedConfig,
    GeneratorConfig,
    Line,
    LoopConfig,
    PrivacyConfig,
    Section,
    StudentConfig,
    TeacherConfig,
)


class Config(Section):
    """Everything that one command needs."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of query images and student. Noise comes from the system's cryptographic source, and
    from this seed with `privacy.insecure_seeded_noise` alone."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto (a GPU where there is one) | cpu | cuda | cuda:N."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of forward passes; auto is bfloat16 where the processor or GPU computes in it."""
    threads: int | None = Field(default=None, ge=1)
    """Processor threads of this process. Null: as many as `OMP_NUM_THREADS` says, else all."""
    owner: Line | None = Field(default=None, max_length=200)
    """Who is responsible for the data, with an address: repeated in the statement."""
    retention: Line | None = Field(default=None, max_length=200)
    """How long the private part of the run is kept, in words: repeated in the statement."""
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    generator: GeneratorConfig = GeneratorConfig()
    loop: LoopConfig = LoopConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    attacks: AttacksConfig = AttacksConfig()
    federated: FederatedConfig = FederatedConfig()

    @model_validator(mode="before")
    @classmethod
    def _dataset_of_data(cls, tree: Any) -> Any:
        """`teacher.dataset` is the older name of `data.dataset`."""
        teacher = tree.get("teacher") if isinstance(tree, dict) else None
        if not isinstance(teacher, dict) or "dataset" not in teacher:
            return tree
        name, data = teacher["dataset"], dict(tree.get("data") or {})
        if name is not None and data.setdefault("dataset", name) != name:
            raise ValueError(f"teacher.dataset: {name}, but data.dataset is {data['dataset']}")
        rest = {k: v for k, v in teacher.items() if k != "dataset"}
        return tree | {"teacher": rest, "data": data}

    @model_validator(mode="before")
    @classmethod
    def _federated_rounds(cls, tree: Any) -> Any:
        """`federated.rounds` is another name of `loop.rounds`."""
        rounds = ((isinstance(tree, dict) and tree.get("federated")) or {}).get("rounds")
        if rounds is None:
            return tree
        loop = dict(tree.get("loop") or {})
        if loop.setdefault("rounds", rounds) != rounds:
            raise ValueError(f"federated.rounds: {rounds}, but loop.rounds is {loop['rounds']}")
        return tree | {"loop": loop}

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        check_sections(
            data=self.data,
            teacher=self.teacher,
            student=self.student,
            generator=self.generator,
            privacy=self.privacy,
            federated=self.federated,
        )
        self.queries_per_round()
        return self

    @property
    def facts(self) -> PublicFacts:
        """What is declared public of the data.

        Raises:
            UserError: an unknown name, or a missing or contradicting declaration.
        """
        return public_facts(self.data)

    def answers(self) -> int:
        """Images asked in the whole run, at most."""
        queries = self.queries_per_round()
        return self.privacy.answers or queries * self.loop.rounds

    def queries_per_round(self) -> int:
        """Images asked in one round; the last round takes what the division leaves over.

        Raises:
            ValueError: rounds, queries and answers do not agree.
        """
        rounds, queries, answers = (
            self.loop.rounds,
            self.loop.queries_per_round,
            self.privacy.answers,
        )
        if answers is None:
            return queries if queries is not None else 2000
        if answers < (queries or rounds):
            raise ValueError(
                f"privacy.answers: {answers} is too small for one round of "
                f"{queries or 'at least one query in each of the ' + str(rounds)}"
                f"{' queries' if queries else ' rounds'}; accepted: from {queries or rounds}"
            )
        if queries is None:
            return answers // rounds
        if rounds * queries != answers:
            raise ValueError(
                f"privacy.answers: {answers} is not loop.rounds * loop.queries_per_round "
                f"({rounds} * {queries} = {rounds * queries}); leave one of the three out"
            )
        return queries


def quorum(config: Config) -> int:
    """Clients that must answer in each round."""
    return config.federated.quorum or config.federated.clients
