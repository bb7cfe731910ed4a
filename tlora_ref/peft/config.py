"""What can be chosen of TLoRA in PEFT, under PEFT's names.

Checked by  tests/test_peft.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peft.config import PeftConfig
from peft.utils import PeftType

from ..config import INITS, AdapterConfig
from ..shapes import InputError

NAME = "TLORA"

GRADIENT = "gradient"

RULES = tuple(rule for rule in INITS if rule != "weight_svd")
"""How A and C may be made, by the rules of config.INITS: drawn from a seed, or given before the first forward."""


def add_peft_type(name: str) -> None:
    """Make ``name`` a member of PeftType, which ``register_peft_method`` asks for. Python has no way to add to an Enum:
    these are the three places where one looks its members up, by attribute, by name and by value."""
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    setattr(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = PeftType._value2member_map_[name] = member


if NAME not in PeftType.__members__:
    add_peft_type(NAME)


@dataclass
class TLoraConfig(PeftConfig):
    """The configuration of a [`TLoraModel`]: W' = W0 + alpha A B C, of which B (r, r) and alpha (1,) are trained.

    Paper: arXiv 2504.18735.

    Args:
        r (`int`, defaults to `32`):
            The rank. r * r + 1 numbers are trained on every matrix, whatever its size.
        target_modules (`Union[list[str], str]`, *optional*):
            The modules to adapt, `nn.Linear` or `Conv1D`: a list of names or ends of names, a regular expression for
            the whole name, or 'all-linear'. `None`: what PEFT takes for LoRA on this architecture.
        exclude_modules (`Union[list[str], str]`, *optional*):
            The modules not to adapt, given in the same way.
        tlora_dropout (`float`, defaults to `0.0`):
            The share of the update's entries that training drops. (LoRA's acts on x.)
        init_weights (`Union[bool, str]`, defaults to `True`):
            How A and C are made: drawn as 'released' as in the released code, which `True` also means, 'fan_in' or
            'orthonormal'; or 'gradient', the singular vectors of dL/dW0, which `initialize_tlora_gradient_weights` has
            to give the adapter before it runs. B starts at 0 and alpha at 1. With `False`, which is for tests, B is
            drawn as well and the adapter is no identity.
        projection_prng_key (`int`, defaults to `0`):
            The seed of A and C, which follow from it and from the module's name.
        save_projection (`bool`, defaults to `False`):
            Whether a file holds A and C. Without them it holds their fingerprints, 64 bytes a matrix, and loading
            draws them again and compares. Always `True` with `init_weights="gradient"`: no seed draws these.
        bias (`str`, defaults to `"none"`):
            Which biases are trained: 'none', 'all', or 'tlora_only', those of the adapted modules. With another value
            than 'none' the model with disabled adapters is not the base.
        modules_to_save (`list[str]`, *optional*):
            Modules that are trained in full and saved beside the adapter, such as a classifier.
        layers_to_transform (`Union[list[int], int]`, *optional*):
            The numbers of the layers to adapt, where `target_modules` is a list.
        layers_pattern (`Union[list[str], str]`, *optional*):
            The name of the `nn.ModuleList` that these numbers count, such as 'layers' or 'h'.
        rank_pattern (`dict[str, int]`):
            Other ranks than `r`, by the end of a module's name or a regular expression for it.
    """

    r: int = field(default=32, metadata={"help": "The rank: B is (r, r)."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names of the modules to adapt, a regular expression, or 'all-linear'."}
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names of modules not to adapt, or a regular expression."}
    )
    tlora_dropout: float = field(default=0.0, metadata={"help": "The share of the update that training drops."})
    init_weights: bool | str = field(
        default=True, metadata={"help": "How A and C are made. False: B is drawn as well."}
    )
    projection_prng_key: int = field(default=0, metadata={"help": "The seed of A and C."})
    save_projection: bool = field(
        default=False, metadata={"help": "Whether a file holds A and C, or fingerprints of what the seed draws."}
    )
    bias: str = field(default="none", metadata={"help": "Which biases are trained: 'none', 'all' or 'tlora_only'."})
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules that are trained in full and saved beside the adapter."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "The numbers of the layers to adapt."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "The name of the nn.ModuleList that these numbers count."}
    )
    rank_pattern: dict[str, int] = field(
        default_factory=dict, metadata={"help": "Other ranks than r, by names of modules or regular expressions."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType[NAME]
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, set(getattr(self, name)))
        if isinstance(self.target_modules, str):
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise InputError(f"`{name}` cannot be used when `target_modules` is a str.")
        if self.layers_pattern and self.layers_to_transform is None:
            raise InputError("When `layers_pattern` is specified, `layers_to_transform` must also be specified.")
        if self.bias not in ("none", "all", "tlora_only"):
            raise InputError(f"bias is {self.bias!r}, expected 'none', 'all' or 'tlora_only'")
        if not isinstance(self.init_weights, bool) and self.init_weights not in RULES:
            raise InputError(f"init_weights is {self.init_weights!r}, expected a bool or one of {', '.join(RULES)}")
        if self.init_weights == GRADIENT:
            self.save_projection = True
        self.rank_pattern = self.rank_pattern or {}
        for rank in (self.r, *self.rank_pattern.values()):
            self.adapter(rank)

    def adapter(self, rank: int) -> AdapterConfig:
        """This choice as the rest of tlora_ref has it, at the rank of one matrix. Raises InputError."""
        init = INITS[0] if isinstance(self.init_weights, bool) else self.init_weights
        return AdapterConfig("tlora", rank, dropout=self.tlora_dropout, init=init, seed=self.projection_prng_key)
