"""How busy ranks are when a step's groups are dealt to them: simulated, in seconds.

    python -m benchmarks.dealing [--json FILE]

Lengths of completions are lognormal, 8 to a group. Work is counted in the operations of a model of
the size of Qwen2.5-1.5B; a rank is busy for its work and waits for the fullest one. By position the
first group goes to the first rank and so on, each whole unless it is larger than a micro-batch.
`python -m benchmarks.scaling` prints the same table.
"""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import make_parser, write_json
from fastdistill_ray.training.dealing import Work, deal, first_fit
from fastdistill_ray.training.packing import TrainCompletion, TrainGroup, batch_of
from fastdistill_ray.training.utilisation import num_pairs

BUDGET, COMPLETIONS, LONGEST = 8192, 8, 3840  # tokens, number, tokens
MEDIAN, SIGMA, PROMPT = 400, 0.8, (60, 200)
WIDTH, LAYERS, BLOCKS, VOCABULARY = 1536, 28, 1.31e9, 151_936
WORK = Work(token=6 * BLOCKS, target=6 * WIDTH * VOCABULARY, pair=12 * WIDTH * LAYERS)


class Case(NamedTuple):
    world_size: int
    groups_per_step: int

    def __str__(self) -> str:
        return f"{self.world_size} ranks, {self.groups_per_step} groups"


CASES = [Case(8, 16), Case(8, 64), Case(16, 64), Case(32, 128), Case(64, 256), Case(64, 64)]


class Busy(NamedTuple):
    """Mean work of a rank over that of the fullest one; most: with the longest completion alone."""

    by_position: float
    dealt: float
    most: float
    step: float  # time of a step by position over that as dealt, ranks waiting in every micro-batch


def lognormal_groups(number: int, seed: int) -> list[TrainGroup]:
    random = np.random.default_rng(seed)
    groups = []
    for name in range(number):
        drawn = random.lognormal(np.log(MEDIAN), SIGMA, COMPLETIONS).astype(int)
        completions = [
            TrainCompletion(np.zeros(length, np.int64), 1.0, 0.0)
            for length in drawn.clip(1, LONGEST)
        ]
        prompt = np.zeros(random.integers(*PROMPT), np.int64)
        groups.append(TrainGroup(str(name), prompt, completions))
    return groups


def busy_share(groups: list[TrainGroup], world_size: int, shared_prompt: bool) -> Busy:
    dealt = deal(
        groups,
        world_size=world_size,
        micro_batch_tokens=BUDGET,
        shared_prompt=shared_prompt,
        work=WORK,
    )
    position = [
        first_fit(groups[rank::world_size], BUDGET, shared_prompt) for rank in range(world_size)
    ]
    before, after = (
        [[work_of_batch(members, shared_prompt) for members in batches] for batches in ranks]
        for ranks in (position, dealt)
    )
    longest = max(
        work_of_batch([group._replace(completions=[one])], shared_prompt)
        for group in groups
        for one in group.completions
    )
    sums = [np.array([sum(rank) for rank in ranks]) for ranks in (before, after)]
    mean = sums[1].mean()
    return Busy(
        by_position=sums[0].mean() / sums[0].max(),
        dealt=mean / sums[1].max(),
        most=min(1.0, mean / longest),
        step=time_of(before) / time_of(after),
    )


def work_of_batch(members: list[TrainGroup], shared_prompt: bool) -> float:
    """Of all that is computed, padding too; counted from the arrays that a rank would be given."""
    if not members:
        return 0.0
    batch = batch_of(members, shared_prompt=shared_prompt, mask_prompt=True)
    rows, length = batch.inputs.input_ids.shape
    pairs = num_pairs(batch.inputs) if shared_prompt else rows * length**2 / 2
    tokens, targets = batch.counts["computed_tokens"], batch.counts["tokens"]
    return WORK.token * tokens + WORK.target * targets + WORK.pair * pairs


def time_of(ranks: list[list[float]]) -> float:
    """Of a step: in each round all wait for the fullest."""
    rounds = max(map(len, ranks))
    padded = np.array([[*rank, *[0.0] * (rounds - len(rank))] for rank in ranks])
    return float(padded.max(0).sum())


def simulate(num_steps: int = 5) -> list[dict[str, Any]]:
    rows = []
    for case in [*CASES, Case(64, 16)]:
        for shared_prompt in (True, False):
            found = np.array(
                [
                    busy_share(
                        lognormal_groups(case.groups_per_step, seed), case.world_size, shared_prompt
                    )
                    for seed in range(num_steps)
                ]
            ).mean(0)
            shares = dict(zip(Busy._fields, map(float, found), strict=True))
            layout = "packed" if shared_prompt else "padded"
            rows.append({**case._asdict(), "layout": layout, **shares})
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    print("busy share of the ranks (mean work over the fullest rank's), simulated")
    print("ranks  groups  layout  by position  dealt  at most  step is faster by")
    for row in rows:
        print(
            f"{row['world_size']:>5}  {row['groups_per_step']:>6}  {row['layout']}  "
            f"{row['by_position']:>11.2f}  {row['dealt']:>5.2f}  {row['most']:>7.2f}  "
            f"{row['step']:>16.2f}x"
        )


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    rows = simulate()
    print_table(rows)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
