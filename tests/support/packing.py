"""Groups in the micro-batches of one rank."""

from fastdistill_ray.training.dealing import first_fit
from fastdistill_ray.training.packing import MicroBatch, TrainGroup, batch_of


def pack_groups(
    groups: list[TrainGroup],
    *,
    micro_batch_tokens: int,
    shared_prompt: bool,
    mask_prompt: bool,
    multiple_of: int = 1,
) -> list[MicroBatch]:
    return [
        batch_of(
            members, shared_prompt=shared_prompt, mask_prompt=mask_prompt, multiple_of=multiple_of
        )
        for members in first_fit(groups, micro_batch_tokens, shared_prompt)
    ]
