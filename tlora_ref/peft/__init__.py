"""TLoRA as a method of Hugging Face PEFT, in PEFT's own layout. Importing it registers the method.

config.py    TLoraConfig, with PEFT's names for what can be chosen
layer.py     TLoraLayer and Linear: adapters beside an nn.Linear or a Conv1D, on the kernels of by_autograd
model.py     TLoraModel: where the adapters go, what their file holds, and their weighted sum
gradient.py  initialize_tlora_gradient_weights: A and C from the gradient of a loss, for init_weights="gradient"

    from tlora_ref.peft import TLoraConfig          # before PeftModel.from_pretrained, too
    model = get_peft_model(model, TLoraConfig(r=32, target_modules=["query", "value"]))

Equation    y = base(x) + dropout(alpha * x A B C), as in by_autograd/linear.py, whose outputs these are bit for bit.
Checked by  tests/test_peft.py, with the installed PEFT.
"""

try:
    from peft.tuners.tuners_utils import BaseTuner
    from peft.utils import register_peft_method
except ImportError as error:
    raise ImportError(
        f"tlora_ref.peft needs Hugging Face PEFT, which cannot be imported ({error}): pip install 'peft>=0.21'"
    ) from error
if not hasattr(BaseTuner, "_get_adapter_state_dict"):
    raise ImportError("tlora_ref.peft needs PEFT 0.21 or later, where a method says itself what its file holds")

from .config import TLoraConfig
from .gradient import initialize_tlora_gradient_weights
from .layer import Linear, TLoraLayer
from .model import TLoraModel

__all__ = ["Linear", "TLoraConfig", "TLoraLayer", "TLoraModel", "initialize_tlora_gradient_weights"]

register_peft_method(name="tlora", config_cls=TLoraConfig, model_cls=TLoraModel)
