"""python -m tlora_ref JOB: see ``--help`` for the jobs."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from .shapes import InputError

JOBS = {
    "demo": "check the hand gradients, pretrain on digits, turn the digits, adapt; table and figures",
    "check": "hand-written gradients against oracles: all of this project's, or a pair of yours",
    "mutants": "which seeded gradient bugs do gradient checkers find, this project's and others",
    "count": "numbers a method trains, stores and keeps in the optimizer, on known models or any width",
    "compare": "every method of the family on shifted digits: natural ranks, curves, equal counts",
    "export": "an adapter file as a LoRA for Hugging Face PEFT",
}


def build_parser() -> argparse.ArgumentParser:
    """The command line; each job's module adds its own arguments."""
    parser = argparse.ArgumentParser(
        prog="tlora-ref",
        description="TLoRA from scratch: W' = W0 + alpha * A @ B @ C, only B and alpha trained.",
    )
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True)
    for name, summary in JOBS.items():
        module = import_module(f".jobs.{name}", __package__)
        job = jobs.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(job)
        job.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one job. Exit code 0: done; 1: a check failed; 2: what was given cannot be used; 130: interrupted."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except InputError as error:
        print(f"tlora-ref {args.job}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = {"torch": "torch", "mpmath": "test"}.get(error.name or "", "demo")
        print(
            f"tlora-ref {args.job}: this job needs {error.name}; pip install 'tlora_ref[{extra}]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"tlora-ref {args.job}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
