"""Reads PyTorch models: ``torch.export`` sees what one computes, whatever it is written like."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from hwgate.errors import CompileError
from hwgate.frontend.graph import BEHIND, RUNS, UNSUPPORTED, Graph, Node
from hwgate.nn.gated import GatedConv2d

from .aten import ATEN, COPIES, MOVES, Constant, Obstacle, shape_text, size_of
from .export import exported
from .moves import ZERO, Moved, Unknown, selection, spatial_padding

__all__ = ["read_torch"]

#: What of a gated layer its decisions come from, beside its forward.
_DECIDES = ("_decide", "_paths", "_convolve", "scores", "score_weights", "limit")


def read_torch(model: nn.Module | ExportedProgram, image_shape: tuple[int, ...]) -> Graph:
    """Graph of a model in evaluation mode.

    Parameters
    ----------
    model : Module or ExportedProgram
        Unwrapped, see :func:`unwrap`. Tensors of the graph are those of the model.
    image_shape : (C, H, W) or (C,)

    Raises
    ------
    CompileError
        If the model cannot be exported, or does not return one tensor.
    """
    return _Reader(exported(model, image_shape), model, type(model).__name__).graph()


class _Reader:
    """Reads one exported program.

    Parameters
    ----------
    program : ExportedProgram
        Of core ATen operators.
    model : Module or ExportedProgram
        Whose parameters and gated layers the program's are.
    name : str
        Of the model, for messages.
    """

    def __init__(self, program: ExportedProgram, model: nn.Module | ExportedProgram,
                 name: str) -> None:
        self.program, self.model, self.model_name = program, model, name
        self.nodes: list[Node] = []
        self.known: dict[fx.Node, Any] = {}
        self.here: fx.Node | None = None
        self._moved: dict[tuple[Any, ...], str] = {}

    def graph(self) -> Graph:
        """The graph of the program.

        Raises
        ------
        CompileError
            If the model takes more than one input or does not return one tensor.
        """
        signature = self.program.graph_signature
        for node in self.program.graph.nodes:
            self.here = node
            if node.op == "placeholder":
                self._place(node, signature)
            elif node.op == "call_function":
                self.known[node] = self._call(node)
            elif node.op == "get_attr":  # a graph that an operator runs
                self.known[node] = self.program.graph_module.get_submodule(str(node.target))
        returned = self.program.graph.output_node().args[0]
        user = [value for value, spec in zip(returned, signature.output_specs, strict=True)
                if spec.kind.name == "USER_OUTPUT"]
        single = len(user) == 1 and isinstance(user[0], fx.Node)
        result = self.known.get(user[0]) if single else None
        spec = self.program.call_spec.out_spec
        if not isinstance(result, (Moved, Unknown)) or not (spec is None or spec.is_leaf()):
            raise CompileError(f"Model {self.model_name} must return one tensor, the output of its "
                               "last layer")
        output = result.source if isinstance(result, Unknown) else self._value(result)
        return Graph(tuple(self.nodes), output).live()

    def _place(self, node: fx.Node, signature: Any) -> None:
        """A parameter, a constant or the image."""
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        if node.name in names:
            key = names[node.name]
            self.known[node] = Constant(self._own(key), key)
        elif node.name in signature.inputs_to_lifted_tensor_constants:
            name = signature.inputs_to_lifted_tensor_constants[node.name]
            self.known[node] = Constant(self.program.constants[name])
        elif self.nodes:
            if isinstance(node.meta.get("val"), Tensor):
                raise CompileError(f"Model {self.model_name} takes more than one tensor; give it "
                                   "one input")
            self.known[node] = node.meta.get("val")
        else:
            self.batch = node.meta["val"].shape[0]
            self._add("Input", (), node.name, "the image", tuple(node.meta["val"].shape[1:]))
            self.known[node] = Moved.of(node.name, self.nodes[0].shape)

    def _own(self, key: str) -> Tensor:
        """The model's tensor of a name."""
        if isinstance(self.model, ExportedProgram):
            found = self.model.state_dict.get(key)
            return self.program.constants[key] if found is None else found
        path, _, name = key.rpartition(".")
        return getattr(self.model.get_submodule(path), name)

    # Operators

    def _call(self, node: fx.Node) -> Any:
        name = _name(node)
        if node.target is operator.getitem:
            of, place = cast(tuple[fx.Node, int], node.args)
            values = self.known[of]
            if isinstance(values, Unknown):
                return values
            if isinstance(values, (list, tuple)):
                return values[place]
            return values if place == 0 else self._refuse(
                Obstacle("uses more than the values of an operator", "use its values only"))
        known: Any = fx.node.map_arg((node.args, dict(node.kwargs)), self.known.__getitem__)
        args, options = list(known[0]), dict(known[1])
        inputs = _moved_among((args, options))
        if not inputs:
            return self._fold(node, args, options)
        if any(isinstance(value, Unknown) for value in inputs):
            return self._leave(BEHIND, inputs)
        try:
            if name in COPIES or name == "as_strided" and _same_place(node):
                return _copied(node, args[0])
            if name in MOVES:
                return self._move(node, name, args, options)
            if name not in ATEN:
                raise Obstacle(f"calls {name.strip('_')}()")
            return ATEN[name](self, *args, **options)
        except Obstacle as obstacle:
            return self._refuse(obstacle, inputs)

    def _fold(self, node: fx.Node, args: list[Any], options: dict[str, Any]) -> Any:
        """An operator on constants is a constant."""
        target = _target(node)
        if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
            return self._refuse(Obstacle("draws random numbers", "leave them out in eval()"))
        first = args[0] if args and isinstance(args[0], Constant) else None
        if _name(node) in COPIES and first is not None:
            return first
        plain = fx.node.map_aggregate((tuple(args), options), lambda a: (
            a.value if isinstance(a, Constant) else a))
        with torch.no_grad():
            result = target(*plain[0], **plain[1])
        if first is not None and _name(node) in ("permute", "t") and first.tensor.ndim == 2:
            return Constant(first.tensor, first.key, not first.transposed)
        if isinstance(result, Tensor):
            return Constant(result)
        return [Constant(part) for part in result] if isinstance(result, (list, tuple)) else result

    def _move(self, node: fx.Node, name: str, args: list[Any], options: dict[str, Any]) -> Any:
        moved, *rest = args
        if name == "constant_pad_nd":
            if len(rest) > 1 and rest[1] != 0:
                raise Obstacle(f"pads with {rest[1]}", "pad with zeros")
            rest = [rest[0], ZERO]
        if not isinstance(moved, Moved) or _moved_among(rest):
            raise Obstacle("moves values to where others say", "move them all alike")
        target = _target(node)
        rest = [value.value if isinstance(value, Constant) else value for value in rest]
        try:
            return moved.through(lambda places: target(places, *rest, **options), self.batch,
                                 self._origin())
        except (ValueError, IndexError, RuntimeError, TypeError) as error:
            raise Obstacle("moves values between images", "keep the batch in front") from error

    # Nodes

    def gate(self, weight: Constant) -> GatedConv2d:
        """The gated layer that the operator stands for: whose the weight is, or, of a computed
        weight, that at its place."""
        modules = dict(self.model.named_modules(remove_duplicate=False) if isinstance(
            self.model, nn.Module) else ())
        gates = {module for module in modules.values() if isinstance(module, GatedConv2d)}
        own = {gate for gate in gates if gate.weight is weight.tensor}
        own = own if len(own) == 1 else gates & {modules.get(self._path())}
        if not own:
            raise Obstacle("is a gated layer that is no module of the model",
                           "keep it as one, as nn.ModuleList does, and call it")
        layer = own.pop()
        if any(getattr(type(layer), name) is not getattr(GatedConv2d, name) for name in _DECIDES):
            raise Obstacle("decides in another way than GatedConv2d", "change its forward only")
        norm = layer.gate_norm
        if not layer.force_open and (
                type(norm) not in (nn.BatchNorm2d, nn.SyncBatchNorm) or norm.affine
                or norm.running_mean is None or norm.running_var is None
                or norm._forward_hooks or norm._forward_pre_hooks):
            raise Obstacle("has a gate_norm other than a BatchNorm2d with running statistics, "
                           "without parameters and hooks", "leave it as GatedConv2d makes it")
        return layer

    def emit(self, op: str, inputs: Sequence[Any], tensors: dict[str, Tensor] | None = None,
             keys: dict[str, str] | None = None, **options: Any) -> Moved:
        """A node for the operator that is being read."""
        shape = self._shape()
        if shape is None or not all(isinstance(value, Moved) for value in inputs):
            raise Obstacle("does not compute a value of each image", "keep the batch in front")
        names = tuple(self._value(value) for value in inputs)
        if op == "Mean":
            own = inputs[0].shape
            shape = tuple(1 if at + 1 in options["axes"] else own[at] for at in range(len(own)))
        name = self._free()
        self._add(op, names, name, self._origin(), shape, tensors, keys, options)
        return Moved.of(name, shape)

    def _shape(self) -> tuple[int, ...] | None:
        """For one image: of the first value of the operator that is being read, if each image has
        one."""
        assert self.here is not None
        value = self.here.meta.get("val")
        value = value[0] if isinstance(value, (list, tuple)) and value else value
        if not isinstance(value, Tensor) or not all(isinstance(n, int) for n in value.shape):
            return None  # a number, or as large as values of the image say
        return tuple(value.shape[1:]) if value.shape[:1] == (self.batch,) else None

    def _free(self) -> str:
        """A name that no node has, for one of the operator that is being read."""
        assert self.here is not None
        name = self.here.name
        return f"{name}.{len(self.nodes)}" if any(
            node.name == name for node in self.nodes) else name

    def _add(self, op: str, inputs: tuple[str, ...], name: str, origin: str,
             shape: tuple[int, ...], tensors: dict[str, Tensor] | None = None,
             keys: dict[str, str] | None = None, options: dict[str, Any] | None = None) -> None:
        self.nodes.append(Node(name, op, inputs, shape, origin, tensors or {}, keys or {},
                               options or {}))

    def _refuse(self, obstacle: Obstacle, inputs: Sequence[Moved | Unknown] = (),
                origin: str = "", shape: tuple[int, ...] = ()) -> Moved | Unknown:
        """A node for what no layer computes; of a shape, if not that of the operator."""
        return self._leave(UNSUPPORTED, inputs, origin, shape, what=obstacle.what,
                           hint=obstacle.hint or f"supported are {RUNS}")

    def _leave(self, op: str, inputs: Sequence[Moved | Unknown], origin: str = "",
               shape: tuple[int, ...] = (), **options: Any) -> Moved | Unknown:
        """A node of which no more is known than its shape, if it has channels of each image."""
        name, shape = self._free(), shape or self._shape() or ()
        self._add(op, tuple(part.source for part in inputs), name, origin or self._origin(), shape,
                  options=options)
        return Moved.of(name, shape) if shape else Unknown(name)

    def settle(self, moved: Moved) -> Moved:
        """The same values, where they lie, as a source."""
        return Moved.of(self._value(moved), tuple(moved.places.shape))

    def _value(self, moved: Moved) -> str:
        """Name of the node that computes moved values, which is made if there is none."""
        if moved.plain:
            return moved.source
        key = (moved.source, tuple(moved.places.shape), moved.places.numpy().tobytes())
        if key not in self._moved:
            self._moved[key] = self._make(moved)
        return self._moved[key]

    def _make(self, moved: Moved) -> str:
        assert self.here is not None
        source, shape = moved.source, tuple(moved.places.shape)
        origin, here = moved.origin or self._origin(), self.here.name

        def add(op: str, made: tuple[int, ...], **options: Any) -> str:
            name = f"{here}.{op.lower()}.{len(self.nodes)}"
            self._add(op, (source,), name, origin, made, options=options)
            return name

        flat = moved.places.flatten()
        if torch.equal(flat, torch.arange(len(flat))) and len(flat) == size_of(moved.shape):
            return add("Reshape", shape, shape=shape)
        found = selection(moved)
        if found is not None:
            channels, *lines = found
            rows, columns = (spatial_padding(own, size) for own, size in
                             zip(lines, moved.shape[1:], strict=True))
            if rows is not None and columns is not None:
                (row, top, bottom), (column, left, right) = rows, columns
                kept = (len(channels), *(-(-size // step) for size, step in
                                         zip(moved.shape[1:], (row, column), strict=True)))
                if channels != list(range(moved.shape[0])) or (row, column) != (1, 1):
                    source = add("Select", kept, channels=channels, stride=(row, column))
                if any((top, bottom, left, right)):
                    source = add("Pad", shape, padding=(top, bottom, left, right))
                return source
        what = (f"rearranges values of the shape {shape_text(moved.shape)} to "
                f"{shape_text(shape)}")
        return self._refuse(Obstacle(what, "move whole channels, or flatten"), [moved], origin,
                            shape).source

    def _path(self) -> str:
        """Path of the module that the operator belongs to."""
        assert self.here is not None
        stack = list(self.here.meta.get("nn_module_stack", {}).values())
        path = str(stack[-1][0]) if stack else ""
        return path.removeprefix("L['self'].").removeprefix("L__self__").strip(".")

    def _origin(self) -> str:
        """Path of the module, or inside it the name of the function, that the user finds."""
        assert self.here is not None
        path, name = self._path(), self.here.name
        if not path:
            return name
        module = (self.model.get_submodule(path) if isinstance(self.model, nn.Module) else None)
        single = (module is None or isinstance(module, GatedConv2d)
                  or type(module).__module__.startswith(("torch.nn.modules.", "hwgate.nn."))
                  and not any(module.children()))
        return path if single else f"{path}.{name}"


def _name(node: fx.Node) -> str:
    """Name of an operator, without its overload and namespace."""
    packet = getattr(node.target, "_schema", None)
    name = packet.name if packet is not None else getattr(node.target, "__name__", str(node.target))
    return str(name).split("::")[-1]


def _target(node: fx.Node) -> Callable[..., Any]:
    """The operator itself. Copies are left out, so values may lie where a view cannot reach."""
    target = torch.reshape if _name(node) in ("view", "_unsafe_view") else node.target
    assert callable(target)
    return target


def _same_place(node: fx.Node) -> bool:
    """Whether a value laid out anew in memory has its values where they were."""
    assert isinstance(node.args[0], fx.Node)
    before, after = node.args[0].meta["val"], node.meta["val"]
    return before.shape == after.shape and len(node.args) < 4 and all(
        old == new for size, old, new in zip(before.shape, before.stride(), after.stride(),
                                             strict=True) if size > 1)


def _copied(node: fx.Node, value: Any) -> Any:
    """Values that an operator copies, if they stay what they are."""
    kept = node.meta["val"]
    dtype = (kept[0] if isinstance(kept, (list, tuple)) else kept).dtype
    if not dtype.is_floating_point:
        raise Obstacle(f"converts values to {str(dtype).removeprefix('torch.')}",
                       "keep them floating point")
    return value


def _moved_among(args: Any) -> list[Moved | Unknown]:
    """Values that depend on the image, among arguments."""
    found: list[Moved | Unknown] = []
    fx.node.map_aggregate(
        args, lambda a: found.append(a) if isinstance(a, (Moved, Unknown)) else None)
    return found


