"""Fingerprint of a problem: what must be the same for the results of two sessions to belong together."""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from valleys.lab.problem.data import Batch, Split, Stream, taken
from valleys.lab.problem.seeds import seeded
from valleys.lab.problem.task import Problem, Task

_SAMPLE = 16  # examples of each split
_EXAMPLES = 6
_TOLERANCE = 1e-3  # relative; image decoders, and sines on other processors, differ in the last digits


def fingerprint(
    problem: Problem, file: Path | None = None, is_object: bool = False, optimizers: Iterable[str] = ()
) -> dict[str, Any]:
    """Return what must be the same for the results of two sessions to belong together, for ``changes`` to compare.

    Of a task its data; of one in a file the sources, of an object the initial weights and a loss; the sources of
    optimizers that are named as ``module:callable``, but for installed packages.
    """
    entries: dict[str, Any] = {}
    if isinstance(problem, Task):
        entries = of_data(problem) | (of_model(problem) if is_object else {})
    if file is not None:
        entries |= of_sources(file)
    for name in optimizers:
        source = _source(name.rpartition(":")[0])
        if source is not None:
            entries |= {f"{path} of optimizer {name}": mark for path, mark in of_sources(source).items()}
    return entries


def of_data(task: Task) -> dict[str, Any]:
    r"""Return size and sample of each split: 16 evenly spaced examples, the first and the last among them.

    Labels and tokens are hashed. Of pixels and other numbers two means of each example are kept, which may differ by
    0.1 % of the largest when they are compared:

    .. math:: \sqrt{\tfrac1n \sum_i x_i^2}, \qquad \tfrac1n \sum_i w_i x_i, \quad w_i = \tfrac{2i}{n - 1} - 1
    """
    parts = {"training": task.train, "validation": task.validation, "test": task.test}
    return {f"{name} data": _of_split(split) for name, split in parts.items()}


def of_model(task: Task) -> dict[str, Any]:
    """Return the norm of the initial weights at seed 0, and with them the loss of the first six training examples."""
    indices = torch.arange(min(_EXAMPLES, len(task.train)))
    device = torch.device("cpu")
    ((inputs, targets),) = task.train.reader(device).read([indices])
    with seeded(device, 0):
        model: nn.Module = task.build_model()
        model.eval()
        with torch.no_grad():
            loss = float(task.loss(model(inputs), targets))
            squares = [float(parameter.detach().double().square().sum()) for parameter in model.parameters()]
    return {"initial weights at seed 0": [math.sqrt(sum(squares))], "loss of six examples": [loss]}


def of_sources(file: Path) -> dict[str, Any]:
    """Return the hash of a Python file, and of each that it imports from its folder, directly or not, by its path."""
    folder = file.resolve().parent
    pending, texts = [file.resolve()], dict[Path, bytes]()
    while pending:
        path = pending.pop()
        if path not in texts and path.is_file():
            texts[path] = path.read_bytes()
            pending += _imports(texts[path], path, folder)
    return {str(path.relative_to(folder)): _hash(text) for path, text in sorted(texts.items())}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the entries that both fingerprints have and that differ.

    Example:
        >>> changes({"loss": [1.0], "a.py": "12"}, {"loss": [1.0001], "a.py": "13", "b.py": "7"})
        ['a.py']
    """
    return [name for name, value in now.items() if name in before and not _same(before[name], value)]


def _same(before: Any, now: Any) -> bool:
    if isinstance(now, Mapping):
        return isinstance(before, Mapping) and not changes(before, now)
    if not isinstance(now, list):
        return bool(before == now)
    scale = max((abs(value) for value in now if math.isfinite(value)), default=0.0)
    return len(before) == len(now) and all(
        abs(a - b) <= _TOLERANCE * scale or not (math.isfinite(a) or math.isfinite(b))
        for a, b in zip(before, now, strict=True)
    )


def _of_split(split: Split | Stream) -> dict[str, Any]:
    count = len(split)
    indices = torch.linspace(0, count - 1, min(_SAMPLE, count)).round().long()
    sample = split if isinstance(split, Split) else Stream(split.dataset)  # without processes that read ahead
    if isinstance(sample, Split):
        inputs, targets = taken(sample.inputs, indices), taken(sample.targets, indices)
    else:
        ((inputs, targets),) = sample.reader(torch.device("cpu")).read([indices])
    return {"examples": count, **_of_batch("inputs", inputs), **_of_batch("targets", targets)}


def _of_batch(name: str, batch: Batch) -> dict[str, Any]:
    if isinstance(batch, Tensor):
        return {name: _of_tensor(batch.detach().cpu())}
    return {f"{name} {key}": _of_tensor(tensor.detach().cpu()) for key, tensor in batch.items()}


def _of_tensor(tensor: Tensor) -> str | list[float]:
    if not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.uint8):
        return _hash(f"{tuple(tensor.shape)}".encode() + tensor.contiguous().long().numpy().tobytes())
    rows = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double()
    flat = rows.flatten(1) if rows.dim() > 1 else rows.unsqueeze(1)
    weighted = flat * torch.linspace(-1, 1, flat.shape[1], dtype=torch.float64)
    return torch.cat([flat.square().mean(1).sqrt(), weighted.mean(1)]).tolist()


def _imports(text: bytes, path: Path, folder: Path) -> list[Path]:
    """Return where the modules may lie that a source imports: a file of the folder, or packages on the way to it."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # an import of it fails, too
        return []
    places: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            places += [folder.joinpath(*alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else folder
            module = base.joinpath(*(node.module or "").split("."))
            places += [module, *(module / alias.name for alias in node.names)]  # a name of it, or a module in it
    packages = [part for place in places for part in (place, *place.parents) if part.is_relative_to(folder)]
    return [place.with_suffix(".py") for place in places] + [part / "__init__.py" for part in packages]


def _source(module: str) -> Path | None:
    """Return the file of a module that is no installed package; None if there is none."""
    spec = find_spec(module) if module else None
    origin = Path(spec.origin) if spec is not None and spec.origin is not None else None
    return None if origin is None or "site-packages" in origin.parts or origin.suffix != ".py" else origin


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
