"""The reader for PyTorch: its graph computes what the model does, however that is written."""

import copy
import re
from collections import defaultdict, deque

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
from hwgate.nn import GatedConv2d, set_density, settle_norms
from hwgate.nn.models import lenet, resnet18, resnet20, vgg16
from support.shares import rest_slow

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


class Plus(GatedConv2d):
    def forward(self, x):
        return super().forward(x) + 1


class Decides(GatedConv2d):
    def _decide(self, scores):
        return super()._decide(-scores)


def gated(kind=GatedConv2d):
    torch.manual_seed(0)
    model = nn.Sequential(kind(8, 8, 3, padding=1, gate_groups=2, bias=True), nn.ReLU())
    return set_density(settle_norms(model, torch.randn(8, 8, 8, 8)), torch.randn(8, 8, 8, 8), 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("kind, change", [
    (Plus, lambda layer: None),
    (GatedConv2d, lambda layer: layer.register_forward_hook(lambda m, i, o: o + 1)),
    (GatedConv2d, lambda layer: layer.register_forward_pre_hook(lambda m, i: (i[0] - 1,))),
    (GatedConv2d, lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    (GatedConv2d, lambda layer: torch.nn.utils.weight_norm(layer).weight_g.data.mul_(2)),
    (GatedConv2d, parametrizations.spectral_norm)],
    ids=["class", "hook", "pre-hook", "pruned", "weight hook", "spectral norm"])
def test_what_is_around_a_gated_layer_is_followed_once(kind, change):
    model, images = gated(kind), torch.randn(8, 8, 8, 8)
    change(model[0])
    assert_follows(model.eval(), images)
    assert hwgate.quantize(model, images, hwgate.preset("tiny")).layers[0].gated


def normed(norm):
    def change(model):
        model[0].gate_norm = norm
        return model
    return change


def hooked(model):
    model[0].gate_norm.register_forward_hook(lambda m, i, o: o + 1)
    return model


OTHER_NORM = ("has a gate_norm other than a BatchNorm2d with running statistics, without "
              "parameters and hooks; leave it as GatedConv2d makes it")


@pytest.mark.parametrize("kind, change, sentence", [
    (GatedConv2d, normed(nn.BatchNorm2d(8)), OTHER_NORM),
    (GatedConv2d, normed(nn.BatchNorm2d(8, affine=False, track_running_stats=False)), OTHER_NORM),
    (GatedConv2d, normed(nn.Identity()), OTHER_NORM), (GatedConv2d, hooked, OTHER_NORM),
    (Decides, lambda model: model,
     "decides in another way than GatedConv2d; change its forward only")],
    ids=["parameters", "no statistics", "another module", "hook", "class"])
def test_gates_that_are_others_are_refused(kind, change, sentence):
    model = change(gated(kind)).eval()
    with pytest.raises(CompileError, match=f"^Layer '.*' {sentence}$"):
        hwgate.quantize(model, torch.randn(8, 8, 8, 8), hwgate.preset("tiny"))
    assert any(sentence in text for text in
               hwgate.check(model, (8, 8, 8), hwgate.preset("tiny")).obstacles)


def test_gate_norms_of_several_processes():
    model, images = gated(), torch.randn(8, 8, 8, 8)
    wanted = hwgate.quantize(model, images, hwgate.preset("tiny"))
    found = hwgate.quantize(nn.SyncBatchNorm.convert_sync_batchnorm(model), images,
                            hwgate.preset("tiny"))
    assert (found.layers[0].threshold == wanted.layers[0].threshold).all()


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
    part = nn.Sequential(nn.ReLU(), script).train()
    with pytest.raises(UserError, match="^Layer '1' is a ScriptModule, which cannot be read; give "
                                        "the module that it was made of$"):
        hwgate.check(part, (4, 8, 8), hwgate.preset("tiny"))
    assert part[0].training and script.training
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
            self.history, self.log, self.names = [1], defaultdict(list, a=[2]), {3}
            self.last = deque([4, 5], maxlen=2)

        def forward(self, x):
            self.calls += 1
            self.history.append(x)
            self.log["x"] = self.log.pop("a", x)
            self.names.add(len(self.history))
            self.last.append(x)
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
    assert (model.history, model.log, model.names) == ([1], {"a": [2]}, {3})
    assert list(model.last) == [4, 5]
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


def test_a_tensor_that_is_no_buffer_and_changed_is_refused():
    class Counts(Net):
        def __init__(self):
            super().__init__()
            self.calls, self.more = torch.zeros(1), [torch.zeros(1)]

        def forward(self, x):
            self.calls += 1
            self.more[0] += 1
            return super().forward(x)

    model = Counts()
    with pytest.raises(CompileError, match="^Model Counts cannot be exported for .*buffer"):
        hwgate.quantize(model, torch.randn(4, 4, 8, 8), hwgate.preset("tiny"))
    assert model.calls == 0 and model.more == [torch.zeros(1)]


def test_half_precision_and_double():
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float64):
        model, images = Net().to(dtype).eval(), torch.randn(4, 4, 8, 8)
        found = read_torch(model, (4, 8, 8))(images)
        with torch.no_grad():
            wanted = model(images.to(dtype))
        torch.testing.assert_close(found.float(), wanted.float(), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gated_layers_in_half_precision(dtype):
    images = torch.randn(8, 8, 8, 8)
    wanted = hwgate.quantize(gated(), images, hwgate.preset("tiny"))
    found = hwgate.quantize(gated().to(dtype), images, hwgate.preset("tiny"))
    assert (found.run(images)[0].decision == wanted.run(images)[0].decision).mean() > 0.97


@pytest.mark.parametrize("forward, sentence", [
    (lambda x: x if x.sum() > 0 else -x, "Model Case cannot be exported for images of the shape "
     "4x8x8 ("),
    (lambda x: (x, x), "Model Case must return one tensor, the output of its last layer"),
    (lambda x: (x,), "Model Case must return one tensor, the output of its last layer"),
    (lambda x: {"a": x}, "Model Case must return one tensor, the output of its last layer"),
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


class Case(nn.Module):
    """A convolution, and what the case makes of its output; ``one`` and ``five`` are linear."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.one, self.five = nn.Linear(8, 1), nn.Linear(8, 5)
        self.body, self.gated = body, GatedConv2d(8, 8, 3, gate_groups=2)
        self.constants = nn.ParameterList(torch.ones(shape) for shape in ((), (1, 5), (1, 1, 1, 1)))
        self.register_buffer("picture", torch.randn(1, 8, 8, 8))

    def forward(self, x):
        return self.body(self, torch.relu(self.conv(x)))


#: Values that no layer computes, most of them without the batch in front.
REFUSED = {
    "channels": lambda h: h.mean((0, 2, 3)), "batch": lambda h: h.mean(0),
    "number": lambda h: h.max(), "item": lambda h: h.sum().item() * torch.ones(8),
    "flat": lambda h: h.mean((2, 3)).flatten(), "nothing": lambda h: h[:, 8:],
    "as many": torch.nonzero, "integers": lambda h: h.argmax(1), "map": lambda h: h.sigmoid(),
}

#: What takes them, some with the convolution's output.
TAKERS = [
    lambda m, v, h: torch.relu(v) * 2 + v, lambda m, v, h: h * v.view(1, -1, 1, 1) + 1,
    lambda m, v, h: h / (v + 1), lambda m, v, h: torch.relu(h - v), lambda m, v, h: m.gated(v),
    lambda m, v, h: F.avg_pool2d(v.float(), 2), lambda m, v, h: F.max_pool2d(v, 2),
    lambda m, v, h: F.adaptive_avg_pool2d(v, 1), lambda m, v, h: F.conv2d(v, m.gated.weight),
    lambda m, v, h: F.conv2d(m.picture, v), lambda m, v, h: m.five(v), lambda m, v, h: v.mean(-1),
    lambda m, v, h: torch.cat([v, v], 0), lambda m, v, h: torch.cat([v, h], 1),
    lambda m, v, h: m.norm(v), lambda m, v, h: v.view(-1, 8), lambda m, v, h: F.pad(v, (1, 1)),
    lambda m, v, h: v[..., 0], lambda m, v, h: v.chunk(2, -1)[1], lambda m, v, h: h[:, v],
    lambda m, v, h: torch.index_select(h, 1, v), lambda m, v, h: h.clamp(v), lambda m, v, h: v.T,
    lambda m, v, h: torch.addmm(v, h.mean((2, 3)), m.five.weight.t()),
    lambda m, v, h: torch.rsub(m.picture, v), lambda m, v, h: v.softmax(-1),
    lambda m, v, h: v.sort()[1], lambda m, v, h: m.five.weight @ v,
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("value", rest_slow(REFUSED, quick=5))
def test_values_behind_what_is_refused_are_no_obstacles_of_their_own(value):
    def takes(taker):
        with torch.no_grad():
            try:
                return bool(taker(model, value(example), example).ndim + 1)
            except Exception:
                return False

    model, example = Case(None).eval(), torch.randn(2, 8, 8, 8)
    takers = [taker for taker in TAKERS if takes(taker)]
    model.body = lambda m, h: sum(taker(m, value(h), h).float().mean() for taker in takers)
    found = hwgate.check(model, (4, 8, 8), hwgate.preset("digits"))
    assert len(takers) > 3 and found.obstacles
    for text in found.obstacles:
        assert re.fullmatch("(Layer|Model) [^;]+; [^;]+", text), text
    with pytest.raises(CompileError, match=f"^{re.escape(found.obstacles[0])}$"):
        hwgate.quantize(model, torch.randn(2, 4, 8, 8), hwgate.preset("digits"))


@pytest.mark.parametrize("body", [
    lambda m, h: torch.addmm(m.five.bias, h, m.five.weight.t(), beta=0.5, alpha=2),
    lambda m, h: torch.addmm(m.constants[0], h, m.five.weight.t()),
    lambda m, h: torch.addmm(m.constants[1], h, m.five.weight.t()),
    lambda m, h: m.five(h) + m.constants[1] * 2, lambda m, h: m.one(h).squeeze(),
    lambda m, h: torch.relu(m.one(h).squeeze(1))])
def test_sums_of_products_and_single_results(body):
    model, images = Case(lambda m, h: body(m, h.mean((2, 3)))), torch.randn(4, 4, 8, 8)
    assert_follows(model.eval(), images)
    for count in (1, 4):
        network = hwgate.quantize(model, images[:count], hwgate.preset("digits"), check="warn")
        assert network(images).shape[0] == 4 and network.flat


@pytest.mark.parametrize("body, sentence", [
    (lambda m, h: m.five(h.mean((2, 3))) + m.constants[2], "'add' combines a value with a constant "
     "of the shape 1x1x1x1; use one number, or one of each channel"),
    (lambda m, h: h.mean(), "'mean' is a mean over the dimensions []; take the mean over rows and "
     "columns"),
    (lambda m, h: m.one(h.mean((2, 3))).squeeze() * 2, "'mul' scales or moves values without "
     "channels; keep the channels, or do so before they are left out"),
    (lambda m, h: h + torch.rand(1), "'rand' draws random numbers; leave them out in eval()"),
    (lambda m, h: F.max_pool2d(h[:, 0], 2), "'max_pool2d_with_indices' is a max pooling in 1 "
     "dimensions; use that in 2 dimensions, on maps (N, C, H, W)"),
    (lambda m, h: torch.cond(torch.ones(1).sum() > h.shape[1], lambda v: v + 1, lambda v: v * 2,
                             (h,)), "'cond' calls cond(); supported are "),
])
def test_what_is_refused_says_so_wherever_it_is_looked_at(body, sentence):
    model = Case(body).eval()
    found = hwgate.check(model, (4, 8, 8), hwgate.preset("digits"))
    with pytest.raises(CompileError) as refused:
        hwgate.quantize(model, torch.randn(2, 4, 8, 8), hwgate.preset("digits"))
    assert str(refused.value) == found.obstacles[0]
    assert found.obstacles[0].startswith(f"Layer {sentence}")
