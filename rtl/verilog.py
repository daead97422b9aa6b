"""Verilog of an accelerator."""

from hwgate.errors import expect
from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.engine import LANE_MODULE, Engine
from hwgate.rtl.lane import Lane
from hwgate.rtl.shared import convert

__all__ = ["TOPLEVEL", "verilog"]

#: Name of the top module.
TOPLEVEL = "hwgate_top"


def verilog(config: AcceleratorConfig) -> str:
    """Verilog-2001 of the accelerator; the same text for the same configuration.

    Ports: ``clk``, ``rst`` (synchronous, active high), the AXI4 manager ``m_axi__*``, the
    AXI4-Lite subordinate ``s_axil__*``, ``irq``, and ``monitor__*``, which boards leave open.

    Raises
    ------
    UserError
        For something else than a configuration.
    """
    expect("Configuration", config, AcceleratorConfig, hint="hwgate.preset makes one")
    return convert(Lane(config), LANE_MODULE) + convert(Engine(config), TOPLEVEL)
