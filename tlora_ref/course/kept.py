"""How many numbers autograd keeps for its backward, seen from outside.

Checked by  tests/test_course.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any


def kept_by_torch(call: Callable[[], Any], apart: Collection[Any] = ()) -> list[int]:
    """How many numbers each array holds that autograd saves during ``call()``.

    The largest comes first. Arrays are told apart by their memory, so a view is not
    counted again; those in ``apart`` (the weights, there anyway) are left out.
    """
    from torch.autograd.graph import saved_tensors_hooks

    known = {tensor.untyped_storage().data_ptr() for tensor in apart}
    saved = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            # holding the storage keeps its address from being given out again
            saved[storage.data_ptr()] = storage, storage.nbytes() // tensor.element_size()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = call()  # held until the count is done
    sizes = sorted((numbers for _, numbers in saved.values()), reverse=True)
    del out
    return sizes
