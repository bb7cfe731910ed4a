"""The adapter methods, one page each; TLoRA's first. METHODS is the table by name.

tlora.py       TLoRA: W0 + alpha A B C, B and alpha trained: start here
lora.py        LoRA: W0 + s A B
lora_fa.py     LoRA-FA: LoRA with A frozen
lora_xs.py     LoRA-XS: a trained core between singular vectors of W0; the general three-factor layer
mtlora.py      MTLoRA: LoRA with a trained core of four forms
vera.py        VeRA: one frozen pair for all layers, two trained vectors each
dora.py        DoRA: LoRA, and the columns brought to trained lengths
edora.py       EDoRA: LoRA-XS, and the same
lorta.py       LoRTA: one store trained for all layers, heads and matrices
hta.py         HTA: reflection, diagonal, reflection, and a patch of low rank
soda.py        SODA: the weight's own singular values shifted, its vectors rotated
lora_gated.py  LoRA with a gate, DiffoRA's search
triadapt.py    TriAdaptLoRA: LoRA with a core of two triangles, whose rank grows
bottleneck.py  the adapters of Houlsby and of Pfeiffer
"""

from ...methods import Method
from . import (
    bottleneck,
    dora,
    edora,
    hta,
    lora,
    lora_fa,
    lora_gated,
    lora_xs,
    lorta,
    mtlora,
    soda,
    tlora,
    triadapt,
    vera,
)

METHODS: dict[str, Method] = {
    "tlora": tlora.METHOD,
    "lora": lora.METHOD,
    "lora_fa": lora_fa.METHOD,
    "vera": vera.METHOD,
    "lora_xs": lora_xs.METHOD,
    "dora": dora.DETACHED,
    "dora_full": dora.FULL,
    "edora": edora.METHOD,
    "mtlora_shim": mtlora.SHIM,
    "mtlora_icfm": mtlora.ICFM,
    "mtlora_ctcm": mtlora.CTCM,
    "mtlora_dtsm": mtlora.DTSM,
    "lorta": lorta.METHOD,
    "hta": hta.PRINTED,
    "hta_unit": hta.UNIT,
    "soda": soda.METHOD,
    "lora_gated": lora_gated.METHOD,
    "triadapt": triadapt.METHOD,
    "adapter_h": bottleneck.HOULSBY,
    "adapter_p": bottleneck.PFEIFFER,
}
