"""Attention as attribution, and class activation maps of a vision transformer, held against a transformer written out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.methods.attribution import AttentionGradient, AttentionRollout, GradCam, Gradient, HiResCam, Score, attribute
from pipeline.methods.attribution.layers import find_place
from pipeline.methods.models import TextTransformer
from tests.methods.attribution.support import CLASSES, EXACT, NEED_ATTENTION, TinyVit, batch_of, smooth_net

IMAGE = (2, 8, 8)
over_both = pytest.mark.parametrize("method", NEED_ATTENTION, ids=lambda m: m.__name__)


def vit():
    return TinyVit(IMAGE, patch_px=2).double().eval()


def by_hand(model, x):
    """Logits, what goes into each attention, and its weights (B, M, N, N), from which a graph goes to the logits."""
    transformer = model.transformer
    tokens = transformer.conv_proj(model.pixels(x)).flatten(2).mT
    tokens = torch.cat([transformer.class_token.expand(len(x), -1, -1), tokens], 1) + transformer.encoder.pos_embedding
    inputs, weights = [], []
    for block in transformer.encoder.layers:
        inputs.append(block.ln_1(tokens))
        attention = block.self_attention
        query, key, value = (
            part.unflatten(2, (2, 3)).transpose(1, 2)
            for part in functional.linear(inputs[-1], attention.in_proj_weight, attention.in_proj_bias).chunk(3, 2)
        )
        weights.append((query @ key.mT / 3**0.5).softmax(3))
        tokens = tokens + attention.out_proj((weights[-1] @ value).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.ln_2(tokens))
    return transformer.heads(transformer.encoder.ln(tokens)[:, 0]), inputs, weights


def enlarged(patches, x):
    """What 4 x 4 patches have, on 8 x 8 pixels and two channels."""
    large = functional.interpolate(patches.reshape(len(x), 1, 4, 4), size=(8, 8), mode="bilinear", align_corners=False)
    return large.expand(x.shape).detach()


def test_the_transformer_by_hand_is_the_model():
    x, _, _ = batch_of(IMAGE)
    model = vit()
    logits, _, weights = by_hand(model, x)
    torch.testing.assert_close(model(x), logits, **EXACT)
    # Far from even attention, which would hide most mistakes.
    assert max(weight.std() for weight in weights) > 2 / 17


def test_rollout_is_the_product_of_the_blocks():
    x, score, background = batch_of(IMAGE)
    model, one = vit(), torch.eye(17).double()
    _, _, (first, second) = by_hand(model, x)
    # Rows of attention sum to 1, and so those of their sum with the identity to 2.
    product = (second.mean(1) + one) / 2 @ ((first.mean(1) + one) / 2)
    torch.testing.assert_close(AttentionRollout()(model, x, score, background=background), enlarged(product[:, 0, 1:], x), **EXACT)


def test_attention_gradient_is_that_of_the_paper():
    x, score, background = batch_of(IMAGE)
    model, one = vit(), torch.eye(17).double()
    logits, _, weights = by_hand(model, x)
    gradients = torch.autograd.grad(score(logits).sum(), weights)
    first, second = ((gradient * weight).relu().mean(1) for gradient, weight in zip(gradients, weights, strict=True))
    relevance = one + first
    relevance = relevance + second @ relevance
    phi = AttentionGradient()(model, x, score, background=background)
    torch.testing.assert_close(phi, enlarged(relevance[:, 0, 1:], x), **EXACT)
    assert phi.amax((1, 2, 3)).min() > 0


def text_transformer():
    """Two blocks over 7 words of 5 values each, with attention that is far from even."""
    torch.manual_seed(0)
    settings = TextTransformer(num_layers=2, num_heads=2, layer_width=6)
    model = settings.build(input_shape=(7,), num_outputs=CLASSES, num_words=20, vector_size=5).double().eval()
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.MultiheadAttention):
            for parameter in part.parameters(recurse=False):
                nn.init.normal_(parameter)
    return model


def text_by_hand(model, x):
    """Logits of words' vectors (B, E, L), and each block's attention (B, M, L, L), from which a graph goes to the logits."""
    tokens, weights = model.enter(x.mT) + model.place_LD, []
    for block in model.encoder.layers:
        attention = block.self_attn
        query, key, value = (
            part.unflatten(2, (2, 3)).transpose(1, 2)
            for part in functional.linear(block.norm1(tokens), attention.in_proj_weight, attention.in_proj_bias).chunk(3, 2)
        )
        weights.append((query @ key.mT / 3**0.5).softmax(3))
        tokens = tokens + attention.out_proj((weights[-1] @ value).transpose(1, 2).flatten(2))
        tokens = tokens + block.linear2(block.linear1(block.norm2(tokens)).relu())
    return model.classifier(model.norm(tokens.mean(1))), weights


def test_attention_of_a_text_is_what_the_mean_over_its_words_takes_from_each():
    x, score, background = batch_of((5, 7))
    model, one = text_transformer(), torch.eye(7).double()
    logits, weights = text_by_hand(model, x)
    torch.testing.assert_close(model(x), logits, **EXACT)
    assert max(weight.std() for weight in weights) > 1 / 7
    gradients = torch.autograd.grad(score(logits).sum(), weights, retain_graph=True)
    rolled = (weights[1].mean(1) + one) / 2 @ ((weights[0].mean(1) + one) / 2)
    first, second = ((gradient * weight).relu().mean(1) for gradient, weight in zip(gradients, weights, strict=True))
    relevance = (one + second) @ (one + first)
    for method, expected in ((AttentionRollout(), rolled), (AttentionGradient(), relevance)):
        phi = method(model, x, score, background=background)
        torch.testing.assert_close(phi, expected.mean(1)[:, None].expand(x.shape).detach(), **EXACT)
    rollout = AttentionRollout()(model, x, score, background=background)
    torch.testing.assert_close(rollout[:, 0].sum(1), torch.ones(5).double(), **EXACT)  # Shares of one mean token.


@over_both
def test_tokens_of_a_signal_that_are_not_its_steps_are_refused(method):
    class Halved(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(4, 1, batch_first=True), nn.Linear(4, CLASSES)

        def forward(self, x):
            tokens = x.unflatten(2, (-1, 2)).transpose(1, 2).flatten(2)
            return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))

    x, score, background = batch_of((2, 6))
    with pytest.raises(ValueError, match=r"wants one token for each of the 6 steps, got 3 tokens that attend to 3"):
        method()(Halved().double().eval(), x, score, background=background)


def test_attention_gradient_knows_the_class_and_rollout_does_not():
    x, score, background = batch_of(IMAGE)
    other = Score((score.target_B + 1) % CLASSES)
    model = vit()
    rolled = [AttentionRollout()(model, x, which, background=background) for which in (score, other)]
    assert torch.equal(*rolled)
    first, second = (AttentionGradient()(model, x, which, background=background) for which in (score, other))
    assert ((first - second).abs().amax((1, 2, 3)) > 1e-3 * first.amax((1, 2, 3))).all()


def test_a_cam_reads_the_patches_that_go_into_the_last_attention():
    x, score, background = batch_of(IMAGE)
    model = vit()
    logits, inputs, _ = by_hand(model, x)
    (gradient,) = torch.autograd.grad(score(logits).sum(), inputs[-1])
    weight = gradient[:, 1:].mean(1, keepdim=True)
    expected = enlarged((weight * inputs[-1][:, 1:]).sum(2).relu(), x)
    torch.testing.assert_close(GradCam()(model, x, score, background=background), expected, **EXACT)
    place = find_place(model, x, layer=None, method="grad_cam")
    assert (place.layer, place.grid, place.num_class_tokens) == ("transformer.encoder.layers.encoder_layer_1.ln_1", (4, 4), 1)
    # The patches as the convolution cuts them out are maps, without a class token.
    assert find_place(model, x, layer="transformer.conv_proj", method="grad_cam").num_class_tokens is None
    with pytest.raises(ValueError, match=r"no layer 'encoder' .*transformer\.encoder\.layers\.encoder_layer_0\.ln_1"):
        GradCam(layer="encoder")(model, x, score, background=background)


def test_a_cam_of_a_transformer_equals_pytorch_grad_cam_scaled_to_one():
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    x, score, background = batch_of(IMAGE)
    model = vit()
    layer = model.transformer.encoder.layers[-1].ln_1

    def on_grid(tokens):
        return tokens[:, 1:].mT.unflatten(2, (4, 4))

    with pytorch_grad_cam.HiResCAM(model=model, target_layers=[layer], reshape_transform=on_grid) as cam:
        expected = torch.from_numpy(cam(x, [ClassifierOutputTarget(int(target)) for target in score.target_B])).double()
    phi = HiResCam()(model, x, score, background=background)[:, 0]
    low = phi.amin((1, 2), keepdim=True)
    scaled = (phi - low) / (phi.amax((1, 2), keepdim=True) - low)
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-5)  # It enlarges in float32.


@pytest.mark.parametrize("method", [*NEED_ATTENTION, GradCam], ids=lambda m: m.__name__)
def test_a_map_changes_when_the_weights_are_drawn_anew(method):
    x, score, background = batch_of(IMAGE)
    model = vit()
    first = method()(model, x, score, background=background)[:, 0].flatten(1)
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double()
    second = method()(model, x, score, background=background)[:, 0].flatten(1)
    assert torch.cosine_similarity(first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)).abs().mean() < 0.8


@over_both
def test_a_compiled_model_has_the_map_of_the_bare_one(method):
    x, score, background = batch_of(IMAGE)
    model = vit()
    compiled = torch.compile(model, backend="eager")
    found, expected = (attribute(method(), each, x, score, background=background).phi_BCHW for each in (compiled, model))
    assert torch.equal(found, expected)


class Encoded(nn.Module):
    """torch's own encoder layer, which runs in one fused operation where it can, on patches with or without a class token."""

    def __init__(self, *, has_class_token: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.has_class_token = nn.Conv2d(2, 6, 2, stride=2), has_class_token
        self.layer = nn.TransformerEncoderLayer(6, 2, dim_feedforward=8, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        if self.has_class_token:
            tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        return self.head(self.layer(tokens)[:, 0])


@over_both
def test_attention_is_found_inside_a_fused_layer_and_all_is_as_before(method):
    x, score, background = batch_of(IMAGE)
    model = Encoded(has_class_token=True).double().eval()
    phi = attribute(method(), model, x, score, background=background).phi_BCHW
    assert phi.abs().sum() > 0
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert attribute(GradCam(relu=False), model, x, score, background=background).phi_BCHW.abs().sum() > 0


@over_both
def test_what_has_no_attention_or_no_class_token_is_refused(method):
    x, score, background = batch_of(IMAGE)
    with pytest.raises(ValueError, match=r"MultiheadAttention, and this Sequential has none; take model vit or text_transformer, or"):
        method()(smooth_net(IMAGE), x, score, background=background)
    with pytest.raises(ValueError, match=r"a class token and one for each of the 4 x 4 patches .*, got 16 tokens that attend to 16"):
        method()(Encoded(has_class_token=False).double().eval(), x, score, background=background)
    with pytest.raises(ValueError, match="wants a torch module, got a function"):
        method()(lambda x: x, x, score, background=background)


def test_attention_over_signals_is_refused_by_a_cam():
    class OverTime(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(2, 1, batch_first=True), nn.Linear(2, CLASSES)

        def forward(self, x):
            tokens = x.mT
            return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))

    x, score, background = batch_of((2, 6))
    model = OverTime().double().eval()
    with pytest.raises(ValueError, match=r"grad_cam reads tokens of images \(B, C, H, W\), got a model with attention on \(5, 2, 6\)"):
        GradCam()(model, x, score, background=background)
    assert Gradient()(model, x, score, background=background).abs().sum() > 0
