"""python -m tlora_ref JOB: see ``--help`` for the jobs."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from .shapes import InputError
from .terminal import INTERRUPTED, exit_code, forgive_output, watch_interrupts

JOBS = {
    "demo": "check the hand gradients, pretrain on digits, turn the digits, adapt; table and figures",
    "check": "hand-written gradients against oracles: all of this project's, or a pair of yours",
    "mutants": "which seeded gradient bugs do gradient checkers find, this project's and others",
    "count": "numbers a method trains, stores and keeps in the optimizer, on known models or any width",
    "compare": "every method of the family on shifted digits: natural ranks, curves, equal counts",
    "text": "MiniLM, a real language model, adapted to sentence pairs of Python's manual",
    "course": "the tutorials as students get them, and with --instructor all else that teaching them needs",
    "audit": "the paper's claims measured, its figures drawn again, a verdict on each; one HTML page",
    "bench": "speed and memory side by side: layers, the encoder, a gradient check, bytes over model size",
    "glue": "a transformers model on a GLUE task by the paper's recipe, resumable, one process or many",
    "export": "an adapter file as a LoRA for Hugging Face PEFT",
    "fuzz": "damaged and hostile adapter files and checkpoints by the thousand: is every one refused in a sentence",
}

HOMES = {"course": ".course.job"}
"""Where a job lives; the others are files of lab/jobs."""

EXTRAS = {
    "torch": "torch",
    "peft": "test",
    "transformers": "test",
    "mpmath": "test",
    "nbformat": "tutorials",
    "nbconvert": "tutorials",
}
"""The optional dependency set that brings a package; "demo" brings the others."""

OF_JOB = {"glue": "glue", "text": "real"}
"""The jobs that have a set of their own, with all that they need."""


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The command line. Of the jobs' modules only the chosen one is imported, and adds its own arguments."""
    parser = argparse.ArgumentParser(
        prog="tlora-ref",
        description="TLoRA from scratch: W' = W0 + alpha * A @ B @ C, only B and alpha trained.",
    )
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True)
    for name, summary in JOBS.items():
        job = jobs.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:
            module = import_module(HOMES.get(name, f".lab.jobs.{name}"), __package__)
            job.description = module.__doc__
            module.add_arguments(job)
            job.set_defaults(run=module.run)
    return parser


def chosen_job(argv: list[str]) -> str | None:
    """The first word that is no option."""
    return next((word for word in argv if not word.startswith("-")), None)


def main(argv: list[str] | None = None) -> int:
    """Run one job. Exit code 0: done; 1: a check failed; 2: what was given cannot be used; 130: interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    chosen = chosen_job(argv)
    try:
        args = build_parser(chosen).parse_args(argv)
        return args.run(args)
    except InputError as error:
        print(f"tlora-ref {chosen}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == __package__:
            raise
        extra = OF_JOB.get(chosen or "") or EXTRAS.get(package, "demo")
        print(f"tlora-ref {chosen}: this job needs {package}; pip install 'tlora_ref[{extra}]'", file=sys.stderr)
        return 2
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "not enough memory"
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print(f"tlora-ref {chosen}: {where}{reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"tlora-ref {chosen}: interrupted", file=sys.stderr)
        return INTERRUPTED


def command() -> None:
    """The job of the command line, and the end of the process. Exit codes of ``main``, and 141 where the reader of the
    output was gone before its end."""
    output, called = forgive_output(), f"tlora-ref {chosen_job(sys.argv[1:])}"
    interruption_said = watch_interrupts(f"{called}: interrupted")
    try:
        code = main()
    except SystemExit as end:  # argparse, after --help and after its messages
        code = end.code if isinstance(end.code, int) else 0
    if code == INTERRUPTED:
        interruption_said.set()
    sys.exit(exit_code(code, output, called))


if __name__ == "__main__":
    command()
