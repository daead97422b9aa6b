"""A user's model is given back as it was, whatever its forward does."""

import threading
from contextlib import suppress

import pytest
import torch
from torch import nn

import hwgate
from hwgate.errors import UserError
from hwgate.nn import mac_summary, set_density
from hwgate.nn.running import copied, evaluating

torch.set_num_threads(1)  # tests run in parallel
IMAGES = torch.randn(4, 8, 6, 6, generator=torch.manual_seed(0))


class Logging(nn.Module):
    """Writes down what it computes, wherever a module can."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.last, self.calls, self.seen, self.log = None, 0, [], {"kept": [1], "set": {1}}
        self.pair, self.count = ([], torch.zeros(1)), torch.zeros(1)

    def forward(self, x):
        self.calls += 1
        self.last = self.block(x)
        self.seen.append(self.last)
        self.log["kept"][0] = self.log["last"] = self.last
        self.log["set"].add(2)
        self.pair[0].append(self.last)
        self.extra = x
        return self.last


class Counting(Logging):
    def forward(self, x):
        self.count += 1
        self.pair[1].add_(1)
        return super().forward(x)


@pytest.mark.parametrize("use", [
    lambda model: hwgate.gate(model, 2), lambda model: hwgate.gate(model, 2, images=IMAGES),
    lambda model: hwgate.quantize(model, IMAGES, hwgate.AcceleratorConfig()),
    lambda model: hwgate.check(model, (8, 6, 6), hwgate.AcceleratorConfig())],
    ids=["gate", "gate with images", "quantize", "check"])
@pytest.mark.parametrize("kind", [Logging, Counting])
def test_nothing_is_left_behind(use, kind):
    model = kind()
    seen, kept = model.seen, model.log["kept"]
    # Export takes no tensor that is changed and is no buffer.
    with suppress(*[UserError] if kind is Counting else []):
        use(model)
    assert model.training and model.block[1].training
    assert (model.last, model.calls, model.seen, model.pair[0]) == (None, 0, [], [])
    assert model.log == {"kept": [1], "set": {1}} and not hasattr(model, "extra")
    assert model.seen is seen and model.log["kept"] is kept
    assert not model.count.any() and not model.pair[1].any()


def test_modules_in_lists_are_given_back_too():
    model = nn.Sequential(nn.Conv2d(8, 8, 1))
    model.others = [nn.BatchNorm2d(8)]
    with evaluating(model):
        model.others[0](IMAGES)
        model.others[0].mark = 1
    assert not model.others[0].running_mean.any() and not hasattr(model.others[0], "mark")


@pytest.mark.parametrize("use", [
    lambda model: mac_summary(model, IMAGES), lambda model: set_density(model, IMAGES, 0.5),
    lambda model: hwgate.gate(model, 2, images=IMAGES).model], ids=["macs", "density", "gate"])
def test_frozen_norms_stay_frozen(use):
    model = Logging()
    model.block[1].eval()
    found = use(model)
    for each in (model, found) if isinstance(found, nn.Module) else (model,):
        assert each.training and each.block[0].training and not each.block[1].training


@pytest.mark.parametrize("value, text", [
    (threading.Lock(), "cannot pickle '_thread.lock' object"),
    ([torch.zeros(1, requires_grad=True) * 2], "Only Tensors created explicitly by the user ")],
    ids=["lock", "computed"])
def test_what_cannot_be_copied_is_one_sentence(value, text):
    model = Logging()
    model.held = value
    with pytest.raises(UserError) as error:
        copied(model)
    assert str(error.value).startswith(f"Model Logging cannot be copied ({text}")
    assert str(error.value).endswith("; take what cannot be copied out of its attributes")
