"""What ``python -m tlora_ref JOB`` runs: one file per job, with ``add_arguments(parser)`` and ``run(args)``.

demo.py     the main job: hand gradients, pretrain, shift, adapt
check.py    hand-written gradients against oracles, ours or yours
mutants.py  which seeded bugs do gradient checkers find
compare.py  every method of the family on turned digits
count.py    what a method trains and stores on known models
text.py     a real language model adapted to real text
audit.py    the paper's claims, each measured and judged; its figures; one HTML page
subspace.py what the random subspace costs, and what a chosen one gains
bench.py    speed and memory
glue.py     the paper's experiment on a transformers model
mutate.py   mechanical edits of our own files: does the suite find them
fuzz.py     damaged files by the thousand
export.py   an adapter file as a LoRA for Hugging Face PEFT
fuzz.py     adapter files and checkpoints damaged by the thousand

The job ``course`` lives in course/job.py.
"""
