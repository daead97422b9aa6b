"""Channel-gated layers for PyTorch (Hua et al., "Channel Gating Neural Networks", NeurIPS 2019)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwgate.errors import UserError, expect

__all__ = ["ChannelShuffle", "GatedConv2d", "PaddingShortcut", "kept_whole"]

#: Up to so many input channels, a convolution of all of them with zero weights for the base path
#: is quicker than one of a slice of them, which must be copied.
_NARROW = 64

#: What a product of tau and a number of pixels may lack to a whole number.
_ROUNDING = 1e-6


#: Whether gated layers are one operator, for whoever traces a model.
_WHOLE: ContextVar[bool] = ContextVar("whole", default=False)


@contextmanager
def kept_whole() -> Iterator[None]:
    """Inside, a gated layer calls one operator, ``hwgate::gated_conv2d``, that stands for it."""
    token = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(token)


@torch.library.custom_op("hwgate::gated_conv2d", mutates_args=())
def _gated_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
                  padding: Sequence[int]) -> Tensor:
    """Only its shape is ever asked for; ``padding`` is (top, bottom, left, right)."""
    top, bottom, left, right = padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, tuple(stride))


_gated_conv2d.register_fake(_gated_conv2d._init_fn)


class _Step(torch.autograd.Function):
    """``u > 0`` forward, the gradient of ``sigmoid(alpha * u)`` backward."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, alpha: float, sparse: bool) -> Tensor:
        opened = u.sign().relu_()  # several times as quick as a comparison and a conversion
        ctx.save_for_backward(u, opened if sparse else None)
        ctx.alpha = alpha
        return opened

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (u, opened), (grad,) = ctx.saved_tensors, grads
        soft = torch.mul(u, ctx.alpha).sigmoid_()
        out = torch.ops.aten.sigmoid_backward(grad, soft).mul_(ctx.alpha)
        return (out if opened is None else out.mul_(opened)), None, None


