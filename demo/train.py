"""One fine-tuning run: ``python -m epsopt.demo.train --out RUN --lr 3e-3 --encoder top …``.

Trains the base first when there is none (once, about 20 s), then writes RUN/epoch_001.pt and so on, each with
``model_state_dict``, ``metrics``, ``config`` and ``epoch``.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from epsopt.demo.base import BASE_EPOCHS, BASE_SEED, base_path, ensure_base
from epsopt.demo.errors import BadOptionError, DemoError
from epsopt.demo.options import Parser, complain, positive, whole
from epsopt.demo.run import Plan, train
from epsopt.demo.space import SPACE, Hyperparameter, Value


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)  # small matrices: a second thread costs more than it gives
    try:
        train(_plan(options), report=_report)
    except (DemoError, OSError) as error:
        return complain(error)
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    """What the options ask for; trains the base when the run needs it."""
    given = {p.name: getattr(options, p.name) for p in SPACE if getattr(options, p.name) is not None}
    values: dict[str, Value] = {p.name: p.default for p in SPACE} | given
    for parameter in SPACE:
        if parameter.name in given and not parameter.is_active(values):
            switch = next(iter(parameter.active_when))
            _print_line(f"note: {_flag(parameter.name)} has no effect with {_flag(switch)} {values[switch]}; left out")
    if options.init_from is None:
        init_from: Path = options.base or base_path(options.out.resolve().parent)
        ensure_base(init_from, options.base_epochs, options.base_seed, report=_print_line)
    elif options.base is not None:
        raise BadOptionError("--base and --init-from both say where the run starts: give one of them")
    else:
        init_from = options.init_from
    return Plan(
        out=options.out,
        init_from=init_from,
        hyperparameters=values,
        epochs=options.epochs,
        seed=options.seed,
        save_every=options.save_every,
        projection=options.projection,
    )


def _parser() -> Parser:
    parser = Parser(prog="python -m epsopt.demo.train", description="Fine-tune the ternary model from its base.")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for the checkpoints")
    parser.add_argument("--epochs", type=positive, default=10, help="how many to train (default %(default)s)")
    parser.add_argument("--seed", type=whole, default=0, help="same seed, same run (default %(default)s)")
    parser.add_argument(
        "--save-every",
        type=positive,
        default=1,
        metavar="N",
        help="epochs between checkpoints (default %(default)s)",
    )
    start = parser.add_argument_group("where the run starts")
    start.add_argument("--base", type=Path, metavar="FILE", help="the base (default: base/epoch_000.pt beside RUN)")
    start.add_argument("--base-epochs", type=positive, metavar="N", help=f"of the base (default {BASE_EPOCHS})")
    start.add_argument("--base-seed", type=whole, metavar="N", help=f"of the base (default {BASE_SEED})")
    start.add_argument("--init-from", type=Path, metavar="FILE", help="start at this checkpoint, not at the base")
    start.add_argument(
        "--projection",
        choices=("base", "fresh"),
        default="base",
        help="projections to start with (default %(default)s)",
    )
    tuned = parser.add_argument_group("hyperparameters")
    for parameter in SPACE:
        text = f"{parameter.help} (default {parameter.default})"
        if parameter.kind == "categorical":
            kind = type(parameter.default)
            tuned.add_argument(_flag(parameter.name), type=kind, choices=parameter.choices, help=text)
        else:
            tuned.add_argument(_flag(parameter.name), type=_number(parameter), metavar="X", help=text)
    return parser


def _number(parameter: Hyperparameter) -> Callable[[str], float]:
    low, high = parameter.limits
    kind, noun = (int, "a whole number") if parameter.kind == "int" else (float, "a number")

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high or value == float("inf"):  # false for NaN too
            span = f"of at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"expected {noun} {span}, not {text!r}")
        return value

    return parse


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _report(epoch: int, metrics: dict[str, float]) -> None:
    print(f"epoch {epoch:3d}", *(f"{name} {value:.4f}" for name, value in metrics.items()), flush=True)


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
