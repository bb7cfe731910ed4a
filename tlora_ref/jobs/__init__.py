"""What ``python -m tlora_ref JOB`` runs: one file per job, with ``add_arguments(parser)`` and ``run(args)``.

demo.py    the main job: hand gradients, pretrain, shift, adapt
runs.py    many training runs on all cores, with progress
output.py  output folders, tables, atomic files
"""
