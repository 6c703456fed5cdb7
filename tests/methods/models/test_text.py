"""Networks for text read tokens, or the vectors of tokens, and say the same of both."""

import pytest
import torch
from torch.testing import assert_close

from pipeline.core.settings import SettingsError
from pipeline.methods.models import TextCnn, TextTransformer

over_both = pytest.mark.parametrize(
    "model", [TextCnn(width=6), TextTransformer(width=6, layer_width=8, num_heads=2)], ids=["cnn", "encoder"]
)
TOKENS = torch.randint(2, 30, (4, 9), generator=torch.Generator().manual_seed(0))


def built(model, *, vector_size=0):
    torch.manual_seed(0)
    return model.build(input_shape=(9,), num_outputs=3, num_words=30, vector_size=vector_size).double()


@over_both
def test_tokens_and_their_vectors_give_the_same_outputs_in_any_batch(model):
    network = built(model).eval()
    outputs = network(TOKENS)
    assert outputs.shape == (4, 3)
    vectors = network.embed(TOKENS)
    assert vectors.shape == (4, 6, 9)
    assert_close(network(vectors), outputs, rtol=0, atol=1e-12)
    assert_close(torch.cat([network(TOKENS[i : i + 1]) for i in range(4)]), outputs, rtol=1e-9, atol=1e-12)


@over_both
def test_the_order_of_words_and_padding_count(model):
    network = built(model).eval()
    assert not network.embed(torch.zeros(1, 9, dtype=torch.int64)).any()
    assert (network(TOKENS.flip(1)) - network(TOKENS)).abs().max() > 1e-6
    padded = torch.where(torch.arange(9) < 4, TOKENS, 0)
    assert (network(padded) - network(TOKENS)).abs().max() > 1e-6


@over_both
@pytest.mark.parametrize("frozen", [False, True])
def test_vectors_learn_unless_they_are_frozen_and_all_else_does(model, frozen):
    network = built(model.model_copy(update={"frozen": frozen}))
    network(TOKENS).logsumexp(1).sum().backward()
    learning = {name: parameter.grad is not None and bool(parameter.grad.any()) for name, parameter in network.named_parameters()}
    assert learning.pop("embedding.weight") != frozen
    assert all(learning.values())
    if not frozen:
        assert not network.embedding.weight.grad[0].any()  # Padding stays 0.


def test_dropout_acts_in_training_only():
    network = built(TextCnn(width=6))
    assert_close(network.eval()(TOKENS), network.eval()(TOKENS), rtol=0, atol=0)
    assert (network.train()(TOKENS) - network.train()(TOKENS)).abs().max() > 1e-6


def test_the_size_of_vectors_is_that_of_the_data_or_given():
    assert built(TextCnn(), vector_size=5).embedding.weight.shape == (30, 5)
    with pytest.raises(SettingsError, match=r"needs the size of its words' vectors; set model\.width, or give the data set vectors"):
        built(TextCnn())
    with pytest.raises(SettingsError, match=r"model\.width \(6\) is not that of the data set's vectors \(5\); leave it out"):
        built(TextCnn(width=6), vector_size=5)
