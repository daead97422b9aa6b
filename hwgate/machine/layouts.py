"""Byte layouts of what the accelerator reads from memory, declared once.

The compiler packs them, the RTL turns them into structs, the documentation prints them.
All fields are little-endian and byte aligned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from hwgate.machine.config import AcceleratorConfig

__all__ = ["FIRST", "LAST", "Field", "Gated", "Layout", "Opcode", "descriptor_layout",
           "header_layout", "tiles_of"]

#: Descriptor fields with a value of their own for the first tile of a round, ``<name>_first``.
FIRST = ("pad_top", "in_stride", "in_rows", "in_skip", "early_words",
         "in_run_beats", "row_end")
#: Those with one for the last tile, ``<name>_last``, which is also that of an only tile.
LAST = (*FIRST, "images", "out_pixels", "job_outputs", "out_stride", "out_beats", "out_run_beats",
        "store_pixels", "res_stride", "res_beats", "res_run_beats", "res_words")


class Opcode(IntEnum):
    """First byte of a descriptor. Zeroed memory is no program."""

    LAYER = 1
    END = 2


class Gated(IntEnum):
    """Who decides on the pixels of a job. The jobs of a layer have no gate, or have one each, or
    are scores and the jobs that follow them."""

    NONE = 0
    OWN = 1
    SCORE = 2
    SHARED = 3


@dataclass(frozen=True)
class Field:
    """One field of a layout; ``bits`` is a multiple of eight."""

    name: str
    bits: int
    doc: str
    signed: bool = False


@dataclass(frozen=True)
class Layout:
    """A packed structure, padded with zero bytes to a multiple of ``align`` bytes."""

    name: str
    fields: tuple[Field, ...]
    align: int

    @property
    def size_bytes(self) -> int:
        """Size with padding."""
        used = sum(f.bits for f in self.fields) // 8
        return -(-used // self.align) * self.align

    def pack(self, values: Mapping[str, int]) -> bytes:
        """Bytes of a structure; fields that are not named are zero.

        Raises
        ------
        KeyError
            If a name is not a field.
        ValueError
            If a value does not fit its field; the sentence names both.
        """
        unknown = set(values) - {f.name for f in self.fields}
        if unknown:
            raise KeyError(f"The {self.name} has no field {sorted(unknown)[0]!r}; "
                           f"it has {', '.join(f.name for f in self.fields)}")
        out = bytearray()
        for f in self.fields:
            value = int(values.get(f.name, 0))
            low = -(1 << (f.bits - 1)) if f.signed else 0
            high = (1 << (f.bits - f.signed)) - 1
            if not low <= value <= high:
                raise ValueError(f"Field {f.name!r} of the {self.name} must be in "
                                 f"{low}..{high}, not {value}")
            out += value.to_bytes(f.bits // 8, "little", signed=f.signed)
        return bytes(out) + bytes(self.size_bytes - len(out))

    def unpack(self, raw: bytes) -> dict[str, int]:
        """Inverse of :meth:`pack`."""
        values, at = {}, 0
        for f in self.fields:
            size = f.bits // 8
            values[f.name] = int.from_bytes(raw[at:at + size], "little", signed=f.signed)
            at += size
        return values

    def as_markdown(self) -> str:
        """Table of byte offsets for the documentation."""
        rows, at = [], 0
        for f in self.fields:
            kind = f"{'i' if f.signed else 'u'}{f.bits}"
            rows.append(f"| {at} | `{f.name}` | {kind} | {f.doc} |")
            at += f.bits // 8
        return "\n".join(["| Byte | Field | Type | Description |", "|---|---|---|---|", *rows])


def descriptor_layout() -> Layout:
    """Descriptor of one layer; a program is a run of them that ends with ``Opcode.END``.

    Tiles come in rounds of ``round_tiles``, in which the first and the last one may differ from
    those between them: the bands of rows of an image, or all tiles of a batch, the last one with
    fewer images.
    """
    fields = (
        Field("opcode", 8, "1: run a layer, 2: end of the program"),
        Field("bank_mode", 8, "1: 1x1 kernel, the nine banks hold nine channel groups of a pixel"),
        Field("reduce", 8, "1: all pixels accumulate into one psum (folded average pooling)"),
        Field("relu", 8, "1: outputs clamp at zero"),
        Field("relu_first", 8, "1: the scaled psum clamps at zero before the residual is added"),
        Field("digest", 32, "configuration digest; another one stops the engine"),
        Field("pad", 8, "columns of padding on the left, 0..3"),
        Field("pad_top", 8, "rows of padding above the input, 0..3"),
        Field("kernel_blocks", 8, "edge of the kernel in blocks of three taps, 1..3"),
        Field("step_q", 8, "distance of neighbouring windows in window memory words,"),
        Field("step_m", 8, "... and in pixels besides"),
        Field("row_step", 16, "step_q x row_words: window memory words between rows of windows"),
        Field("tiles", 16, "tiles of the layer"),
        Field("round_tiles", 16, "tiles of a round, of which the layer has a whole number"),
        Field("images", 16, "images of a tile"),
        Field("in_address", 32, "first byte of the input feature maps"),
        Field("in_stride", 32, "bytes from one tile's input to the next one's"),
        Field("in_width", 16, "input pixels of a row"),
        Field("in_planes", 16, "channel groups of the input"),
        Field("in_rows", 16, "input rows of an image"),
        Field("in_skip", 8, "pixels that come before them in the first beat of a channel group"),
        Field("early_words", 16, "pixels of a channel group, those of in_skip among them, that "
                                 "the first row of windows needs; 65535: all of them"),
        Field("early_step", 16, "... and how many more for each further row"),
        Field("in_runs", 16, "runs of beats of a tile: 1, or one per channel group"),
        Field("in_run_stride", 32, "bytes from one run to the next"),
        Field("in_run_beats", 32, "beats of a run"),
        Field("row_end", 16, "pad_top + input rows"),
        Field("col_end", 16, "pad + input columns"),
        Field("row_words", 16, "window memory words of one row of a bank"),
        Field("image_words", 16, "window memory words of one channel group (bank mode: of nine) "
                                 "of an image"),
        Field("group_words", 16, "images x image_words: of the largest tile"),
        Field("out_width", 16, "windows of a row"),
        Field("out_pixels", 16, "windows of an image"),
        Field("job_outputs", 16, "outputs of a job: images x out_pixels, if it does not reduce"),
        Field("gate_limit", 16, "most open gates of a channel on an image that close again (tau)"),
        Field("out_channels", 16, "output channels: one job each per tile"),
        Field("slot_words", 16, "output column words of one job"),
        Field("slot_pixels", 16, "pixels that one image's words of them have room for"),
        Field("weights_address", 32, "first byte of the job of output channel 0"),
        Field("job_stride", 32, "bytes from one job to the next"),
        Field("cond_offset", 32, "bytes from a job to its conditional blocks"),
        Field("first_blocks", 16, "base blocks in a job's first request"),
        Field("first_beats", 16, "beats of a job's first request: header and first base blocks"),
        Field("kept_channels", 16, "output channels whose weights stay in the on-chip weight "
                                   "memory, from channel 0 on"),
        Field("out_address", 32, "first byte of the output feature maps"),
        Field("out_stride", 32, "bytes from one tile's output to the next one's"),
        Field("out_planes", 16, "channel groups of the output"),
        Field("out_beats", 16, "beats of an output channel group of an image"),
        Field("out_run_beats", 16, "images x out_beats: beats of a write request"),
        Field("out_plane_stride", 32, "bytes from one output channel group to the next"),
        Field("store_width", 16, "pixels of an output row, after pooling"),
        Field("store_pixels", 16, "pixels of an output channel group of an image, after pooling"),
        Field("pool_words", 16, "pool x out_width: windows of the rows that one output row pools"),
        Field("pool", 8, "edge of the max pooling window, and its stride; 1: none"),
        Field("res_planes", 16, "channel groups of the residual operand; 0: there is none"),
        Field("res_address", 32, "first byte of the residual operand"),
        Field("res_stride", 32, "bytes from one tile's residual operand to the next one's"),
        Field("res_beats", 16, "beats of a channel group of an image's residual operand"),
        Field("res_runs", 16, "runs of beats of a tile of the residual operand"),
        Field("res_run_stride", 32, "bytes from one run to the next"),
        Field("res_run_beats", 32, "beats of a run"),
        Field("res_words", 16, "pixels of a channel group of the residual operand"),
        Field("res_width", 16, "pixels of a row of the residual operand"),
        Field("res_step", 8, "1: every pixel is added, 2: those of even rows and columns"),
        Field("res_part", 8, "its first channel group's place among the groups of one slot"),
        Field("res_slot", 16, "output column word of its first channel group"),
        Field("res_group", 16, "output channel group that its first channel group is added to"),
        Field("last_channels", 8, "channels in the last output group, 1..R"),
        Field("in_chip", 8, "1: the input is in the on-chip map memory, at byte `in_address`"),
        Field("res_chip", 8, "1: so is the residual operand"),
        Field("out_chip", 8, "1: the output goes there"),
        Field("in_packed", 8, "1: the zero bytes of the input are left out in memory"),
        Field("res_packed", 8, "1: so are those of the residual operand"),
        Field("out_packed", 8, "1: so will be those of the output"),
        Field("in_entry", 16, "entry in the chunk table of the chunk of the input at address 0, "
                              "modulo the table"),
        Field("res_entry", 16, "... of the residual operand"),
        Field("out_entry", 16, "... of the output"),
    )
    bits = {field.name: field.bits for field in fields}
    own = [Field(f"{name}_{which}", bits[name], f"... of the {which} tile of a round")
           for which, names in (("first", FIRST), ("last", LAST)) for name in names]
    return Layout("layer descriptor", (*fields, *own), align=16)


def tiles_of(fields: Mapping[str, int]) -> list[Mapping[str, int]]:
    """Descriptor fields of each tile of a layer, those of the first and last tile of a round under
    their plain names."""
    own = {f"{name}_first" for name in FIRST} | {f"{name}_last" for name in LAST}
    middle = {name: value for name, value in fields.items() if name not in own}
    first = middle | {name: fields[f"{name}_first"] for name in FIRST}
    last = middle | {name: fields[f"{name}_last"] for name in LAST}
    length = fields["round_tiles"]
    tiles: list[Mapping[str, int]] = [last]
    if length > 1:
        tiles = [first, *[middle] * (length - 2), last]
    return tiles * (fields["tiles"] // length)


def header_layout(config: AcceleratorConfig) -> Layout:
    """Header of one job: all that an output channel needs besides its weights."""
    passes = config.buffers.passes
    return Layout("job header", (
        Field("threshold", 32, "the gate opens iff base psum > threshold", signed=True),
        Field("bias_closed", 32, "added to the psum of a closed pixel", signed=True),
        Field("bias_open", 32, "added to the psum of an open pixel", signed=True),
        Field("mult_closed", 16, "fixed-point scale of a closed pixel", signed=True),
        Field("mult_open", 16, "fixed-point scale of an open pixel", signed=True),
        Field("mult_residual", 16, "scale of the residual operand, in units of 2^RESIDUAL_SHIFT; "
                                   "0: none is added", signed=True),
        Field("shift", 8, "right shift of the requantizer, 1..47"),
        Field("gated", 8, "0: every pixel takes `open`; 1: the last base pass decides; 2: a score, "
                          "whose last base pass decides for the jobs behind it, and outputs "
                          "nothing; 3: the score before it has decided"),
        Field("base_blocks", 16, "weight blocks of the base path, of all groups in its bitmap"),
        Field("cond_blocks", 16, "weight blocks of the conditional path"),
        Field("base_bitmap", passes, "channel groups with base weights"),
        Field("cond_bitmap", passes, "channel groups with conditional weights"),
    ), align=config.bus.bytes)
