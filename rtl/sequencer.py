"""Sequencer: runs the layers of a program from memory."""

from amaranth import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.layouts import Opcode, descriptor_layout
from hwgate.machine.regs import ErrorCause
from hwgate.rtl.burst import request_layout
from hwgate.rtl.structs import descriptor_struct

__all__ = ["DECODE_CYCLES", "FINISH_CYCLES", "START_CYCLES", "Sequencer"]

#: Cycles from the start to the request for the first descriptor, if nothing is under way.
START_CYCLES = 3
#: Cycles from the last beat of a descriptor at the input to the start of its layer, or to done.
DECODE_CYCLES = 2
#: Cycles from the end of a layer to the request for the next descriptor.
FINISH_CYCLES = 2


class Sequencer(wiring.Component):
    """Fetches descriptors, starts layers one after another, and stops on errors.

    A start halts the requesters, lets everything that is under way on the bus end, and clears the
    datapath, whatever the program before has left there; then it fetches. An error (unknown opcode,
    another digest, an error response of the bus) does the same, and sets ``done``.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    start, program : In
        Begin with the descriptor at this address; ignored while busy.
    o : Out(stream)
        Read requests.
    valid, data, last : In
        A beat of the answers.
    finished : In
        The layer is in memory.
    read_error, write_error : In
        An error response arrived.
    quiet : In
        Nothing is under way on the bus.
    layer, begin : Out
        Descriptor of the layer that runs, and a strobe at its start.
    layer_done : Out
        Strobe after its end.
    halt, clear : Out
        Request nothing further; reset the datapath.
    starting : Out
        Until the datapath of a program has been cleared.
    busy, done, error, layers : Out
        For the registers.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "start": In(1), "program": In(32),
            "o": Out(stream.Signature(request_layout(config))),
            "valid": In(1), "data": In(config.bus.data_bits), "last": In(1), "finished": In(1),
            "read_error": In(1), "write_error": In(1), "quiet": In(1),
            "layer": Out(descriptor_struct().size), "begin": Out(1), "layer_done": Out(1),
            "halt": Out(1), "clear": Out(1), "starting": Out(1), "busy": Out(1), "done": Out(1),
            "error": Out(4), "layers": Out(32)})

    def elaborate(self, platform):
        m = Module()
        fault, fetched_fault, end, stop = Signal(4), Signal(4), Signal(), Signal()
        m.submodules.walk = ResetInserter(stop)(self._walk(fetched_fault, end))

        # A start and an error halt, and clear once nothing is under way. The first error counts.
        m.d.comb += [self.halt.eq(self.starting | (fault != 0)),
                     stop.eq(self.clear & ~self.starting)]
        m.d.sync += self.clear.eq(self.halt & self.quiet & ~self.clear)
        with m.If(self.start & ~self.busy):
            m.d.sync += [self.busy.eq(1), self.starting.eq(1), self.done.eq(0), self.error.eq(0),
                         self.layers.eq(0)]
        with m.Elif(stop | end):
            m.d.sync += [self.busy.eq(0), self.done.eq(1), self.error.eq(fault), fault.eq(0)]
        with m.Elif(self.clear):
            m.d.sync += self.starting.eq(0)
        with m.Elif(self.busy & ~self.halt):
            m.d.sync += fault.eq(Mux(self.read_error, ErrorCause.READ, Mux(
                self.write_error, ErrorCause.WRITE, fetched_fault)))
        with m.If(self.layer_done):
            m.d.sync += self.layers.eq(self.layers + 1)
        return m

    def _walk(self, fault, end):
        """One descriptor after the other; reset after an error."""
        m = Module()
        layer, size = Signal(descriptor_struct(), reset_less=True), descriptor_layout().size_bytes
        address = Signal(self.config.bus.address_bits, reset_less=True)
        m.d.comb += [self.layer.eq(layer), self.o.payload.address.eq(address),
                     self.o.payload.beats.eq(size // self.config.bus.bytes)]
        with m.FSM():
            with m.State("Idle"):
                with m.If(self.start & ~self.busy):
                    m.d.sync += address.eq(self.program)
                with m.If(self.starting & self.clear):
                    m.next = "Fetch"
            with m.State("Fetch"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "Collect"
            with m.State("Collect"):
                with m.If(self.valid):
                    m.d.sync += layer.eq(
                        Cat(layer.as_value(), self.data)[self.config.bus.data_bits:])
                    with m.If(self.last):
                        m.next = "Decode"
            with m.State("Decode"):
                m.d.sync += address.eq(address + size)
                with m.If((layer.opcode != Opcode.LAYER) & (layer.opcode != Opcode.END)):
                    m.d.comb += fault.eq(ErrorCause.OPCODE)
                    m.next = "Stop"
                with m.Elif(layer.digest != self.config.digest):
                    m.d.comb += fault.eq(ErrorCause.DIGEST)
                    m.next = "Stop"
                with m.Elif(layer.opcode == Opcode.END):
                    m.next = "End"
                with m.Else():
                    m.next = "Begin"
            with m.State("Begin"):
                m.d.comb += self.begin.eq(~self.halt)
                m.next = "Run"
            with m.State("Run"):
                with m.If(self.finished):
                    m.next = "Finish"
            with m.State("Finish"):
                m.d.comb += self.layer_done.eq(~self.halt)
                m.next = "Fetch"
            with m.State("End"):
                m.d.comb += end.eq(~self.halt)
                m.next = "Idle"
            with m.State("Stop"):
                pass  # until the error has cleared everything
        return m
