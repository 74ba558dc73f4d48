"""What an objective takes of a rank's memory beside the student's own training: bytes, counted
before any weight is loaded.

Legend: K target tokens, M tokens of a text that are compared.
"""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from fastdistill_ray.models import load_config
from fastdistill_ray.objectives.contract import Across, Needs
from fastdistill_ray.training.across import COPIES
from fastdistill_ray.training.head import CHUNK_BYTES, Readout
from fastdistill_ray.training.knobs import TrainingKnobs
from fastdistill_ray.training.packing import Inputs
from fastdistill_ray.training.relations import Texts, projected_widths, related
from fastdistill_ray.training.student import Compared, Read, Student
from fastdistill_ray.training.taps import Vectors, attention_of, split

# Of [K, M] in float32 that levels hold at once, of both sides: raw and scaled log-probabilities,
# probabilities, differences.
TAKEN = 6
# Of tokens by tokens in float32 at once, of every head: relations and logarithms of both sides.
RELATIONS = 5


def hidden_size(folder: str) -> int:
    return load_config(folder).get_text_config().hidden_size


def head_bytes(folder: str, training: TrainingKnobs, shards: int, width: int) -> int:
    """Of the head of a model whose hidden states are stored, in numbers of `width` bytes: its
    share, what is gathered of it, and the states of a micro-batch in float32 and as they are
    multiplied."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(folder))
    head = sum(one.numel() for one in model.get_output_embeddings().parameters())
    weights = 0 if training.cpu_offload else head // shards
    gathered = head if shards > 1 or training.cpu_offload else 0
    states = training.micro_batch_tokens * hidden_size(folder)
    return width * (weights + gathered) + (4 + width) * states


def states_bytes(folder: str, training: TrainingKnobs, needs: Needs, width: int) -> int:
    """What a whole model beside the student leaves of its pass until the backward one: the states
    that its head reads, those of the blocks that are compared, in float32, and where the student is
    fed with these, of all tokens."""
    whole = len(needs.taps) if needs.fed else 0
    return (
        training.micro_batch_tokens
        * hidden_size(folder)
        * (width + 4 * len(needs.taps) + width * whole)
    )


def across_bytes(
    across: Across, training: TrainingKnobs, student: str, other: str, device: str
) -> int:
    """The most that comparing distributions of two tokenizers holds at once; of the folders of both
    models."""
    own, its = (load_config(folder).get_text_config() for folder in (student, other))
    tokens = training.micro_batch_tokens
    if across.kind == "sorted":  # a block of rows, and one more gradient of the head
        row = 4 * COPIES * (own.vocab_size + its.vocab_size)
        block = max(row, min(CHUNK_BYTES[device], tokens * row))
        return block + 4 * own.vocab_size * own.hidden_size
    if across.kind == "levels":
        taken = 4 * TAKEN * tokens * across.k
        # As long as a text can be whose prompt is as long as it is.
        longest = min(training.max_seq_len, tokens) // 2
        return taken + sinkhorn_bytes(longest, longest, across.iterations)
    return 0  # slices, as of other divergences


def sinkhorn_bytes(num_rows: int, num_columns: int, iterations: int) -> int:
    """Of `levels.Transport` in its backward pass: the costs, the plan and its slope, and two plans
    of each iteration with what each normaliser keeps of one."""
    return 4 * num_rows * num_columns * (2 * iterations + 5)


def relation_bytes(needs: Needs, training: TrainingKnobs, student: str, other: str) -> int:
    """What relating the tokens of one text to each other holds at once, and the gradients of what
    makes the relation, in float32; of the folders of both models."""
    assert needs.relations
    heads = needs.relations.num_heads or load_config(student).get_text_config().num_attention_heads
    tokens = training.micro_batch_tokens
    # As long as a text can be whose prompt is as long as it is.
    longest = min(training.max_seq_len, tokens) // 2
    one, two = needs.relations.blocks
    widest = max(*projected_widths(student, one).values(), *projected_widths(other, two).values())
    return 4 * (RELATIONS * heads * longest * 2 * longest + 2 * tokens * widest)


class Beside:
    """Stands in for a model without data, that of a folder, that is compared with the student in
    some blocks."""

    def __init__(
        self, student: Student, inputs: Inputs, texts: Texts, needs: Needs, folder: str
    ) -> None:
        """`texts`: as both models see them."""
        self.student, self.inputs, self.texts = student, inputs, texts
        self.needs, self.folder = needs, folder
        self.width = hidden_size(folder)

    def __call__(self, readout: Readout, own: Read) -> Compared:
        size = (len(self.inputs.sources), self.width)
        states = tuple(torch.zeros(size) for _ in self.needs.taps)
        if self.needs.relations:
            found = related(own.vectors, self._vectors(), self.texts)
            return Compared(states=states, relations=found)
        if not self.needs.fed:
            return Compared(states=states)
        given = {
            block: readout.hidden_KD.new_zeros(*self.inputs.input_ids.shape, self.width)
            for block, _ in self.needs.taps
        }
        return Compared(states=states, own=self.student.read_fed(self.inputs, list(given), given))

    def _vectors(self) -> list[Vectors]:
        """As the model's own would be, of all tokens."""
        assert self.needs.relations
        num_heads, num_tokens = self.needs.relations.num_heads, self.inputs.input_ids.numel()
        widths = projected_widths(self.folder, self.needs.relations.blocks[1])
        dtype = next(self.student.parameters()).dtype
        if num_heads:
            made = [torch.zeros(num_tokens, width, dtype=dtype) for width in widths.values()]
            return [split(one, num_heads) for one in made]
        rows, length = self.inputs.input_ids.shape
        heads = load_config(self.folder).get_text_config().num_attention_heads
        size = widths["q_proj"] // heads
        shapes = [(rows, width // size, length, size) for width in widths.values()]
        query, key, value = (torch.zeros(one, dtype=dtype) for one in shapes)
        return list(attention_of(query, key, value, None))


def distances(pairs: tuple[tuple[Tensor, Tensor], ...]) -> list[Tensor]:
    """What objectives make of compared states, of which autograd keeps their difference."""
    return [(own - other).square().mean() for own, other in pairs]
