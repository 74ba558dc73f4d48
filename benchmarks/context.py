"""The longest prompt with one completion that a GPU can train on, by the memory plan.

    python -m benchmarks.context [--json FILE] [--models 0.5B 7B] [--gib 24 80 141]

A completion with its prompt is computed on one rank, whole; a larger group is split by completions.
So the longest is the largest micro-batch that fits, in bf16 with activation checkpointing, 5 % of
the card left free. The plan is made for two lengths, between and beyond which it is a straight line
of the tokens, and once more for what is below both. Models are configs of the sizes of Qwen2.5; no
weights.
"""

import tempfile

from transformers import Qwen2Config

from benchmarks.harness import make_parser, print_rows, write_json
from fastdistill_ray.training.knobs import LoraKnobs, OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.memory import GIB, estimate_memory

# hidden, intermediate, layers, heads, key heads, tied
SHAPES = {
    "0.5B": (896, 4864, 24, 14, 2, True),
    "1.5B": (1536, 8960, 28, 12, 2, True),
    "7B": (3584, 18944, 28, 28, 4, False),
    "32B": (5120, 27648, 64, 40, 8, False),
}
VOCABULARY = 152064
WAYS = {  # name -> ranks, rank of the adapter
    "1 GPU": (1, 0),
    "8 GPUs": (8, 0),
    "1 GPU, LoRA": (1, 16),
    "8 GPUs, LoRA": (8, 16),
}
FREE = 0.05
TOKENS = (32768, 65536)
MOST = 131072  # of the configs


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--gib", type=int, nargs="+", default=[24, 80, 141])
    options = parser.parse_args()
    rows = []
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            config_of(model).save_pretrained(folder)
            for way, (workers, rank) in WAYS.items():
                few, many = (needed(folder, tokens, workers, rank) for tokens in TOKENS)
                per_token = (many - few) / (TOKENS[1] - TOKENS[0])
                row = {"model": model, "way": way, "KiB a token": round(per_token / 1024, 1)}
                for size in options.gib:
                    room = (1 - FREE) * size * GIB - few
                    tokens = int(TOKENS[0] + room / per_token) // 1024 * 1024
                    if 0 < tokens < TOKENS[0]:
                        fits = needed(folder, tokens, workers, rank) <= few + room
                        tokens = tokens if fits else 0
                    row[f"{size} GiB"] = min(max(0, tokens), MOST)
                print_rows([row])
                rows.append(row)
    write_json(options.json, rows)


def config_of(model: str) -> Qwen2Config:
    hidden, intermediate, layers, heads, key_heads, is_tied = SHAPES[model]
    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=is_tied,
        max_position_embeddings=MOST,
        architectures=["Qwen2ForCausalLM"],
    )


def needed(folder: str, tokens: int, workers: int, rank: int) -> int:
    training = TrainingKnobs(
        max_seq_len=tokens,
        micro_batch_tokens=tokens,
        activation_checkpointing=True,
        lora=LoraKnobs(rank=rank),
    )
    plan = estimate_memory(folder, training, OptimizerKnobs(), workers=workers, device="cuda")
    return plan.total


if __name__ == "__main__":
    main()
