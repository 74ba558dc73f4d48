"""The resources of each pool of actors or ranks, in Ray's words."""

from typing import Any

from pydantic import Field, model_validator

from fastdistill_ray.knobs import Knobs


class PoolKnobs(Knobs):
    workers: int = Field(
        default=1,
        ge=1,
        description="Number of actors or ranks, or [least, most]: as many as there is room for; "
        "actors that nothing is left for are ended.",
    )
    min_workers: int | None = Field(
        default=None, ge=1, description="Fewest of them, as workers: [least, most] says too."
    )
    cpus: float = Field(default=1.0, ge=0, description="CPUs of each worker.")
    gpus: int = Field(default=0, ge=0, description="GPUs of each worker.")
    memory_gib: float = Field(
        default=0.0, ge=0, description="Memory reserved for each worker; 0: not counted."
    )
    resources: dict[str, float] = Field(
        default={},
        description="Custom resources of each worker, as nodes declare them: {name: amount}.",
    )
    labels: dict[str, str] = Field(
        default={},
        description="Labels that its nodes must have, as Ray selects: value, !value, in(a, b).",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_a_range(cls, pool: Any) -> Any:
        workers = pool.get("workers") if isinstance(pool, dict) else None
        if not isinstance(workers, list | tuple):
            return pool
        if len(workers) != 2 or not all(type(one) is int for one in workers):
            raise ValueError(f"workers: {list(workers)}, expected a number or [least, most]")
        return {**pool, "min_workers": workers[0], "workers": workers[1]}

    @property
    def least(self) -> int:
        return self.min_workers or self.workers

    @property
    def is_range(self) -> bool:
        return self.least < self.workers

    def remote_args(self) -> dict[str, Any]:
        """What one actor takes and where it may run, in Ray's words."""
        where = {"resources": self.resources, "label_selector": self.labels}
        where |= {"memory": self.memory_gib * 2**30}
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            **{name: value for name, value in where.items() if value},
        }


class PoolsKnobs(Knobs):
    teacher: PoolKnobs = PoolKnobs()
    teachers: list[PoolKnobs] = Field(
        default=[],
        description="Pools of the further `teachers`, in their order; empty: each as `teacher`.",
    )
    scorer: PoolKnobs | None = Field(
        default=None, description="Pool of the model that is asked about texts; none: as `teacher`."
    )
    writer: PoolKnobs | None = Field(
        default=None,
        description="Pool of the student that writes what it is trained on; none: as `evaluation`.",
    )
    judges: PoolKnobs = PoolKnobs(cpus=0.5)
    student: PoolKnobs = PoolKnobs()
    evaluation: PoolKnobs = PoolKnobs()
    autoscaling: bool = Field(
        default=False,
        description="The cluster adds nodes on demand: pools may exceed what is there now.",
    )
    wait_minutes: float = Field(
        default=30.0,
        gt=0,
        description="With autoscaling, minutes that nodes for the first pools are waited for.",
    )
    stall_minutes: float = Field(
        default=60.0,
        gt=0,
        description="Minutes without any answer of a ready engine after which the run ends and "
        "notes where each worker hangs.",
    )
    gpu_hour_price: float = Field(
        default=0.0, ge=0, description="Price of a GPU hour, for the report; 0: hours only."
    )
    cpu_hour_price: float = Field(
        default=0.0, ge=0, description="Price of a CPU hour, for the report; 0: hours only."
    )

    def of_teacher(self, place: int) -> PoolKnobs:
        """0: `teacher`, then `teachers` in their order."""
        return self.teachers[place - 1] if place and self.teachers else self.teacher

    @property
    def of_scorer(self) -> PoolKnobs:
        return self.scorer or self.teacher

    @property
    def of_writer(self) -> PoolKnobs:
        return self.writer or self.evaluation

    def of_groups(self, num_teachers: int) -> list[PoolKnobs]:
        """All that are held while groups are made."""
        return [*(self.of_teacher(place) for place in range(num_teachers)), self.judges]

    def price_per_hour(self, pool: PoolKnobs) -> float:
        per_worker = pool.gpus * self.gpu_hour_price + pool.cpus * self.cpu_hour_price
        return pool.workers * per_worker
