"""The paper's own experiment: a transformers model on a GLUE task, resumable, in one process or many.

tasks.py        the table of tasks: columns, labels, metrics, sizes
recipe.py       what one run is: the paper's recipe, and what can be chosen
data.py         GLUE's TSV files, saved datasets and datasets by name; tokens
model.py        a transformers classifier and its head, made ready to train
run.py          one run, epoch by epoch
state.py        what a run leaves on disk after every epoch, and goes on from
distributed.py  one process or many
metrics.py      a task's metrics

Importing this package loads neither torch nor transformers.
"""
