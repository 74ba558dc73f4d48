"""The recipe: one frozen tree of sections. A default lives on its field and nowhere else."""

from pydantic import Field

from fastdistill_ray.cluster.pools import PoolsKnobs
from fastdistill_ray.evaluation.knobs import EvaluationKnobs
from fastdistill_ray.generation.knobs import SamplingKnobs, TeacherKnobs
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.objectives import Objective
from fastdistill_ray.recipe.compare import NAME, CompareKnobs
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import SelectionKnobs
from fastdistill_ray.rounds.knobs import RoundsKnobs
from fastdistill_ray.scoring.knobs import ScorerKnobs
from fastdistill_ray.tasks import TaskKnobs
from fastdistill_ray.tasks.new_problems import NewProblemsKnobs
from fastdistill_ray.training.knobs import OptimizerKnobs, StudentKnobs, TrainingKnobs
from fastdistill_ray.training.trackers import TrackingKnobs

EXTENDS = "extends"  # names the recipe, beside this one, that this one changes
QUICK = "quick"  # sections that `--quick` puts over the others, for a first look


class AnyRecipe(Knobs):
    """What the recipe of every job has."""

    name: str = Field(pattern=NAME, description="Name of the run, and of its folder by default.")

    @property
    def stop_seconds(self) -> float:
        """That its driver, told to stop, may take for what it must not lose."""
        return 0.0

    def check_files(self) -> None:
        """UserError where the files that it names, being here, do not hold what it needs."""


class Recipe(AnyRecipe):
    """Of a distillation."""

    task: TaskKnobs
    teacher: TeacherKnobs
    new_problems: NewProblemsKnobs | None = Field(
        default=None,
        description="The teacher makes further training problems of those of the task, whose "
        "completions are judged by vote; none: it does not.",
    )
    teachers: list[TeacherKnobs] = Field(
        default=[],
        description="Further teachers; each problem is written by one, by task and share.",
    )
    scorer: ScorerKnobs | None = Field(
        default=None,
        description="Who is asked about the teachers' texts, where an objective learns what a "
        "model thinks of their tokens; none: `teacher` with its prompt and engine.",
    )
    student: StudentKnobs
    sampling: SamplingKnobs = SamplingKnobs()
    reward: RewardKnobs = RewardKnobs()
    advantage: AdvantageKnobs = AdvantageKnobs()
    selection: SelectionKnobs = SelectionKnobs()
    rounds: RoundsKnobs | None = Field(
        default=None,
        description="The student writes what it is trained on, in rounds; none: it is trained on "
        "the teachers' groups.",
    )
    objective: Objective
    optimizer: OptimizerKnobs = OptimizerKnobs()
    training: TrainingKnobs = TrainingKnobs()
    pools: PoolsKnobs = PoolsKnobs()
    evaluation: EvaluationKnobs = EvaluationKnobs()
    compare: CompareKnobs = CompareKnobs()
    tracking: TrackingKnobs = TrackingKnobs()

    @property
    def stop_seconds(self) -> float:
        return self.training.stop_seconds
