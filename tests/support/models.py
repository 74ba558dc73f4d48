"""A tiny random Llama with its own tokenizer and chat template: loads in transformers and vLLM."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GGUF_NAMES = [
    ("model.embed_tokens", "token_embd"),
    ("model.layers", "blk"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
]
SENTENCES = [
    "Solve the user's problem. First reason step by step.",
    "<think>4 + 3 = 7</think>\n<answer>\\boxed{7}</answer>",
    "Tom has 4 pens and buys 3 more pens. How many pens does Tom have now?",
    "There are 5 boxes with 6 eggs in each box. How many eggs are there in all?",
    "system user assistant 12 - 5 = 7 and 20 / 4 = 5, so the answer is 5.",
]


def make_tiny_model(
    folder: str,
    seed: int = 0,
    tie_word_embeddings: bool = True,
    num_layers: int = 2,
    num_heads: int = 2,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> str:
    """Hidden size 32 a head, 2,048 positions, fp32; equal seeds give equal weights.

    Every call makes the same tokenizer where none is given. Returns `folder`.
    """
    tokenizer = tokenizer or make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32 * num_heads,
        intermediate_size=128,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    Path(folder).mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_twin_tokenizer() -> PreTrainedTokenizerFast:
    """With fewer merges of the same, other ids, and another end of turn."""
    specials = ["<|none|>", "<|end|>", *SPECIALS]
    twin = make_tokenizer(vocab_size=320, specials=specials)
    twin.eos_token = "<|end|>"
    twin.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "<|end|>")
    return twin


def make_tokenizer(
    vocab_size: int = 400, specials: Sequence[str] = SPECIALS
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def write_gguf(model_folder: str, file: str, chat_template: str = CHAT_TEMPLATE) -> str:
    """A folder of `make_tiny_model` -> a llama.cpp file with fp32 weights. Returns `file`."""
    from gguf import GGUFWriter

    model = LlamaForCausalLM.from_pretrained(model_folder)
    config = model.config
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, model_folder)
    if chat_template:
        writer.add_chat_template(chat_template)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if projection := next((key for key in heads if key in name), None):
            # llama.cpp interleaves the two halves of rotary dimensions.
            halves = weight.view(heads[projection], 2, -1, weight.shape[1])
            weight = halves.transpose(1, 2).reshape(weight.shape)
        for ours, theirs in GGUF_NAMES:
            name = name.replace(ours, theirs)
        writer.add_tensor(name, weight.detach().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: Any, model_folder: str) -> None:
    tree = json.loads((Path(model_folder) / "tokenizer.json").read_text())
    vocabulary = tree["model"]["vocab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types([3 if index < len(SPECIALS) else 1 for index in range(len(vocabulary))])
    writer.add_token_merges([" ".join(pair) for pair in tree["model"]["merges"]])
    writer.add_bos_token_id(SPECIALS.index("<|im_start|>"))
    writer.add_eos_token_id(SPECIALS.index("<|im_end|>"))
    writer.add_pad_token_id(SPECIALS.index("<|endoftext|>"))
