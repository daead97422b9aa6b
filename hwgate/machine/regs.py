"""Register map of the engine, declared once.

The AXI4-Lite bank (:class:`hwgate.rtl.regs.RegisterBank`), the driver
(:mod:`hwgate.machine.driver`), the C header and the table in ``docs/registers.md`` all come from
:func:`engine_registers`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.counters import LANE_COUNTERS, STREAMS

__all__ = ["Access", "COUNTER_BITS", "ENGINE_ID", "ErrorCause", "Field", "REGISTER_BITS",
           "Register", "RegisterMap", "counter_names", "engine_registers"]

#: Width of a register, and of the bus that reads it.
REGISTER_BITS = 32

#: Width of a counter; it wraps.
COUNTER_BITS = 32

#: First register of every engine: "AGWH" in memory, "HWGA" read as a number.
ENGINE_ID = 0x4857_4741


class Access(Enum):
    """What software may do with a field."""

    RO = "ro"  # driven by the hardware; writes are ignored
    RW = "rw"  # held by the bank
    W1P = "w1p"  # writing one makes a pulse of one cycle; reads as zero


class ErrorCause(IntEnum):
    """Why the engine stopped, in ``STATUS.error``."""

    doc: str

    def __new__(cls, value: int, doc: str) -> "ErrorCause":
        cause = int.__new__(cls, value)
        cause._value_ = value
        cause.doc = doc
        return cause

    NONE = 0, "no error"
    OPCODE = 1, "a descriptor has an unknown opcode"
    READ = 2, "the memory answered a read with an error"
    WRITE = 3, "the memory answered a write with an error"
    DIGEST = 4, "the program was compiled for another configuration"


@dataclass(frozen=True)
class Field:
    """Bits of a register.

    Parameters
    ----------
    name : str
        Lower case, unique in its register.
    width : int
        Bits.
    access : Access
    doc : str
        Description for people.
    reset : int
        Value of an RW field after reset.
    constant : int, optional
        Fixed value of an RO field, which then needs no hardware to drive it.
    values : type of ErrorCause, optional
        Names of the values.
    """

    name: str
    width: int
    access: Access
    doc: str
    reset: int = 0
    constant: int | None = None
    values: type[ErrorCause] | None = None

    def __post_init__(self) -> None:
        if self.constant is not None and self.access is not Access.RO:
            raise ValueError(f"Field {self.name!r} has a constant value, so its access must be ro, "
                             f"not {self.access.value}")
        for value in (self.reset, self.constant or 0):
            if not 0 <= value < 1 << self.width:
                raise ValueError(f"Field {self.name!r} has {self.width} bits, so its value must be "
                                 f"in 0..{(1 << self.width) - 1}, not {value}")


@dataclass(frozen=True)
class Register:
    """One 32-bit word of fields, packed from bit 0 upwards."""

    name: str
    doc: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        if (used := sum(f.width for f in self.fields)) > REGISTER_BITS:
            raise ValueError(f"Register {self.name!r} has {used} bits of fields, "
                             f"but a register has {REGISTER_BITS}")
        if len({f.name for f in self.fields}) != len(self.fields):
            raise ValueError(f"Register {self.name!r} has two fields of the same name")

    def slots(self) -> Iterator[tuple[Field, int]]:
        """Each field with its lowest bit."""
        lsb = 0
        for f in self.fields:
            yield f, lsb
            lsb += f.width

    def pack(self, values: Mapping[str, int]) -> int:
        """Word with the named fields set and all others zero.

        Raises
        ------
        KeyError
            If a name is not a field; the sentence lists the fields.
        ValueError
            If a value does not fit its field.
        """
        for name in values:
            if name not in {f.name for f in self.fields}:
                raise KeyError(f"Register {self.name!r} has no field {name!r}; it has "
                               f"{', '.join(repr(f.name) for f in self.fields)}")
        word = 0
        for f, lsb in self.slots():
            value = values.get(f.name, 0)
            if not 0 <= value < 1 << f.width:
                raise ValueError(f"Field {f.name!r} of register {self.name!r} must be in "
                                 f"0..{(1 << f.width) - 1}, not {value}")
            word |= value << lsb
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """Fields of a word; inverse of :meth:`pack`."""
        return {f.name: word >> lsb & (1 << f.width) - 1 for f, lsb in self.slots()}


@dataclass(frozen=True)
class RegisterMap:
    """Registers at consecutive words from offset 0."""

    name: str
    registers: tuple[Register, ...]

    def __post_init__(self) -> None:
        if len({r.name for r in self.registers}) != len(self.registers):
            raise ValueError(f"Register map {self.name!r} has two registers of the same name")

    def __getitem__(self, name: str) -> Register:
        """Register ``name``.

        Raises
        ------
        KeyError
            If there is none; the sentence lists those there are.
        """
        return self.registers[self.offset(name) // self.step]

    @property
    def step(self) -> int:
        """Bytes from one register to the next."""
        return REGISTER_BITS // 8

    @property
    def bytes(self) -> int:
        """Size of the map; offsets from here on are unmapped."""
        return self.step * len(self.registers)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Byte offset of each register."""
        return {r.name: self.step * n for n, r in enumerate(self.registers)}

    def offset(self, name: str) -> int:
        """Byte offset of register ``name``; raises as :meth:`__getitem__`."""
        if name not in self.offsets:
            raise KeyError(f"Register map {self.name!r} has no register {name!r}; it has "
                           f"{', '.join(self.offsets)}")
        return self.offsets[name]

    def as_markdown(self) -> str:
        """Table for the documentation: one row a field."""
        rows = ["| Offset | Register | Bits | Field | Access | Reset | Description |",
                "|---|---|---|---|---|---|---|"]
        for register in self.registers:
            for f, lsb in register.slots():
                bits = f"{lsb + f.width - 1}:{lsb}" if f.width > 1 else f"{lsb}"
                start = f.reset if f.constant is None else f.constant
                meaning = "".join(f"; {v.value} {v.name}: {v.doc}" for v in f.values or ())
                rows.append(f"| `{self.offset(register.name):#05x}` | `{register.name}` | {bits} | "
                            f"`{f.name}` | {f.access.value} | `{start:#x}` | {f.doc}{meaning} |")
        return "\n".join(rows)

    def as_c_header(self) -> str:
        """C header: offsets, shifts and masks, constants and named values, as macros."""
        prefix = self.name.upper()
        lines = [f"/* Registers of the {self.name}, generated from their declaration. */",
                 f"#ifndef {prefix}_REGS_H", f"#define {prefix}_REGS_H", ""]
        for register in self.registers:
            stem = f"{prefix}_{register.name}"
            lines += [f"/* {register.doc} */",
                      f"#define {stem}_OFFSET {self.offset(register.name):#05x}u"]
            for f, lsb in register.slots():
                bits = f"{stem}_{f.name.upper()}"
                lines += [f"#define {bits}_SHIFT {lsb}",
                          f"#define {bits}_MASK {(1 << f.width) - 1 << lsb:#010x}u"]
                if f.constant is not None:
                    lines.append(f"#define {bits}_VALUE {f.constant:#010x}u")
                lines += [f"#define {bits}_{v.name} {v.value} /* {v.doc} */"
                          for v in f.values or ()]
            lines.append("")
        return "\n".join([*lines, f"#endif /* {prefix}_REGS_H */", ""])


