"""What ``python -m tlora_ref JOB`` runs: one file per job, with ``add_arguments(parser)`` and ``run(args)``.

demo.py    the main job: hand gradients, pretrain, shift, adapt
check.py   hand-written gradients against oracles, ours or yours
text.py    a real language model adapted to real text
rooms.py   the choice of room: by_hand or by_autograd
runs.py    many training runs on all cores, with progress
output.py  output folders, result files, tables
count.py   what a method trains and stores on known models
course.py  the tutorials as students and as instructors get them
audit.py   the paper's claims, each measured and judged; its figures; one HTML page
export.py  an adapter file as a LoRA for Hugging Face PEFT
"""
