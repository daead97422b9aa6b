"""The reader for PyTorch: its graph computes what the model does, however that is written."""

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import hwgate
from hwgate.errors import CompileError, UserError
from hwgate.frontend import lower, read_torch, simplify
from hwgate.frontend.graph import UNSUPPORTED
from hwgate.frontend.model import evaluating, unwrap
from hwgate.nn.gated import GatedConv2d
from hwgate.nn.models import lenet, resnet18, resnet20, vgg16

torch.set_num_threads(1)  # tests run in parallel


class Net(nn.Module):
    """Two convolutions with norms, and a linear layer; the body is the case."""

    def __init__(self, body=lambda m, h: m.b(torch.relu(m.a(h)))):
        super().__init__()
        self.body = body
        self.a, self.b = (nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
                          for _ in range(2))
        self.drop, self.act, self.linear = nn.Dropout(), nn.ReLU(inplace=True), nn.Linear(4, 3)
        for norm in (self.a[1], self.b[1]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.normal_()

    def forward(self, x, extra=None):
        return self.linear(self.body(self, x).mean((2, 3)))


def relu_in_place(m, h):
    y = m.a(h)
    m.act(y)
    return m.b(y)


def aliased(m, h):
    y = m.a(h)
    skip = y
    y = y + F.relu(m.b(h))
    skip.mul_(0.5)
    return y + skip


def changed(change):
    def body(m, h):
        y = m.a(h)
        change(y, h)
        return m.b(y)
    return body


def twice(m, h):
    return m.a(m.a(h).relu_())


BODIES = {
    "plain": lambda m, h: m.b(torch.relu(m.a(h))), "ReLU in place": relu_in_place,
    "alias": aliased, "add_": changed(lambda y, h: y.add_(h)),
    "mul_": changed(lambda y, h: y.mul_(0.25)), "clamp_": changed(lambda y, h: y.clamp_(max=0.5)),
    "training branch": lambda m, h: m.b(h) if m.training else m.b(F.relu(m.a(F.relu(h)))),
    "dropout": lambda m, h: m.b(m.drop(m.a(h))), "twice": twice,
    "views": lambda m, h: m.b(m.a(h).view(-1, 256).reshape(h.shape).contiguous().detach()),
    "shuffle": lambda m, h: m.a(h).view(-1, 2, 2, 8, 8).transpose(1, 2).flatten(1, 2),
    "chunks": lambda m, h: torch.cat(m.a(h).chunk(2, 1)[::-1], 1),
    "constants": lambda m, h: 1 - (m.a((h - 0.5) / torch.tensor([1., 2, 3, 4]).view(4, 1, 1)) * 3),
    "pooled": lambda m, h: F.avg_pool2d(F.max_pool2d(m.a(h), 2), 2, divisor_override=3),
    "padded": lambda m, h: m.b(F.pad(m.a(h), (0, 1, 2, 0))),
}


def assert_follows(model, images):
    graph = read_torch(model, images.shape[1:])
    assert not [node for node in graph.nodes if node.op == UNSUPPORTED]
    with evaluating(model), torch.no_grad():
        wanted = model(images)
        for found in (graph, simplify(graph)):
            torch.testing.assert_close(found(images), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_graph_computes_what_the_model_does(body):
    torch.manual_seed(0)
    assert_follows(Net(body), torch.randn(3, 4, 8, 8))


@pytest.mark.parametrize("make", [lenet, resnet20, resnet18, vgg16])
def test_the_projects_own_networks(make):
    options = {} if make is lenet else {"gate_groups": 2, "width": 0.25}
    images = torch.randn(2, 1, 28, 28) if make is lenet else torch.randn(2, 3, 32, 32)
    torch.manual_seed(1)
    assert_follows(make(**options).eval(), images)


@pytest.mark.parametrize("wrap", [
    lambda conv: prune.l1_unstructured(conv, "weight", 0.5), parametrizations.spectral_norm,
    parametrizations.weight_norm], ids=["pruned", "spectral norm", "weight norm"])
def test_computed_weights(wrap):
    torch.manual_seed(0)
    model = Net().eval()
    wrap(model.a[0])
    assert_follows(model, torch.randn(3, 4, 8, 8))


def test_hooks_are_followed():
    torch.manual_seed(0)
    model = Net()
    model.a[0].register_forward_hook(lambda m, i, o: 2 * o)
    model.b[0].register_forward_pre_hook(lambda m, i: (i[0] + 1,))
    assert_follows(model, torch.randn(3, 4, 8, 8))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, of ScriptModules
def test_wrappers_are_taken_off():
    torch.manual_seed(0)
    model, images = Net().eval(), torch.randn(2, 4, 8, 8)
    program = torch.export.export(model, (images,))
    with torch.no_grad():
        wanted = model(images)
    for wrapped in (nn.DataParallel(model), torch.compile(model), program, program.module()):
        torch.testing.assert_close(read_torch(unwrap(wrapped), images.shape[1:])(images), wanted)
    assert unwrap(nn.DataParallel(torch.compile(model))) is model
    script = torch.jit.script(nn.Sequential(nn.ReLU()))
    with pytest.raises(UserError, match="^A ScriptModule cannot be read; give the module that it "
                                        "was made of$"):
        unwrap(script)
    with pytest.raises(UserError, match="^A model must be a torch module or an exported program, "
                                        "not 'model'$"):
        hwgate.quantize("model", images, hwgate.preset("tiny"))


@pytest.mark.parametrize("count, dynamic", [
    (1, None), (3, None), (8, None), (8, {0: Dim.DYNAMIC}),
    (4, {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO})])
def test_programs_run_in_their_own_batches(count, dynamic):
    torch.manual_seed(0)
    model, images = Net().eval(), torch.randn(8, 4, 8, 8)
    shapes = None if dynamic is None else (dynamic,)
    program = torch.export.export(model, (images[:count],), dynamic_shapes=shapes)
    own, other = (hwgate.quantize(found, images, hwgate.preset("tiny"))
                  for found in (model, program))
    assert [layer.name for layer in own.layers] == [layer.name for layer in other.layers]
    assert (own(images) == other(images)).all() and own.fidelity == other.fidelity


def test_the_model_comes_back_as_it_was():
    class Caches(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.seen = x.shape
            self.cache = super().forward(x)
            return self.cache

    torch.manual_seed(0)
    model = Caches()
    model.a.eval()
    model.b[0].weight.requires_grad_(False)
    model.b[0].register_forward_hook(lambda m, i, o: o)
    before = copy.deepcopy({name: vars(module) for name, module in model.named_modules()})
    hwgate.quantize(model, torch.randn(4, 4, 8, 8), hwgate.preset("tiny"))
    assert not hasattr(model, "cache") and not hasattr(model, "seen")
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert module.training == before[name]["training"]
        assert len(module._forward_hooks) == len(before[name]["_forward_hooks"])
        for key, parameter in module._parameters.items():
            assert parameter is None or torch.equal(parameter, before[name]["_parameters"][key])
    assert model.calls == 0
    assert not model.b[0].weight.requires_grad and model.a[0].weight.requires_grad


def test_weights_that_a_model_changes_come_back():
    class Clamps(Net):
        def forward(self, x):
            self.b[0].weight.data.clamp_(-0.1, 0.1)
            return super().forward(x)

    model = Clamps()
    with pytest.raises(CompileError, match="^Model Clamps cannot be exported"):
        hwgate.quantize(model, torch.randn(4, 4, 8, 8), hwgate.preset("tiny"))
    assert model.b[0].weight.abs().max() > 0.1


def test_half_precision_and_double():
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float64):
        model, images = Net().to(dtype).eval(), torch.randn(4, 4, 8, 8)
        found = read_torch(model, (4, 8, 8))(images)
        with torch.no_grad():
            wanted = model(images.to(dtype))
        torch.testing.assert_close(found.float(), wanted.float(), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("forward, sentence", [
    (lambda x: x if x.sum() > 0 else -x, "Model Case cannot be exported for images of the shape "
     "4x8x8 ("),
    (lambda x: (x, x), "Model Case must return one tensor, the output of its last layer"),
    (lambda x: {"a": x, "b": x}, "Model Case must return one tensor, the output of its last layer"),
])
def test_what_cannot_be_read(forward, sentence):
    class Case(nn.Module):
        def forward(self, x):
            return forward(x)

    with pytest.raises(CompileError) as error:
        read_torch(Case(), (4, 8, 8))
    assert str(error.value).startswith(sentence)


def test_nodes_tell_where_they_come_from():
    graph = read_torch(Net().eval(), (4, 8, 8))
    assert [(node.op, node.origin) for node in graph.nodes] == [
        ("Input", "the image"), ("Conv", "a.0"), ("BatchNorm", "a.1"), ("Activation", "relu"),
        ("Conv", "b.0"), ("BatchNorm", "b.1"), ("Mean", "mean"), ("Reshape", "linear"),
        ("Linear", "linear")]
    assert graph.nodes[2].keys == {"weight": "a.1.weight", "bias": "a.1.bias",
                                   "mean": "a.1.running_mean", "variance": "a.1.running_var"}


class Gated(nn.Module):
    """A gated layer, called as the case does."""

    def __init__(self, body):
        super().__init__()
        self.body, self.g = body, GatedConv2d(4, 4, 3, padding=1, gate_groups=2)
        self.inner = nn.Sequential(GatedConv2d(4, 4, 3, padding=1, gate_groups=2))
        self.fast = torch.compile(self.inner[0], backend="eager")
        self.plain = [GatedConv2d(4, 4, 3, padding=1, gate_groups=2)]

    def forward(self, x):
        return self.body(self, x)


@pytest.mark.parametrize("body, own", [
    (lambda m, x: m.g(x), "g"), (lambda m, x: m.g.forward(x), "g"),
    (lambda m, x: m.inner[0].forward(x), "inner.0"), (lambda m, x: m.fast(x), "inner.0")])
def test_gated_layers_are_found_by_their_weights(body, own):
    model = Gated(body).eval()
    found, = (node for node in read_torch(model, (4, 8, 8)).nodes if node.op == "Conv")
    assert found.options["gate"] is model.get_submodule(own)


def test_gated_layers_that_are_no_modules():
    graph = read_torch(Gated(lambda m, x: m.plain[0](x)).eval(), (4, 8, 8))
    assert lower(graph)[1] == (
        "Layer 'gated_conv2d' is a gated layer that is no module of the model; keep it as one, as "
        "nn.ModuleList does, and call it",)
