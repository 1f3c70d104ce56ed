"""Time of a step: every backend of valleys against its rivals and against what the memory allows.

One process, rounds that time every contender once in a new order, medians and quartiles. Writes a Markdown table, a
picture and all times as JSON per parameter set. Compare times within one table only.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

import first_step
import scaling
from provenance import Others, peak_gigabytes, provenance
from reach import judge
from report import draw, listing, reach_table, step_table
from rivals import Contender, compressed_states, contenders
from shapes import SETS
from stage import Stage
from timing import interleave

__all__ = ["benchmark", "main", "parser"]

METHOD = """\
All contenders share parameters, gradients and the states that they overwrite in place; optax has parameters and
states of its own. Before each timed step the gradients are served anew and a large copy empties the caches, as a
backward pass would. Two untimed steps come first; the column "first step" holds construction and first step, which
may include a compilation, with whatever caches this machine has. "Least bytes" is what the algorithm must move per
float32 parameter; a copy on a CPU also reads what it overwrites, an update in place does not, so the latter is the
stricter limit."""


def benchmark(
    name: str,
    chosen: Sequence[Contender],
    stage: Stage,
    rounds: int,
    seed: int,
    texts: dict[str, str],
    out: Path,
    bounds: str,
) -> Path:
    """Runs one set and writes ``NAME.md``, ``NAME.png`` and ``NAME.json``.

    Args:
        name: of the set.
        chosen: who takes part.
        stage: the set's parameters and gradients.
        rounds: timed steps of each.
        seed: of the order.
        texts: provenance.
        out: folder, made if missing.
        bounds: which of ``reach.BOUNDS`` are judged.

    Returns:
        The Markdown file.
    """
    others = Others()
    timings = interleave(chosen, stage, rounds, seed)
    verdicts = judge(timings, bounds)
    texts = {
        **texts,
        "other processes": others.share(),
        "n": f"{rounds} rounds, seed {seed}",
        "peak memory": f"{peak_gigabytes():.1f} GB, all contenders",
    }
    title = f"# One step over {name}: {stage.numel:,} parameters in {len(stage.params)} tensors"
    parts = [
        title,
        listing(texts),
        METHOD,
        step_table(timings, stage.numel),
        f"![{name}]({name}.png)",
        '## Bounds\n\nThey hold for gpt2-124m in float32; "best" is the fastest backend of this run.',
        reach_table(verdicts),
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    document = {**texts, "parameters": stage.numel, "timings": [asdict(timing) for timing in timings]}
    (out / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(timings, name, stage.numel, out / f"{name}.png")
    return path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--set", nargs="+", choices=[*SETS], default=["gpt2-124m"], help="parameter sets (default: gpt2-124m)")
    add("--rounds", type=int, help="timed steps of each contender (default: 15; with --first-step 3 processes)")
    add("--only", default="", metavar="REGEX", help="contenders whose name this expression is found in")
    add("--threads", type=int, default=2, help="of torch (default: 2)")
    add("--seed", type=int, default=0, help="of the values and the order (default: 0)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    add("--out", type=Path, default=Path("benchmarks/results/step"), help="default: benchmarks/results/step")
    mode = result.add_mutually_exclusive_group()
    mode.add_argument("--states", action="store_true", help="with bfloat16 and 8-bit states; files are NAME-states")
    mode.add_argument("--scaling", action="store_true", help="time against parameters and tensors, instead of the sets")
    mode.add_argument("--first-step", action="store_true", help="seconds of the first step, with cold and warm caches")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    texts = provenance(options.device, options.threads)
    if options.scaling:
        only = options.only or scaling.DEFAULT
        selection = [contender for contender in contenders(options.device) if re.search(only, contender.name)]
        print(scaling.benchmark(selection, options.device, options.rounds or 15, options.seed, texts, options.out))
        return
    if options.first_step:
        only = options.only or first_step.DEFAULT
        names = [contender.name for contender in contenders(options.device) if re.search(only, contender.name)]
        for name in options.set:
            print(first_step.benchmark(names, name, options.device, options.rounds or 3, texts, options.out))
        return
    rows = [*contenders(options.device), *(compressed_states(options.device) if options.states else ())]
    only = options.only or ("AdamW fused|ALTO c|Lamb c|states" if options.states else "")
    selection = [contender for contender in rows if re.search(only, contender.name)]
    bounds, suffix = ("states", "-states") if options.states else (options.device, "")
    for name in options.set:
        # The stage is not kept: the next set needs its memory.
        stage = functools.partial(Stage, SETS[name](), options.device, options.seed)
        rounds = options.rounds or 15
        print(benchmark(name + suffix, selection, stage(), rounds, options.seed, texts, options.out, bounds))


if __name__ == "__main__":
    main()
