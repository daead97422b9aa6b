"""The gated layer against its formulas, written out plainly."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hwgate.errors import UserError
from hwgate.nn.gated import ChannelShuffle, GatedConv2d, PaddingShortcut
from hwgate.nn.gates import force_open, gated_layers, parameter_groups, set_density, settle_norms
from hwgate.nn.losses import threshold_loss
from hwgate.nn.macs import count_macs, mac_summary

GROUPS = 4
torch.set_num_threads(1)  # tests run in parallel


def make(grouping=False, sparse_bp=False, alpha=2.0, seed=0, **kwargs):
    """A gated layer in float64 whose statistics and thresholds are not the initial ones."""
    torch.manual_seed(seed)
    layer = GatedConv2d(8, 12, 3, padding=1, gate_groups=GROUPS, grouping=grouping,
                        sparse_bp=sparse_bp, alpha=alpha, **kwargs).double()
    layer.delta.data.normal_(0, 0.5)
    layer.gate_norm.running_mean.normal_(0, 0.1)
    layer.gate_norm.running_var.uniform_(0.1, 0.5)
    return layer, torch.randn(3, 8, 5, 6, dtype=torch.float64)


def base_channels(channel, outputs, inputs, grouping):
    """Input channels of the base path of one output channel."""
    group = channel // (outputs // GROUPS) if grouping else 0
    return range(group * inputs // GROUPS, (group + 1) * inputs // GROUPS)


def paths(layer, x):
    """Partial sums of both paths, tap by tap."""
    weight, padded = layer.weight.detach().numpy(), np.pad(x.numpy(), [(0, 0)] * 2 + [(1, 1)] * 2)
    sums = np.zeros((2, len(x), 12, *x.shape[2:]))
    for channel in range(12):
        base = base_channels(channel, 12, 8, layer.grouping)
        for source in range(8):
            for i in range(3):
                for j in range(3):
                    window = padded[:, source, i:i + x.shape[2], j:j + x.shape[3]]
                    sums[0 if source in base else 1, :, channel] += \
                        weight[channel, source, i, j] * window
    return sums


def statistics(layer, base):
    norm = layer.gate_norm
    mean, var = ((base.mean((0, 2, 3)), base.var((0, 2, 3))) if layer.training
                 else (norm.running_mean.numpy(), norm.running_var.numpy()))
    return mean[:, None, None], np.sqrt(var + norm.eps)[:, None, None]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("grouping", [False, True], ids=["first", "grouping"])
def test_forward_is_the_formula(grouping, training):
    layer, x = make(grouping)
    layer.train(training)
    base, conditional = paths(layer, x)
    mean, deviation = statistics(layer, base)
    margin = (base - mean) / deviation - layer.delta.detach().numpy()[:, None, None]
    decision = 1 / (1 + np.exp(-layer.alpha * margin)) > 0.5
    out = layer(x)
    assert decision.any() and not decision.all()
    np.testing.assert_array_equal(layer.decision.numpy(), decision)
    np.testing.assert_allclose(out.detach().numpy(), base + decision * conditional, atol=1e-12)
    assert layer.density == pytest.approx(decision.mean())


@pytest.mark.parametrize("grouping", [False, True], ids=["first", "grouping"])
def test_base_mask_names_the_base_channels(grouping):
    layer, _ = make(grouping)
    for channel in range(12):
        assert set(np.flatnonzero(layer.base[channel].numpy())) == set(
            base_channels(channel, 12, 8, grouping))


@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize("sparse_bp", [False, True], ids=["full", "sparse"])
def test_gradients_are_the_formula(sparse_bp, alpha):
    layer, x = make(sparse_bp=sparse_bp, alpha=alpha)
    layer.eval()
    x.requires_grad_()
    g = torch.randn(3, 12, 5, 6, dtype=torch.float64)
    (layer(x) * g).sum().backward()

    base, conditional = paths(layer, x.detach())
    mean, deviation = statistics(layer, base)
    margin = (base - mean) / deviation - layer.delta.detach().numpy()[:, None, None]
    soft, decision = 1 / (1 + np.exp(-alpha * margin)), margin > 0
    to_decision = g.numpy() * conditional * (decision if sparse_bp else 1)  # dL/dd = g * yr
    to_margin = to_decision * alpha * soft * (1 - soft)
    np.testing.assert_allclose(layer.delta.grad.numpy(), -to_margin.sum((0, 2, 3)), atol=1e-11)

    to_base, to_conditional = g.numpy() + to_margin / deviation, g.numpy() * decision
    padded = np.pad(x.detach().numpy(), [(0, 0)] * 2 + [(1, 1)] * 2)
    wanted = np.zeros(layer.weight.shape)
    for source in range(8):
        grad = to_base if source < 2 else to_conditional
        for i in range(3):
            for j in range(3):
                window = padded[:, source, None, i:i + 5, j:j + 6]
                wanted[:, source, i, j] = (grad * window).sum((0, 2, 3))
    np.testing.assert_allclose(layer.weight.grad.numpy(), wanted, atol=1e-10)


@pytest.mark.parametrize("grouping", [False, True], ids=["first", "grouping"])
@pytest.mark.parametrize("sparse_bp", [False, True], ids=["full", "sparse"])
def test_gradients_flow_through_the_batch_statistics(sparse_bp, grouping):
    layer, x = make(grouping, sparse_bp)
    plain = copy.deepcopy(layer)
    x.requires_grad_()
    g = torch.randn(3, 12, 5, 6, dtype=torch.float64)
    (layer(x) * g).sum().backward()
    found, x.grad = x.grad, None

    mask = plain.base[:, :, None, None]
    base = F.conv2d(x, plain.weight * mask, padding=1)
    conditional = F.conv2d(x, plain.weight * ~mask, padding=1)
    margin = F.batch_norm(base, None, None, training=True) - plain.delta[:, None, None]
    decision, soft = (margin > 0).double(), torch.sigmoid(2 * margin)
    soft = soft * decision if sparse_bp else soft
    out = base + (decision + soft - soft.detach()) * conditional
    (out * g).sum().backward()
    torch.testing.assert_close(found, x.grad)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    torch.testing.assert_close(layer.delta.grad, plain.delta.grad)


def test_tie_stays_closed_and_keeps_the_partial_sum():
    layer = GatedConv2d(8, 1, 1, gate_groups=GROUPS).double().eval()
    layer.weight.data.fill_(1)
    layer.gate_norm.running_mean.fill_(4)
    layer.delta.data.fill_(0)
    x = torch.ones(1, 8, 1, 3, dtype=torch.float64)
    x[0, :2, 0] = torch.tensor([1.5, 2.0, 2.5])  # base sums 3, 4 and 5; the threshold is 4
    assert layer(x).flatten().tolist() == [3, 4, 11]
    assert layer.decision.flatten().tolist() == [False, False, True]


@pytest.mark.parametrize("grouping", [False, True], ids=["first", "grouping"])
def test_forced_open_is_the_ungated_convolution(grouping):
    layer, x = make(grouping, bias=True)
    before = layer.gate_norm.running_mean.clone()
    out = force_open(layer)(x)
    torch.testing.assert_close(out, F.conv2d(x, layer.weight, layer.bias, padding=1))
    assert layer.decision.all() and layer.density == 1
    torch.testing.assert_close(layer.gate_norm.running_mean, before)
    assert not torch.equal(force_open(layer, False)(x), out)


def test_bias_is_added_behind_the_gate():
    layer, x = make(bias=True)
    layer.eval()
    with_bias, decision = layer(x), layer.decision
    layer.bias, bias = None, layer.bias
    torch.testing.assert_close(with_bias, layer(x) + bias[:, None, None])
    assert torch.equal(decision, layer.decision)


def test_shuffle_interleaves_groups():
    x = torch.arange(12.0)[None, :, None, None].expand(2, 12, 3, 4)
    wanted = x.view(2, 4, 3, 3, 4).transpose(1, 2).reshape(2, 12, 3, 4)
    assert torch.equal(ChannelShuffle(4)(x), wanted)
    assert ChannelShuffle(4)(x)[0, :, 0, 0].tolist()[:5] == [0, 3, 6, 9, 1]


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8),
                         GatedConv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 3))


def test_threshold_loss():
    net = nn.Sequential(make()[0], make(seed=1)[0])
    deltas = [d for _, layer in gated_layers(net) for d in layer.delta.tolist()]
    wanted = sum((delta - 0.7)**2 for delta in deltas)
    assert threshold_loss(net, 0.7).item() == pytest.approx(wanted)
    assert threshold_loss(nn.ReLU(), 1.0).item() == 0


def test_thresholds_and_vectors_do_not_decay():
    net = model()
    decayed, rest = parameter_groups(net, 0.1)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert [p.ndim for p in decayed["params"]] == [4, 4, 2]
    assert any(p is net[2].delta for p in rest["params"])
    assert len(decayed["params"]) + len(rest["params"]) == len(list(net.parameters()))


def test_mac_summary_counts_open_gates():
    net = model()
    images = torch.rand(2, 1, 4, 5)
    summary = mac_summary(net, images)
    opened = int(net[2].decision.sum())
    pixels = 2 * 4 * 5
    assert [(x.name, x.dense, x.done) for x in summary.layers] == [
        ("0", pixels * 8 * 9, pixels * 8 * 9),
        ("2", pixels * 8 * 8 * 9, pixels * 8 * 2 * 9 + opened * 6 * 9),
        ("5", 2 * 8 * 3, 2 * 8 * 3)]
    assert 0 < opened < pixels * 8 and net.training
    assert summary.reduction == summary.dense / summary.done > 1
    assert mac_summary(force_open(net), images).reduction == 1


@pytest.mark.parametrize("kwargs,sentence", [
    ({"gate_groups": 1}, "Gate group count must be at least 2, not 1"),
    ({"gate_groups": 3}, "Gate group count must divide the 8 input channels, which 3 does not"),
    ({"gate_groups": 4, "grouping": True}, "Gate group count must divide the 6 output channels "
     "of a grouped gate, which 4 does not"),
    ({"alpha": 0}, "Alpha of a gate must be positive, not 0"),
    ({"share": 4}, "A gate must be shared by a number of channels that divides 6, not 4"),
    ({"gate_groups": 2, "grouping": True, "share": 2},
     "A gate must be shared by a number of channels that divides 3, not 2"),
    ({"tau": 1.0}, "Tau of a gate must be a share in 0..1, not 1.0"),
], ids=lambda v: "" if isinstance(v, str) else "-".join(v))
def test_errors(kwargs, sentence):
    with pytest.raises(UserError) as error:
        GatedConv2d(8, 6, 3, **kwargs)
    assert str(error.value) == sentence


@pytest.mark.parametrize("density", [0, 0.25, 0.8, 1])
@pytest.mark.parametrize("grouping", [False, True])
def test_set_density(density, grouping):
    torch.manual_seed(0)
    net = nn.Sequential(GatedConv2d(8, 8, 3, grouping=grouping), nn.ReLU(), GatedConv2d(8, 4, 3))
    images = torch.randn(8, 8, 9, 10)
    assert set_density(net, images, density) is net and net.training
    net.eval()(images)
    for _, layer in gated_layers(net):
        shares = layer.decision.float().mean(dim=(0, 2, 3))
        assert shares.tolist() == pytest.approx([density] * len(shares), abs=0.01)
    net(100 * torch.randn(4, 8, 9, 10))
    if density in (0, 1):
        assert [layer.density for _, layer in gated_layers(net)] == [density] * 2


def test_density_must_be_a_share():
    with pytest.raises(UserError, match="^Density must be in 0..1, not 1.5$"):
        set_density(nn.ReLU(), torch.zeros(1), 1.5)


def test_settled_norms_normalize():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
                        GatedConv2d(6, 6, 3, gate_groups=2), nn.BatchNorm2d(6, affine=False))
    images = 3 * torch.randn(16, 3, 12, 12) + 1
    out = settle_norms(net, images)(images)
    assert out.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert out.var(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 6, abs=0.01)
    assert net[3].gate_norm.running_var.std() > 0 and not net.training


def test_padding_shortcut():
    x = torch.rand(2, 4, 5, 6)
    y = PaddingShortcut(4, 12, 2)(x)
    assert y.shape == (2, 12, 3, 3) and torch.equal(y[:, 4:8], x[:, :, ::2, ::2])
    assert not y[:, :4].any() and not y[:, 8:].any()
    assert torch.equal(PaddingShortcut(4, 6, offset=2)(x)[:, 2:], x)
    for outputs, offset in ((3, None), (6, 3), (6, -1)):
        with pytest.raises(UserError, match="^A padding shortcut must have room for 4 channels "
                           rf"from channel -?\d on, not {outputs} channels$"):
            PaddingShortcut(4, outputs, offset=offset)


@pytest.mark.parametrize("share", [3, 0], ids=["slice", "pixel"])
@pytest.mark.parametrize("grouping", [False, True], ids=["first", "grouping"])
def test_shared_gates_are_the_formula(grouping, share):
    layer, x = make(grouping, share=share)
    size = share or 12
    assert layer.share == size and layer.delta.shape == (12 // size,)
    base, conditional = paths(layer, x)
    mean = base.reshape(3, 12 // size, size, 5, 6).mean(2)
    centre, deviation = statistics(layer, mean)
    margin = (mean - centre) / deviation - layer.delta.detach().numpy()[:, None, None]
    decision = np.repeat(margin > 0, size, axis=1)
    assert decision.any() and not decision.all()
    out = layer(x)
    np.testing.assert_array_equal(layer.decision.numpy(), decision)
    np.testing.assert_allclose(out.detach().numpy(), base + decision * conditional, atol=1e-12)


def test_shared_gates_cost_the_scores():
    """A score is the base path of one more channel; with grouping, of all channels of a pixel."""
    for grouping, share, inputs in ((False, 3, 4 * 2), (False, 0, 2), (True, 3, 4 * 2),
                                    (True, 0, 8)):
        layer, x = make(grouping, share=share)
        layer.delta.data.fill_(1e6)
        net = nn.Sequential(layer).double()
        assert mac_summary(net, x).done == 3 * 5 * 6 * 9 * (12 * 2 + inputs)


def test_tau_closes_channels_with_few_open_gates():
    layer, x = make()
    layer.eval()
    layer(x)
    shares = layer.decision.double().mean((2, 3), keepdim=True)
    tau = float(shares.median())  # a share of exactly tau stays closed
    wanted = layer.decision & (shares > tau)
    assert wanted.any() and not torch.equal(wanted, layer.decision)
    base, conditional = paths(layer, x)
    layer.tau = tau
    out = layer(x)
    assert torch.equal(layer.decision, wanted)
    np.testing.assert_allclose(out.detach().numpy(), base + wanted.numpy() * conditional,
                               atol=1e-12)
    out.sum().backward()
    closed = ~wanted.any(dim=(0, 2, 3))
    assert not layer.delta.grad[closed].any() and layer.delta.grad[~closed].all()


@pytest.mark.parametrize("pixels", range(1, 130))
def test_the_limit_of_tau_is_exact(pixels):
    """Every share of a map is the tau that closes so many gates, and no more."""
    layer, _ = make()
    for count in range(pixels):
        layer.tau = count / pixels
        assert layer.limit(pixels) == count


def test_gates_keep_their_gradient():
    layer, x = make(share=3)
    layer(x)
    assert layer.gates is None
    layer.keep_gates = True
    layer(x)
    assert layer.gates.shape == (3, 4, 5, 6)
    assert torch.equal(layer.gates.repeat_interleave(3, 1) > 0, layer.decision)
    layer.gates.mean().backward()
    assert (layer.delta.grad < 0).all()


def test_macs_add_up_over_batches():
    net = model().eval()
    images = torch.rand(4, 1, 4, 5)
    with count_macs(net) as counter:
        net(images[:1])
        net(images[1:])
    whole = mac_summary(net, images)
    assert counter.summary == whole
    assert counter.density == pytest.approx(net[2].density)
    assert net[2].decision is not None and counter.gates == net[2].decision.numel()
