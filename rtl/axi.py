"""Interfaces of the two buses: the AXI4 master to memory and the AXI4-Lite control port.

Both are flat signatures, seen from the manager: ``m_axi: Out(axi4_signature(config))`` becomes the
ports ``m_axi__awaddr``, ``m_axi__awvalid`` and so on. Names and handshakes are those of the AMBA
AXI protocol specification (ARM IHI 0022); ``lock``, ``cache``, ``prot``, ``qos`` and ``region`` of
the memory bus are absent, a wrapper ties them off.
"""

from enum import IntEnum

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig

__all__ = ["AXI_BURST_INCR", "AXI_ID_BITS", "AXI_LEN_BITS", "AXI_RESPONSE_BITS",
           "LITE_ADDRESS_BITS", "LITE_DATA_BITS", "Response", "axi4_signature",
           "axi_lite_signature"]

#: Bits of a transaction identifier; the engine leaves it zero, so answers come in order.
AXI_ID_BITS = 1

#: Bits of ``awlen`` and ``arlen``: beats of a burst, minus one.
AXI_LEN_BITS = 8

#: Bits of ``bresp`` and ``rresp``.
AXI_RESPONSE_BITS = 2

#: ``awburst`` and ``arburst`` of a burst over rising addresses, the only kind used.
AXI_BURST_INCR = 1

#: Data width of the control port; AXI4-Lite allows 32 and 64.
LITE_DATA_BITS = 32

#: Byte address width of the control port.
LITE_ADDRESS_BITS = 12


class Response(IntEnum):
    """Values of ``bresp`` and ``rresp``; bit 1 is set in every error."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


def axi4_signature(config: AcceleratorConfig) -> wiring.Signature:
    """AXI4 manager (``Out``) of ``config.bus``, with one-bit identifiers."""
    bus = config.bus
    address = {"id": (Out, AXI_ID_BITS), "addr": (Out, bus.address_bits),
               "len": (Out, AXI_LEN_BITS), "size": (Out, 3), "burst": (Out, 2)}
    return _flatten({
        "aw": address,
        "w": {"data": (Out, bus.data_bits), "strb": (Out, bus.bytes), "last": (Out, 1)},
        "b": {"id": (In, AXI_ID_BITS), "resp": (In, AXI_RESPONSE_BITS)},
        "ar": address,
        "r": {"id": (In, AXI_ID_BITS), "data": (In, bus.data_bits), "resp": (In, AXI_RESPONSE_BITS),
              "last": (In, 1)},
    })


def axi_lite_signature(address_bits: int = LITE_ADDRESS_BITS) -> wiring.Signature:
    """AXI4-Lite manager (``Out``) with 32-bit data; the subordinate holds ``In(...)`` of it."""
    address = {"addr": (Out, address_bits), "prot": (Out, 3)}
    return _flatten({
        "aw": address,
        "w": {"data": (Out, LITE_DATA_BITS), "strb": (Out, LITE_DATA_BITS // 8)},
        "b": {"resp": (In, AXI_RESPONSE_BITS)},
        "ar": address,
        "r": {"data": (In, LITE_DATA_BITS), "resp": (In, AXI_RESPONSE_BITS)},
    })


def _flatten(channels: dict[str, dict[str, tuple[wiring.Flow, int]]]) -> wiring.Signature:
    """Members ``{channel}{signal}``, with ``valid`` along the payload and ``ready`` against it."""
    members = {}
    for channel, payload in channels.items():
        for name, (flow, shape) in payload.items():
            members[f"{channel}{name}"] = flow(shape)
        members[f"{channel}valid"] = flow(1)
        members[f"{channel}ready"] = flow.flip()(1)
    return wiring.Signature(members)
