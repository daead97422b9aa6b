"""One Verilog module for all instances of a component.

Amaranth writes every instance out as a module of its own. Converting a component once and
instantiating it keeps the Verilog short and lets a simulator compile it once.
"""

from collections.abc import Callable

from amaranth import ClockSignal, Instance, Module, ResetSignal, Value
from amaranth.back import verilog as backend
from amaranth.lib import wiring
from amaranth.lib.wiring import In

__all__ = ["SharedInstance", "convert"]


def convert(component: wiring.Component, name: str) -> str:
    """Verilog of ``component`` as module ``name``, free of file names and generated attributes."""
    return backend.convert(component, name=name, emit_src=False, strip_internal_attrs=True)


class SharedInstance(wiring.Component):
    """Stands for the component of ``make``: the same members, as an instance of module ``name``.

    The Verilog itself is added to the platform's files, if there is a platform; otherwise it must
    be put beside that of the parent.

    Parameters
    ----------
    signature : wiring.Signature
        Of the component, which is synchronous to one clock.
    make : callable
        Returns the component.
    name : str
        Module that :func:`convert` makes of it.
    reset : Value
        Resets this instance, besides the reset of its clock domain.
    """

    def __init__(self, signature: wiring.Signature, make: Callable[[], wiring.Component],
                 name: str, reset=0):
        self.make, self.name, self.reset = make, name, reset
        super().__init__(signature)

    def elaborate(self, platform):
        m = Module()
        if platform is not None:
            platform.add_file(f"{self.name}.v", convert(self.make(), self.name))
        ports = {("i_" if member.flow is In else "o_") + "__".join(map(str, path)):
                 Value.cast(value)
                 for path, member, value in self.signature.flatten(self)}
        m.submodules.instance = Instance(self.name, i_clk=ClockSignal(),
                                         i_rst=ResetSignal() | self.reset, **ports)
        return m