class _Reorder(torch.autograd.Function):
    """Channels in another order; keeps the memory format, of the gradient as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.order = order
        return _reorder(x, order)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _reorder(grads[0], ctx.order.argsort()), None


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).index_select(3, order).permute(0, 3, 1, 2)


class GatedConv2d(nn.Conv2d):
    """Drop-in for the ``Conv2d`` of a Conv-BN-ReLU block that skips work where it can.

    The base path ``yp`` sums 1/G of the input channels. Per output activation, a gate opens iff
    ``(yp - mean) / sqrt(var + eps) > delta[c]``, strictly; only there is the conditional path
    ``yr``, the other channels, added: ``y = yp + d * yr``. Mean and variance are those of an
    affine-free batch norm of ``yp``; ``delta`` is learned.

    One decision may serve ``share`` consecutive output channels, of a slice or of a whole pixel:
    ``yp`` above is then the mean of their base sums, and norm and threshold belong to the slice.
    With ``tau``, the open gates of a channel (or slice) close again for an image in which they
    are no larger share of its map than ``tau``.

    The gradient of the decision is that of ``sigmoid(alpha * (norm(yp) - delta))``, with
    ``dL/dd = dL/dy * yr``.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, bias
        As for ``Conv2d``; without a bias by default, since a batch norm follows. A bias is added
        to open and closed activations alike and is not seen by the gate.
    gate_groups : int
        G; divides ``in_channels``, and ``out_channels`` if ``grouping``. At least 2.
    grouping : bool
        Output group i has input group i as its base path, instead of group 0 for all.
    alpha : float
        Steepness of the surrogate gradient, positive.
    sparse_bp : bool
        No gradient flows through closed gates.
    share : int
        Output channels that share a gate; divides ``out_channels``, and their groups if
        ``grouping``, unless it is all of them. 0 means all of them, the gates of a pixel.
    tau : float
        Share of open gates, in 0..1, that opens a channel.

    Attributes
    ----------
    delta : Parameter (out_channels / share,)
        Thresholds on normalized base partial sums, initially 0.
    base : bool tensor (out_channels, in_channels)
        Input channels of the base path of each output channel.
    force_open : bool
        Open every gate: the layer is then an ordinary convolution with the same weights.
    keep_gates : bool
        Keep :attr:`gates`, for losses that look at decisions.
    gates : float tensor (N, out_channels / share, H, W) or None
        Decisions of the last forward pass, with their gradient.

    Raises
    ------
    UserError
        For a group count or a share that does not divide the channels, an alpha that is not
        positive, a tau that is no share, or sizes that no convolution has.
    """

    gates: Tensor | None
    base: Tensor
    _opened: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | str | tuple[int, int] = 0,
                 bias: bool = False, *, gate_groups: int = 4, grouping: bool = False,
                 alpha: float = 2.0, sparse_bp: bool = False, share: int = 1,
                 tau: float = 0.0) -> None:
        for what, value in (("Input channel count", in_channels),
                            ("Output channel count", out_channels),
                            ("Gate group count", gate_groups), ("Share", share)):
            expect(f"{what} of a gated layer", value, Integral)
        expect("Grouping of a gate", grouping, bool)
        _expect_pair("Kernel size of a gated layer", kernel_size)
        _expect_pair("Stride of a gated layer", stride)
        _expect_pair("Padding of a gated layer", padding, str)
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise UserError(f"Padding of a gated layer must be same or valid, or numbers, not "
                            f"{padding!r}")
        if padding == "same" and stride not in (1, (1, 1)):
            raise UserError(f"Stride of a gated layer with padding 'same' must be 1, not {stride}")
        for what, value in (("Input", in_channels), ("Output", out_channels)):
            if value < 1:
                raise UserError(f"{what} channel count of a gated layer must be positive, not "
                                f"{value}")
        expect("Alpha of a gate", alpha, Real)
        expect("Tau of a gate", tau, Real)
        if gate_groups < 2:
            raise UserError(f"Gate group count must be at least 2, not {gate_groups!r}")
        if in_channels % gate_groups:
            raise UserError(f"Gate group count must divide the {in_channels} input channels, "
                            f"which {gate_groups} does not")
        if grouping and out_channels % gate_groups:
            raise UserError(f"Gate group count must divide the {out_channels} output channels of "
                            f"a grouped gate, which {gate_groups} does not")
        if not alpha > 0:
            raise UserError(f"Alpha of a gate must be positive, not {alpha!r}")
        share = out_channels if share == 0 else share
        unit = out_channels // gate_groups if grouping and share < out_channels else out_channels
        if share < 1 or unit % share:
            raise UserError(f"A gate must be shared by a number of channels that divides {unit}, "
                            f"not {share}")
        if not 0 <= tau < 1:
            raise UserError(f"Tau of a gate must be a share in 0..1, not {tau!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.gate_groups, self.grouping = gate_groups, grouping
        self.alpha, self.sparse_bp, self.share, self.tau = alpha, sparse_bp, share, tau
        self.gate_norm = nn.BatchNorm2d(out_channels // share, affine=False)
        self.delta = nn.Parameter(torch.zeros(out_channels // share))
        inputs = torch.arange(in_channels) * gate_groups // in_channels
        outputs = torch.arange(out_channels) * gate_groups // out_channels
        self.register_buffer("base", inputs == (outputs if grouping else 0 * outputs)[:, None],
                             persistent=False)
        self.force_open = self.keep_gates = False
        self.gates = self._opened = None

    def forward(self, input: Tensor, score_weights: Tensor | None = None) -> Tensor:
        """(N, Ci, H, W) to (N, Co, Ho, Wo); records :attr:`decision`.

        Where channels share gates, ``score_weights`` may stand for :meth:`score_weights`, such as
        these rounded by themselves.
        """
        if _WHOLE.get() and score_weights is None:
            return cast(Tensor, _gated_conv2d(input, self.weight, self.bias, self.stride,
                                              self.sides))
        base, conditional = self._paths(input)
        if self.force_open:
            self._opened = torch.ones_like(base)
            out = base + conditional
        else:
            scores = (self.scores(base) if score_weights is None
                      else self._convolve(input, score_weights))
            opened = self._decide(scores)
            out = torch.addcmul(base, opened, conditional)
        return out if self.bias is None else out + self.bias[:, None, None]

    def _decide(self, scores: Tensor) -> Tensor:
        """Decisions (N, Co, H, W) as 0 and 1, with their gradient."""
        normed = self.gate_norm(scores)
        margin = normed - self.delta[:, None, None].to(normed.dtype)
        opened = _Step.apply(margin, self.alpha, self.sparse_bp)
        if self.tau > 0:
            count = (opened.detach() > 0).sum(dim=(2, 3), keepdim=True)
            opened = opened * (count > self.limit(opened.shape[2] * opened.shape[3]))
        self.gates = opened if self.keep_gates else None
        if self.share > 1:
            opened = opened.repeat_interleave(self.share, dim=1)
        self._opened = opened.detach()
        return opened

    def scores(self, base: Tensor) -> Tensor:
        """What gates compare, before its norm: (N, Co / share, H, W) of base sums (N, Co, H, W)."""
        return base if self.share == 1 else base.unflatten(1, (-1, self.share)).mean(dim=2)

    def score_weights(self) -> Tensor:
        """Weights (Co / share, Ci, K, K) of a convolution that yields :meth:`scores`."""
        base = self.weight * self.base[:, :, None, None]
        return base.unflatten(0, (-1, self.share)).mean(dim=1)

    def limit(self, pixels: int) -> int:
        """Most open gates of a map of so many pixels that :attr:`tau` closes again."""
        return int(self.tau * pixels + _ROUNDING)

    def base_sums(self, x: Tensor) -> Tensor:
        """Partial sums (N, Co, Ho, Wo) of the base path."""
        return self._paths(x)[0]

    def _paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Partial sums of the base and of the conditional path."""
        groups, width = self.gate_groups, self.in_channels // self.gate_groups
        rest = self.weight * ~self.base[:, :, None, None]
        if self.grouping:
            blocks = self.weight.unflatten(0, (groups, -1)).unflatten(2, (groups, width))
            diagonal = torch.cat([blocks[i, :, i] for i in range(groups)])
            return self._convolve(x, diagonal, groups), self._convolve(x, rest)
        base = self._convolve(x[:, :width], self.weight[:, :width])
        if self.in_channels <= _NARROW:
            return base, self._convolve(x, rest)
        return base, self._convolve(x[:, width:], self.weight[:, width:])

    def _convolve(self, x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
        return F.conv2d(x, weight, None, self.stride, self.padding, groups=groups)

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Padding at the top, the bottom, the left and the right."""
        if isinstance(self.padding, str):
            grow = [d * (k - 1) if self.padding == "same" else 0
                    for k, d in zip(self.kernel_size, self.dilation, strict=True)]
            return (grow[0] // 2, grow[0] - grow[0] // 2, grow[1] // 2, grow[1] - grow[1] // 2)
        rows, columns = self.padding
        return (rows, rows, columns, columns)

    @property
    def decision(self) -> Tensor | None:
        """Decisions of the last forward pass, bool (N, out_channels, H, W); None before it."""
        return None if self._opened is None else self._opened > 0

    @property
    def activations(self) -> int:
        """Activations of the last forward pass, those of all images; 0 before it."""
        return 0 if self._opened is None else self._opened.numel()

    @property
    def density(self) -> float:
        """Share of open decisions in the last forward pass; 1 before the first."""
        return 1.0 if self._opened is None else float(self._opened.mean(dtype=torch.float32))

    def extra_repr(self) -> str:
        return (f"{super().extra_repr()}, gate_groups={self.gate_groups}, "
                f"grouping={self.grouping}, share={self.share}, tau={self.tau}")


def _expect_pair(what: str, value: Any, *others: type) -> None:
    """Raise unless a value is an integer or two, or of another kind."""
    expect(what, value, Integral, tuple, list, *others)
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise UserError(f"{what} must be one number or two, not {len(value)}")
        for each in value:
            expect(what, each, Integral)


class ChannelShuffle(nn.Module):
    """Interleaves the channels of ``groups`` groups: channel i of group g becomes i*groups + g.

    Between grouped gated layers, so that information crosses groups. Free in hardware.

    Parameters
    ----------
    groups : int
        Must divide the channels of the input.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        expect("Group count of a shuffle", groups, Integral)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        if self.groups < 1 or x.shape[1] % self.groups:
            raise UserError(f"Group count of a shuffle must divide the {x.shape[1]} channels, "
                            f"which {self.groups} does not")
        order = torch.arange(x.shape[1], device=x.device).view(self.groups, -1).T.flatten()
        return cast(Tensor, _Reorder.apply(x, order))

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class PaddingShortcut(nn.Module):
    """Shortcut without parameters (He et al., "Deep Residual Learning", CVPR 2016, option A).

    Takes every stride-th row and column and puts zero channels around the input's.

    Parameters
    ----------
    in_channels, out_channels : int
    stride : int
    offset : int, optional
        Zero channels in front; by default half of all. What is quantized needs a multiple of the
        accelerator's channel group.

    Raises
    ------
    UserError
        If there are fewer output channels than input channels and offset.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1,
                 offset: int | None = None) -> None:
        super().__init__()
        for what, value in (("Input channel count", in_channels),
                            ("Output channel count", out_channels), ("Stride", stride),
                            ("Offset", out_channels if offset is None else offset)):
            expect(f"{what} of a padding shortcut", value, Integral)
        offset = (out_channels - in_channels) // 2 if offset is None else offset
        if not 0 <= offset <= out_channels - in_channels:
            raise UserError(f"A padding shortcut must have room for {in_channels} channels from "
                            f"channel {offset} on, not {out_channels} channels")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.offset = stride, offset

    def forward(self, x: Tensor) -> Tensor:
        """(N, Ci, H, W) to (N, Co, ceil(H / stride), ceil(W / stride))."""
        behind = self.out_channels - self.in_channels - self.offset
        # Channels last, and so is the gradient.
        kept = x.permute(0, 2, 3, 1)[:, ::self.stride, ::self.stride]
        return F.pad(kept, (self.offset, behind)).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return (f"{self.in_channels}, {self.out_channels}, stride={self.stride}, "
                f"offset={self.offset}")
