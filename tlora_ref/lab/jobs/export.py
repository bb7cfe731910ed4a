"""Turn an adapter file into a stock LoRA for Hugging Face PEFT, which PeftModel.from_pretrained(base, DIRECTORY) loads.

The frozen factors of a compact file are drawn again from its seed, so the base model is not needed. The folder
is written whole or not at all. The job needs neither torch nor PEFT.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...adapter_file import read_adapter
from ...by_hand.methods import METHODS
from ...export import TASKS, export_lora
from ...tables import size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``export``."""
    parser.add_argument("adapter", metavar="ADAPTER", help="An adapter file, as save_adapter writes it.")
    parser.add_argument("directory", metavar="DIRECTORY", help="A new or empty folder.")
    parser.add_argument("--base", help="The base model's folder or name, for PEFT's AutoPeftModel.")
    parser.add_argument("--task-type", help=f"What the model does: {', '.join(sorted(set(TASKS.values())))}.")


def run(args: argparse.Namespace) -> int:
    """Run the job; 0 when the folder is written."""
    adapter = read_adapter(args.adapter)
    export_lora(adapter, args.directory, args.base, args.task_type)
    r, n = adapter.config.rank, len(adapter.matrices)
    before, after = Path(args.adapter), Path(args.directory) / "adapter_model.safetensors"
    print(f"{adapter.config.method} of rank {r} on {n} matrices, {size(before.stat().st_size)}: {before}")
    kind = "DoRA" if METHODS[adapter.config.method].rescales else "LoRA"
    print(f"{kind} of rank {r}, lora_alpha {r}, {size(after.stat().st_size)}: {after.parent}/")
    print(f"trained beside it, under modules_to_save: {', '.join(sorted(adapter.owners)) or 'nothing'}")
    return 0
