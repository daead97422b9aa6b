"""Bursts of a request on the off-chip bus: one function for the cost model and the RTL's tests."""

from hwgate.machine.config import AcceleratorConfig

__all__ = ["AXI_PAGE_BYTES", "burst_count", "split_bursts"]

#: No AXI burst may cross a multiple of this (AMBA AXI protocol specification, ARM IHI 0022).
AXI_PAGE_BYTES = 4096


def burst_count(config: AcceleratorConfig, address: int, beats: int) -> int:
    """Number of bursts of :func:`split_bursts`, at once where there is only one."""
    size = beats * config.bus.bytes
    if address % AXI_PAGE_BYTES + size <= AXI_PAGE_BYTES and beats <= config.bus.burst_beats:
        return 1
    return len(split_bursts(config, address, beats))


def split_bursts(config: AcceleratorConfig, address: int, beats: int) -> list[tuple[int, int]]:
    """Bursts that cover ``beats`` whole beats from ``address``, in address order.

    Each is as long as it may be: up to the next 4 KB boundary, at most
    ``config.bus.burst_beats``.

    Parameters
    ----------
    address : int
        First byte, a multiple of ``config.bus.bytes``.
    beats : int
        At least 1; the request ends at or below the end of the address space.

    Returns
    -------
    list of (address, beats)

    Raises
    ------
    ValueError
        If the request is empty, unaligned or leaves the address space.
    """
    size, end = config.bus.bytes, 1 << config.bus.address_bits
    if beats < 1:
        raise ValueError(f"A request must have at least 1 beat, not {beats}")
    if address % size:
        raise ValueError(f"A request must start at a multiple of {size} bytes, not at {address:#x}")
    if not 0 <= address <= end - beats * size:
        raise ValueError(f"A request of {beats} beats at {address:#x} must end by {end:#x}")
    bursts = []
    while beats:
        page_left = (AXI_PAGE_BYTES - address % AXI_PAGE_BYTES) // size
        taken = min(beats, page_left, config.bus.burst_beats)
        bursts.append((address, taken))
        address += taken * size
        beats -= taken
    return bursts
