"""Which families of models can be students, and what of them is exact.

    python -m benchmarks.families [--json FILE] [--markdown FILE] [FAMILY ...]

A small random copy of each family's default size goes through the trial that every student has
before a run pays for anything (`fastdistill_ray/training/trial.py`): on packed groups, on padded
rows, and with an adapter on its attention. Printed: exact or why it is refused, the relative errors
of log-probabilities and of the worst gradient against transformers' own in float64, and seconds.
`--markdown` writes docs/models.md.
"""

import re
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig
from transformers.utils import logging

from benchmarks.harness import make_parser, print_rows, write_json
from fastdistill_ray.errors import UserError
from fastdistill_ray.training.knobs import LoraKnobs
from fastdistill_ray.training.trial import check_student

EXACT = "exact"
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
}
HUNYUAN = {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
MOE = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
DEEPSEEK = {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
AS_THEY_ARE = """
afmoe apertus arcee bamba biogpt bitnet bloom codegen cohere cohere2 cwm deepseek_v3 diffllama
doge ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon falcon_h1 flex_olmo gemma gemma2 gemma3
gemma3_text gemma3n_text gemma4 gemma4_text glm glm4 glm4_moe glm4_moe_lite gpt2 gpt_bigcode
gpt_neo gpt_neox gpt_oss gptj granite granite_swa granitemoe granitemoehybrid granitemoeshared
helium hyperclovax jais2 jamba jetmoe lfm2 llama llama4 llama4_text longcat_flash mamba
mamba2 minicpm3 minimax minimax_m2 ministral3 mistral mixtral mpt nanochat nemotron_h olmo olmo2
olmo3 olmo_hybrid olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5 qwen3_5_text
qwen3_moe qwen3_next recurrent_gemma seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma
xglm youtu
"""
# Family -> what its default config is changed by: those of some are not of a whole model.
FAMILIES: dict[str, dict[str, Any]] = {
    **{family: {} for family in AS_THEY_ARE.split()},
    "deepseek_v2": {**SIZES, **DEEPSEEK, "num_key_value_heads": 8},
    "dots1": {**SIZES, **MOE, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "hunyuan_v1_dense": HUNYUAN,
    "ministral": SIZES,
    "nemotron": SIZES,
    "opt": {"layerdrop": 0.5, "dropout": 0.3},
    "starcoder2": {"residual_dropout": 0.3, "embedding_dropout": 0.3},
    "granite": {"logits_scaling": 8.0, "attention_multiplier": 0.25},
    "granite_swa": {"attention_multiplier": 0.0625},
    "minicpm3": {"dim_model_base": 256},
    "hyperclovax": {"logits_scaling": 0.125},
}
WAYS = {
    "packed": {"shared_prompt": True, "lora": LoraKnobs()},
    "padded": {"shared_prompt": False, "lora": LoraKnobs()},
    "adapter": {
        "shared_prompt": True,
        "lora": LoraKnobs(rank=4, target_modules=r".*(q_proj|k_proj|v_proj|qkv_proj|o_proj)"),
    },
}
HEAD = """# Models

Which families of transformers {version} can be students. A small random copy of each was tried on
packed groups (`training.shared_prompt: true`), on padded rows (`false`), and packed with an adapter
on its attention (`training.lora.rank: 4`). *exact*: in float64 log-probabilities are those of
transformers' own forward to 1e-6 and gradients to 1e-5 (most to 1e-15 and 1e-7), and an export has
every tensor of its source, as trained. All else is refused, before anything is paid, with the
reason shown. Where a family itself rounds to float32 and magnifies that (gemma3n), as much is
allowed as it differs from itself when its weights are changed by 1e-14. Mixtures of
experts whose family has a loss that evens their routers' choices are trained with it
(`training.router_loss`), and its value (to 1e-5) and gradients (to 1e-4) are held against
transformers' own; a run says where it is not trained.

Every run tries its own student so, in seconds: a family that is not in this table is exact or
refused just the same. The table is written by `python -m benchmarks.families --markdown
docs/models.md`; a test holds it against the code.

| family | packed groups | padded rows | adapter |
|---|---|---|---|
"""


def verdict(family: str, way: str) -> dict[str, Any]:
    """`verdict`: EXACT, or why it is refused; where it is exact, its errors."""
    with tempfile.TemporaryDirectory() as folder:
        AutoConfig.for_model(family, **FAMILIES.get(family, {})).save_pretrained(folder)
        try:
            errors = check_student(
                "student.model", folder, trains_router=True, on_gpu=False, **WAYS[way]
            )
        except UserError as error:
            return {"verdict": reason(str(error), family)}
    return {"verdict": EXACT, **errors._asdict()}


def reason(line: str, family: str) -> str:
    """A refusal without what differs from machine to machine, and without what it is about."""
    line = line.removesuffix("; set training.shared_prompt: false")
    line = re.sub(rf"^student\.model: ({family}\w*)( on (packed groups|padded rows): )?", "", line)
    line = re.sub(r", log-probabilities differ by .*", "", line)
    line = re.sub(r"cannot be trained on (packed groups|padded rows): ", "", line)
    line = re.sub(r"0x\w+|/\S+", "...", line)
    return line.strip().split("; ")[0].replace("|", "\\|")[:160]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--markdown", default="", metavar="FILE")
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = []
    for family in sorted(arguments.families or FAMILIES):
        for way in WAYS:
            started = time.perf_counter()
            row = {"family": family, "way": way, **verdict(family, way)}
            rows.append({**row, "seconds": round(time.perf_counter() - started, 1)})
            print_rows(rows[-1:])
    write_json(arguments.json, rows)
    if arguments.markdown:
        page = HEAD.format(version=transformers.__version__)
        for first in range(0, len(rows), len(WAYS)):
            cells = [row["verdict"] for row in rows[first : first + len(WAYS)]]
            page += f"| {rows[first]['family']} | {' | '.join(cells)} |\n"
        Path(arguments.markdown).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
