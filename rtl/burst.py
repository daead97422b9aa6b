"""Splits requests into AXI4 bursts."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.bursts import AXI_PAGE_BYTES
from hwgate.machine.config import AcceleratorConfig

from .axi import AXI_LEN_BITS

__all__ = ["BurstSplitter", "FIRST_BURST_CYCLES", "IDLE_CYCLES", "REQUEST_BEATS_BITS",
           "burst_layout", "request_layout"]

#: Cycles from accepting a request to offering its first burst.
FIRST_BURST_CYCLES = 1

#: Cycles from the handshake of a request's last burst to accepting the next request.
IDLE_CYCLES = 1

#: Bits of a request's length in beats.
REQUEST_BEATS_BITS = 16


def request_layout(config: AcceleratorConfig) -> data.StructLayout:
    """``beats`` (at least 1) whole beats from ``address`` (a multiple of a beat's bytes)."""
    return data.StructLayout({"address": config.bus.address_bits, "beats": REQUEST_BEATS_BITS})


def burst_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Address and AXI length of one burst; ``last`` marks the last one of its request."""
    return data.StructLayout({"address": config.bus.address_bits, "beats_minus_1": AXI_LEN_BITS,
                              "last": 1})


class BurstSplitter(wiring.Component):
    """Splits each request into the bursts of :func:`hwgate.machine.bursts.split_bursts`.

    The first burst is offered ``FIRST_BURST_CYCLES`` after the request was taken, each further one
    in the cycle after its predecessor was taken: one burst a cycle without back-pressure. The next
    request is taken ``IDLE_CYCLES`` after the last burst at the earliest, so a request of n bursts
    occupies the splitter for n + 1 cycles. ``i.ready`` and ``o`` depend on registers only.

    Parameters
    ----------
    config : AcceleratorConfig
        Its ``bus`` gives widths and the longest burst.

    Members
    -------
    i : In(stream.Signature(request_layout(config)))
        Requests. An empty one, or one that leaves the address space, breaks the contract.
    o : Out(stream.Signature(burst_layout(config)))
        Bursts in address order.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({"i": In(stream.Signature(request_layout(config))),
                          "o": Out(stream.Signature(burst_layout(config)))})
        bus = config.bus
        self._most = min(AXI_PAGE_BYTES // bus.bytes, bus.burst_beats)  # a power of two
        # Each less one: beats to come; most beats of the burst at hand, whatever is to come.
        self._rest = Signal(REQUEST_BEATS_BITS)
        self._room = Signal(range(self._most))

    def elaborate(self, platform):
        m = Module()
        bus = self.config.bus
        beat_bit, page_bit = (bus.bytes - 1).bit_length(), (AXI_PAGE_BYTES - 1).bit_length()
        rest, room = self._rest, self._room
        address, following = Signal(bus.address_bits), Signal(bus.address_bits)

        def room_at(start):
            low, high = start[beat_bit:page_bit][:len(room)], start[beat_bit:page_bit][len(room):]
            return ~Mux(high.all(), low, 0)

        m.d.comb += [
            following.eq(address + (room + 1 << beat_bit)),
            self.o.p.address.eq(address),
            self.o.p.last.eq(rest <= room),
            self.o.p.beats_minus_1.eq(Mux(self.o.p.last, rest, room)),
            self.i.ready.eq(~self.o.valid),
        ]
        with m.If(self.i.ready & self.i.valid):
            m.d.sync += [address.eq(self.i.p.address), rest.eq(self.i.p.beats - 1),
                         room.eq(room_at(self.i.p.address)), self.o.valid.eq(1)]
        with m.If(self.o.valid & self.o.ready):
            # Only the last burst is shorter than its room, and nothing follows it.
            m.d.sync += [address.eq(following), rest.eq(rest - room - 1),
                         room.eq(room_at(following)), self.o.valid.eq(~self.o.p.last)]
        return m
