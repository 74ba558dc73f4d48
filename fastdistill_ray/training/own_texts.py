"""Whether the teacher beside the student knows the texts that it wrote, before the first update."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from fastdistill_ray.groups.signals import no_signals
from fastdistill_ray.groups.steps import RowReader, read_index
from fastdistill_ray.groups.store import Location, Store
from fastdistill_ray.objectives.contract import Needs
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.learner import Learner
from fastdistill_ray.training.packing import TrainCompletion, TrainGroup
from fastdistill_ray.training.reading import StudentText, selected_ids
from fastdistill_ray.training.sharding import reshard
from fastdistill_ray.training.step import gather_groups, pack, sum_over_ranks
from fastdistill_ray.training.student import to_device
from fastdistill_ray.training.trust import Apart, written_logprobs

LOGPROB = Needs(frozen="teacher")  # of the targets, beside no student
NO_STUDENT = Readout(torch.empty(0, 0), torch.empty(0, 0))
UNKNOWN = no_signals(1)._replace(values=np.full((1, 1), np.nan, np.float32))  # of a token


def check_own_texts(
    learner: Learner, teacher: str, folder: str, rows: list[dict[str, Any]]
) -> None:
    """UserError, the same on all ranks, where tokens that the frozen teacher wrote are less likely
    to it than then. Of the groups of a step, which lie in the store of the folder, one micro-batch
    of each rank is read; all ranks call this at once."""
    assert learner.frozen
    store = Store(folder)
    index, reader = read_index(store), RowReader(store, ())
    own = [row for row in rows if row["teacher"] == teacher and row["round"] is None]
    groups = [
        _as_written(row, _stored(row["problem_id"], index, reader), learner.text) for row in own
    ]
    found = gather_groups(groups)
    if not found:
        return
    batch = pack(learner._replace(no_signals=UNKNOWN), found)[0]
    seen = to_device(batch.frozen or batch.inputs, learner.device)
    said = learner.frozen(seen, NO_STUDENT, LOGPROB).frozen_logprob
    reshard(learner.frozen)
    assert said is not None and batch.signals is not None
    apart = Apart.of(batch.signals.values[:, 0], said.cpu().numpy())
    Apart(sum_over_ranks(apart.sums)).check(f"teacher.model {teacher}")


def _stored(key: str, index: pa.Table, reader: RowReader) -> pa.Table:
    row = pc.index(index["key"], key).as_py()
    return reader.table(Location(**index.slice(row, 1).to_pylist()[0]))


def _as_written(row: dict[str, Any], stored: pa.Table, text: StudentText) -> TrainGroup | None:
    """The completions whose tokens' log-probabilities are noted; None of none."""
    texts = selected_ids(row, text)
    completions = []
    for one, values in zip(texts, written_logprobs(stored, texts), strict=True):
        if values:
            noted = np.full((len(one.ids), 1), np.nan, np.float32)
            noted[: len(values), 0] = values
            signals = no_signals(len(one.ids))._replace(values=noted)
            completions.append(TrainCompletion(np.array(one.ids), 1.0, 0.0, signals))
    if not completions:
        return None
    frozen = text.encode_frozen_prompt(row) if text.encode_frozen_prompt else None
    return TrainGroup(
        row["problem_id"],
        np.array(text.encode_prompt(row)),
        completions,
        frozen_prompt_ids=None if frozen is None else np.array(frozen),
    )