def counter_names(config: AcceleratorConfig) -> list[str]:
    """Counters of the engine, in register order and in the order of ``monitor__counters``."""
    return ["cycles", *(f"bytes_{stream}" for stream in STREAMS),
            *(f"lane{lane}_{counter}" for lane in range(config.lanes)
              for counter in LANE_COUNTERS)]


def engine_registers(config: AcceleratorConfig) -> RegisterMap:
    """Registers of an engine; counter ``x`` is register ``X``, whose field is ``value``."""
    documents = ["Cycles from the one after the start has cleared the datapath until done.",
                 *(f"Bytes of {doc}, in whole beats." for doc in STREAMS.values()),
                 *(f"Cycles in which lane {lane} {doc}." for lane in range(config.lanes)
                   for doc in LANE_COUNTERS.values())]
    ro, rw = Access.RO, Access.RW
    return RegisterMap("hwgate", (
        Register("ID", "Tells an engine from anything else.", (
            Field("value", REGISTER_BITS, ro, "The letters HWGA", constant=ENGINE_ID),)),
        Register("DIGEST", "Configuration of the engine.", (
            Field("value", REGISTER_BITS, ro, "Configuration digest, also part of every program",
                  constant=config.digest),)),
        Register("CONTROL", "Start and interrupt.", (
            Field("start", 1, Access.W1P, "Clear counters and datapath, and run the program; "
                                          "has no effect while busy"),
            Field("irq_enable", 1, rw, "Raise the interrupt while done"))),
        Register("STATUS", "Progress.", (
            Field("busy", 1, ro, "A program is running"),
            Field("done", 1, ro, "The last program ended, with or without an error; "
                                 "cleared by the next start"),
            Field("error", 4, ro, "Why it ended", values=ErrorCause))),
        Register("PROGRAM", "Where the program is.", (
            Field("address", REGISTER_BITS, rw, "Byte address of the first descriptor"),)),
        Register("LAYERS", "Progress in layers.", (
            Field("value", REGISTER_BITS, ro, "Layers finished since the start"),)),
        *(Register(name.upper(), doc, (Field("value", COUNTER_BITS, ro, doc.rstrip(".")),))
          for name, doc in zip(counter_names(config), documents, strict=True)),
    ))
