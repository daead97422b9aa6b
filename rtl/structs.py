"""Structs and strobes that several blocks exchange."""

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.machine.layouts import FIRST, LAST, Layout, descriptor_layout, header_layout

__all__ = ["CONTEXTS", "block_layout", "delay", "descriptor", "descriptor_struct", "event_layout",
           "header_struct", "of_tile", "pixel_layout", "place_layout", "residual_write_layout",
           "status_layout", "window_write_layout"]

#: Jobs of a lane that have partial sums and a task list at the same time.
CONTEXTS = 2


def _struct(layout: Layout) -> data.StructLayout:
    padding = 8 * layout.size_bytes - sum(f.bits for f in layout.fields)
    members = {f.name: signed(f.bits) if f.signed else unsigned(f.bits) for f in layout.fields}
    return data.StructLayout(members | ({"padding": padding} if padding else {}))


def descriptor_struct() -> data.StructLayout:
    """Layer descriptor as it lies in memory; ``first`` and ``last`` are all fields of the first and
    of the last tile of a round, see :func:`of_tile`.

    They are not structs, and descriptors travel as plain bits, for every field of a struct is two
    lines of Verilog in each module.
    """
    layout = descriptor_layout()
    bits = {f.name: f.bits for f in layout.fields}
    own = {f"{name}_{which}": bits[name] for which, names in (("first", FIRST), ("last", LAST))
           for name in names}
    members = {name: unsigned(width) for name, width in bits.items() if name not in own}
    members |= {"first": sum(bits[name] for name in FIRST),
                "last": sum(bits[name] for name in LAST)}
    return data.StructLayout(members | {"padding": 8 * layout.size_bytes - sum(bits.values())})


def descriptor(bits):
    """Fields of a layer descriptor on a port of plain bits, see :func:`descriptor_struct`."""
    return descriptor_struct()(bits)


def place_layout() -> data.StructLayout:
    """A tile's place in its round: the first one, the last one, or both, or between them."""
    return data.StructLayout({"first": 1, "last": 1})


def of_tile(layer, name: str, place):
    """A descriptor field that depends on the tile, of one at this place."""
    def own(names, bits):
        return data.StructLayout({n: layer[n].shape() for n in names})(bits)[name]

    value = layer[name]
    if name in FIRST:
        value = Mux(place.first, own(FIRST, layer.first), value)
    return Mux(place.last, own(LAST, layer.last), value)


def header_struct(config: AcceleratorConfig) -> data.StructLayout:
    """Job header as it lies in memory."""
    return _struct(header_layout(config))


def block_layout(config: AcceleratorConfig) -> data.ArrayLayout:
    """Weight block, and window: R signed bytes of each of the nine taps."""
    return data.ArrayLayout(data.ArrayLayout(signed(8), config.channels), TAPS)


def pixel_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Position of a window: its number, and its top left corner in the window memory.

    Row y and column x, counted in the padded map, are split into ``y = 3*yq + ym`` and
    ``x = 3*xq + xm``; ``ya`` is the window memory address of row group ``yq``.
    """
    words = (config.buffers.window_words - 1).bit_length()
    return data.StructLayout({
        "index": (config.buffers.pixels - 1).bit_length(),
        "yq": words, "ym": 2, "ya": words, "xq": words, "xm": 2})


def window_write_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Write of a window memory: one bit per bank, ``3*row + column``, and the address, which
    includes the half, and the word of each bank column."""
    return data.StructLayout({
        "enable": TAPS, "columns": data.ArrayLayout(data.StructLayout({
            "address": (2 * config.buffers.window_words - 1).bit_length(),
            "data": 8 * config.channels}), 3)})


def residual_write_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Write of the residual columns: one word, and the pixels of it that each lane takes."""
    pixels = config.beat_pixels
    return data.StructLayout({
        "word": (config.buffers.output_words - 1).bit_length(), "half": 1,
        "lanes": data.ArrayLayout(data.StructLayout({
            "enable": pixels, "data": data.ArrayLayout(8, pixels)}), config.lanes)})


def status_layout() -> data.StructLayout:
    """How far a lane is: complete tiles, and jobs of the next one. ``absent``: it has no job."""
    return data.StructLayout({"tile": 16, "jobs": 16, "absent": 1})


def event_layout() -> data.StructLayout:
    """Monitor event of one requantized output, or of one pixel of a score, which has the channel
    of the job behind it; the same for every configuration."""
    return data.StructLayout({"valid": 1, "channel": 16, "tile": 16, "pixel": 16,
                              "psum": signed(32), "decision": 1, "score": 1})


def delay(m: Module, value, cycles: int, *, name: str):
    """``value`` as it was ``cycles`` cycles ago; all zero after reset."""
    for stage in range(1, cycles + 1):
        after = Signal(value.shape(), name=f"{name}_{stage}")
        m.d.sync += after.eq(value)
        value = after
    return value
