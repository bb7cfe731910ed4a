"""Every configuration is valid once it exists; what is not says what was given and what was expected."""

import pytest

from tlora_ref import AdapterConfig, EncoderConfig, InputError, TrainConfig


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdapterConfig(rank=0), "rank is 0, expected a whole number, at least 1"),
        (lambda: AdapterConfig(rank=-3), "rank is -3"),
        (lambda: AdapterConfig(rank=2.0), "rank is 2.0"),
        (lambda: AdapterConfig(rank=True), "rank is True"),
        (lambda: AdapterConfig(dropout=1.0), r"dropout is 1.0, expected a number in \[0, 1\)"),
        (lambda: AdapterConfig(dropout=-0.1), "dropout is -0.1"),
        (lambda: AdapterConfig(dropout=float("nan")), "dropout is nan"),
        (lambda: AdapterConfig("tlroa"), "method is 'tlroa', expected one of tlora, lora"),
        (lambda: AdapterConfig(targets=()), r"targets is \(\)"),
        (lambda: AdapterConfig(targets="query"), "targets is 'query', expected a tuple"),
        (lambda: AdapterConfig(targets=("query", "query")), "different names"),
        (lambda: AdapterConfig(layers=()), r"layers is \(\)"),
        (lambda: AdapterConfig(init="kaiming"), "init is 'kaiming', expected one of released, fan_in"),
        (lambda: AdapterConfig("lora", init="fan_in"), "init is 'fan_in', expected released: lora has no rules"),
        (lambda: AdapterConfig(seed=-1), "seed is -1"),
        (lambda: AdapterConfig(lora_alpha=0), "lora_alpha is 0"),
        (lambda: EncoderConfig(), r"features, vocab is \(None, None\), expected exactly one"),
        (lambda: EncoderConfig(features=3, vocab=4), "exactly one of the two"),
        (lambda: EncoderConfig(features=0), "features is 0"),
        (lambda: EncoderConfig(features=3, width=30, heads=4), "heads is 4, expected a divisor of width = 30"),
        (lambda: EncoderConfig(features=3, layers=0), "layers is 0"),
        (lambda: EncoderConfig(features=3, pool="max"), "pool is 'max', expected 'mean' or 'first'"),
        (lambda: EncoderConfig(features=3, eps=0), "eps is 0"),
        (lambda: EncoderConfig(features=3, types=-1), "types is -1"),
        (lambda: EncoderConfig(features=3, pad_id=1), "pad_id is 1, expected None or one of the vocabulary's ids"),
        (lambda: EncoderConfig(vocab=3, pad_id=3), "pad_id is 3"),
        (lambda: EncoderConfig(features=3, first=2), "first is 2, expected 0 to 1"),
        (lambda: TrainConfig(epochs=0), "epochs is 0"),
        (lambda: TrainConfig(batch_size=0), "batch_size is 0"),
        (lambda: TrainConfig(lr=-1), "lr is -1"),
        (lambda: TrainConfig(lr=float("inf")), "lr is inf"),
        (lambda: TrainConfig(weight_decay=-1), "weight_decay is -1"),
        (lambda: TrainConfig(warmup=2), "warmup is 2"),
        (lambda: TrainConfig(betas=(0.9, 1.0)), "betas is"),
        (lambda: TrainConfig(clip=0), "clip is 0"),
        (lambda: TrainConfig(no_decay="alpha"), "no_decay is 'alpha', expected a tuple"),
    ],
)
def test_what_is_not_valid_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_defaults_are_the_papers_recipe():
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.lr, config.weight_decay, config.warmup) == (
        30,
        32,
        1e-3,
        0.01,
        0.06,
    )
    assert AdapterConfig().targets == ("query", "value")
    assert AdapterConfig("lora", rank=32, lora_alpha=16).scale == 0.5
    assert AdapterConfig("lora", rank=32).scale == 1.0
